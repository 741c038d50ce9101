"""Making segments: from a mask, from tiles, from boxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ..scaling.box import Box
from ..scaling.grow import enlarge_box, fit_box
from ..scaling.size import Size
from .crop import crop_resized
from .scipy_images import ndimage
from .segment import SEG

EVERY_SIDE = np.ones((3, 3), dtype=bool)  # pixels that touch at a corner belong together


def mask_segments(
    mask: Tensor,
    *,
    combined: bool = False,
    crop_factor: float = 3.0,
    bbox_fill: bool = False,
    drop_size: int = 10,
    contour_fill: bool = False,
    label: str = "mask",
) -> list[SEG]:
    """Return a segment for each connected part of a mask (H, W) from 0 to 1, largest first.

    Soft edges stay soft.

    `combined` makes one segment of all parts, `crop_factor` is the crop size relative to the part,
    `bbox_fill` uses the whole box of a part, `drop_size` drops parts whose shorter side is below it,
    `contour_fill` fills holes.
    """
    values = mask.float().cpu()
    present = values > 0
    if contour_fill:
        filled = torch.as_tensor(ndimage().binary_fill_holes(present.numpy()))
        values, present = torch.where(filled & ~present, 1.0, values), filled
    labelled = present.int() if combined else _labelled(present)
    segments: list[SEG] = []
    for number, box in enumerate(_boxes(labelled), start=1):
        if min(box.size) < drop_size:
            continue

        def own(crop: Box, number: int = number) -> Tensor:
            part = labelled[crop.rows, crop.columns] == number
            return values[crop.rows, crop.columns] * part

        size = mask.shape[0], mask.shape[1]
        segments.append(box_segment(box, size, crop_factor, None if bbox_fill else own, label))
    return sorted(segments, key=lambda segment: -float(segment.cropped_mask.sum()))


def tile_segments(size: Size, tile: int, overlap: int, mask: Tensor | None = None) -> list[SEG]:
    """Return equal square tiles that cover an image, overlapping by at least `overlap` pixels, row by row.

    If a side is shorter than `tile`, tiles have that side. With a `mask` (…, h, w) of any size, only tiles
    that touch it, each with its part.
    """
    (rows, height), (columns, width) = (_tile_axis(length, tile, overlap) for length in size)
    boxes = [Box(top, left, top + height, left + width) for top in rows for left in columns]
    part = None if mask is None else _part_of(mask, size)
    segments = [box_segment(box, size, 1.0, part, "tile") for box in boxes]
    return [segment for segment in segments if segment.cropped_mask.any()]


def box_segment(
    box: Box,
    size: Size,
    crop_factor: float,
    part: Callable[[Box], Tensor] | None = None,
    label: str = "",
    confidence: float = 1.0,
) -> SEG:
    """Return a segment for `box`; its mask (h, w) is the whole box, or what `part` returns for a box."""
    crop = fit_box(enlarge_box(box, crop_factor), size)
    mask = (part or box_part(box))(crop)
    return SEG(None, np.array(mask), confidence, _corners(crop), _corners(box), label)


def box_part(box: Box) -> Callable[[Box], Tensor]:
    """Return a function that returns the mask (h, w) of `box` over another box."""

    def part(crop: Box) -> Tensor:
        mask = torch.zeros(crop.size)
        inside = box.shared(crop).within(crop)
        mask[inside.rows, inside.columns] = 1
        return mask

    return part


def ellipse_part(box: Box) -> Callable[[Box], Tensor]:
    """Return a function that returns the mask (h, w) of the ellipse in `box` over another box."""
    height, width = box.size

    def part(crop: Box) -> Tensor:
        rows = torch.arange(crop.top, crop.bottom) + 0.5 - (box.top + box.bottom) / 2
        columns = torch.arange(crop.left, crop.right) + 0.5 - (box.left + box.right) / 2
        return ((2 * rows[:, None] / height) ** 2 + (2 * columns / width) ** 2 <= 1).float()

    return part


def _part_of(mask: Tensor, size: Size) -> Callable[[Box], Tensor]:
    """Return a function that crops a box from a mask (…, h, w) over an image of `size`."""
    whole = mask.reshape(-1, *mask.shape[-2:]).amax(dim=0).float().cpu()
    return lambda crop: crop_resized(whole, size, crop)


def _labelled(present: Tensor) -> Tensor:
    """Return (H, W) with a different number above 0 in each connected part."""
    labelled, _ = ndimage().label(present.numpy(), structure=EVERY_SIDE)
    return torch.as_tensor(labelled)


def _boxes(labelled: Tensor) -> list[Box]:
    """Return the box of each number from 1 on."""
    found = ndimage().find_objects(labelled.numpy())
    return [Box(rows.start, columns.start, rows.stop, columns.stop) for rows, columns in found]


def _corners(box: Box) -> tuple[int, int, int, int]:
    return box.left, box.top, box.right, box.bottom


def _tile_axis(length: int, tile: int, overlap: int) -> tuple[Sequence[int], int]:
    """Return the evenly spaced starts of tiles, and their length."""
    if tile >= length:
        return [0], length
    count = -(-(length - overlap) // max(1, tile - overlap))
    return [round(number * (length - tile) / (count - 1)) for number in range(count)], tile
