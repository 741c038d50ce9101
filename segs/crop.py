"""Cropping a box from an image, or from data that covers the image at another resolution."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..record import record
from ..scaling.box import Box
from ..scaling.size import Size


@record
class Crop:
    """A box of one frame."""

    box: Box
    frame: int = 0


def crop_picture(picture: Tensor, box: Box) -> Tensor:
    """Return the pixels of (H, W, C) in `box` as a copy (h, w, C);
    outside the image its edges are repeated.
    """
    inside = box.clamped((picture.shape[0], picture.shape[1]))
    pixels = picture[inside.rows, inside.columns]
    if inside == box:
        return pixels.clone()
    sides = (
        inside.left - box.left,
        box.right - inside.right,
        inside.top - box.top,
        box.bottom - inside.bottom,
    )
    return F.pad(pixels.movedim(-1, 0)[None], sides, mode="replicate")[0].movedim(0, -1)


def crop_resized(field: Tensor, size: Size, box: Box, cell: int = 1) -> Tensor:
    """Return `box` of `field` (…, h, w), as if all of `field` were resized to an image
    of `size`: (…, *box.size).

    Bilinear, as `torch.nn.functional.interpolate`; edges are repeated beyond the ends. Only the box is
    computed; a field of that size is only cropped. With a `cell`, the result has one value for each square of
    `cell` pixels: for latents.
    """
    rows = _crop_axis(field, -2, size[0], box.top, box.bottom, cell)
    return _crop_axis(rows, -1, size[1], box.left, box.right, cell)


def fit_aspect(field: Tensor, size: Size) -> Tensor:
    """Return the centre of (…, h, w) with the aspect ratio of `size`,
    as the host crops an image of another shape.
    """
    height, width = field.shape[-2:]
    surplus_rows = max(0.0, height - width * size[0] / size[1])
    surplus_columns = max(0.0, width - height * size[1] / size[0])
    top, left = round(surplus_rows / 2), round(surplus_columns / 2)
    return field[..., top : height - top, left : width - left]


def _crop_axis(field: Tensor, dimension: int, length: int, low: int, high: int, cell: int) -> Tensor:
    source = field.shape[dimension]
    if source * cell == length and low >= 0 and high <= length and low % cell == 0 == high % cell:
        return field.narrow(dimension, low // cell, (high - low) // cell)
    middles = (
        low + (torch.arange((high - low) // cell, device=field.device, dtype=torch.float64) + 0.5) * cell
    )
    centres = middles.clamp(0.5 * cell, length - 0.5 * cell) * (source / length) - 0.5
    centres = centres.clamp(0, source - 1)
    before = centres.floor().long()
    after = (before + 1).clamp(max=source - 1)
    shape = [1] * field.dim()
    shape[dimension] = -1
    share = (centres - before).to(field.dtype if field.is_floating_point() else torch.float32).view(shape)
    first, second = field.index_select(dimension, before), field.index_select(dimension, after)
    return first + (second - first) * share
