"""Pasting refined segments into the image.

Independent segments were all cropped from the same image. Where the weights w of several add up to more than
1, they are normalised:

    image + sum of w_i (refined_i - image) / max(1, sum of w_j)

Every addend is rounded to a multiple of 2^-23, and so is the image under it: such numbers add up without
error, so the sum does not depend on the order, the batching, or the division between workers. Pixels of
weight 0 keep their bits.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..scaling.box import Box

GRID = float(2**23)  # steps to 1: float32 holds all their multiples up to 2
STRIP = 2**15  # pixels


def paste_segment(picture: Tensor, box: Box, refined: Tensor, weight: Tensor) -> None:
    """Blend a segment over the current `picture` (H, W, C) in place;
    where the weight is 1, it is the segment.

    `refined` (h, w, C) and `weight` (h, w) cover `box`, which may extend beyond the image.
    """
    part = _part(picture, box, weight)
    if part.area:
        inside = part.within(box)
        share = weight[inside.rows, inside.columns][..., None]
        picture[part.rows, part.columns].lerp_(refined[inside.rows, inside.columns], share)


def add_segment(
    picture: Tensor, box: Box, refined: Tensor, base: Tensor, weight: Tensor, total: Tensor
) -> None:
    """Add a segment's share to `picture` (H, W, C) in place.

    `base` (h, w, C) is the crop before refining, `total` (h, w) the sum of all weights there; the others as
    in `paste_segment`.
    """
    for part in _strips(_part(picture, box, weight)):
        inside = part.within(box)
        share = weight[inside.rows, inside.columns] / total[inside.rows, inside.columns].clamp(min=1)
        change = refined[inside.rows, inside.columns] - base[inside.rows, inside.columns]
        change.mul_((share * GRID)[..., None]).round_()
        old = picture[part.rows, part.columns]
        new = (old * GRID).round_().add_(change).mul_(1 / GRID)
        torch.where((share > 0)[..., None], new, old, out=old)


def _strips(box: Box) -> Iterator[Box]:
    """Yield a box in strips that are small enough for the processor's cache."""
    height, width = box.size
    step = max(1, STRIP // max(1, width))
    for top in range(box.top, box.top + height, step):
        yield Box(top, box.left, min(box.bottom, top + step), box.right)


def _part(picture: Tensor, box: Box, weight: Tensor) -> Box:
    """Return the smallest box in the image that contains all of the weight."""
    rows, columns = weight.amax(dim=1).nonzero(), weight.amax(dim=0).nonzero()
    if not len(rows):
        return Box(0, 0, 0, 0)
    held = Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)
    return held.moved(box.top, box.left).clamped((picture.shape[0], picture.shape[1]))
