"""Giving refined segments back to the picture.

Independent segments were all cut from the same picture. Where their weights w add up to more than 1 they are shared out:

    picture + sum of w_i (refined_i - picture) / max(1, sum of w_j)

Every addend is rounded to a multiple of 2^-23, and so is the picture under it: such numbers add up without error, so the sum does not depend on
the order, on the batching, or on which worker added what. Pixels of weight 0 keep their bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .box import Box

GRID = float(2**23)  # steps to 1: float32 holds all their multiples up to 2


def add_segment(
    picture: Tensor, box: Box, refined: Tensor, base: Tensor, weight: Tensor, total: Tensor | None = None
) -> None:
    """Add a segment to its share of `picture` (H, W, C) in place.

    `refined` and `base` (h, w, C) are the segment and what it was cut from, `weight` (h, w) its own, `total` all the weights there
    if others overlap it. All of them cover `box`, which may reach beyond the picture.
    """
    part = _part(picture, box, weight)
    if not part.area:
        return
    inside = part.within(box)
    share = weight[inside.rows, inside.columns]
    if total is not None:
        share = share / total[inside.rows, inside.columns].clamp(min=1)
    change = refined[inside.rows, inside.columns] - base[inside.rows, inside.columns]
    change.mul_((share * GRID)[..., None]).round_()
    old = picture[part.rows, part.columns]
    new = (old * GRID).round_().add_(change).mul_(1 / GRID)
    old.copy_(torch.where((share > 0)[..., None], new, old))


def paste_segment(picture: Tensor, box: Box, refined: Tensor, weight: Tensor) -> None:
    """Lay a segment over `picture` (H, W, C) in place, as it is now. Arguments as in `add_segment`."""
    part = _part(picture, box, weight)
    if not part.area:
        return
    inside = part.within(box)
    share = weight[inside.rows, inside.columns][..., None]
    old = picture[part.rows, part.columns]
    new = torch.lerp(old, refined[inside.rows, inside.columns], share)
    old.copy_(torch.where(share > 0, new, old))


def merge_results(picture: Tensor, results: Sequence[Tensor], tolerance: float = 0.0) -> Tensor:
    """Return (H, W, C) with all that several workers changed in copies of `picture`, each by its own segments.

    The same bits as one worker's result, if they used `add_segment`. Differences up to `tolerance` are taken as none: for workers that
    send pictures of 8 bits.
    """
    changes = torch.zeros_like(picture)
    touched = torch.zeros_like(picture, dtype=torch.bool)
    grid = (picture * GRID).round_()
    for result in results:
        changed = (result - picture).abs() > tolerance if tolerance else result != picture
        changes += torch.where(changed, (result * GRID).round_().sub_(grid), 0)
        touched |= changed
    return torch.where(touched, (grid + changes).mul_(1 / GRID), picture)


def _part(picture: Tensor, box: Box, weight: Tensor) -> Box:
    """Return the least box in the picture that holds all of the weight."""
    rows, columns = weight.amax(dim=1).nonzero(), weight.amax(dim=0).nonzero()
    if not len(rows):
        return Box(0, 0, 0, 0)
    held = Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)
    return held.moved(box.top, box.left).clamped((picture.shape[0], picture.shape[1]))
