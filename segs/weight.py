"""The weight of a refined segment in each pixel."""

from __future__ import annotations

import torch
from torch import Tensor

from ..scaling.box import Box
from ..scaling.size import Size
from .blur import blur_mask
from .crop import crop_resized
from .scipy_images import ndimage


def place_mask(mask: Tensor, region: Box, crop: Box) -> Tensor:
    """Return a mask (h, w) of `region` as a mask of `crop`: 0 outside the region."""
    placed = mask.new_zeros(crop.size)
    inside = region.shared(crop)
    if inside.area:
        place = inside.within(crop)
        placed[place.rows, place.columns] = crop_resized(mask, region.size, inside.within(region))
    return placed


def feather_mask(mask: Tensor, crop: Box, size: Size, feather: int) -> Tensor:
    """Return the weights (h, w) to paste a segment with: its mask blurred by `feather` pixels,
    fading out towards the crop's edges.

    The fade, 2 * feather pixels long, hides the edge of a mask that fills its crop: 3t^2 - 2t^3, which begins
    and ends without a kink. There is no fade where the crop ends with the image. Two crops that overlap by
    its length add up to 1. 0 returns the mask unchanged.
    """
    if feather < 1:
        return mask
    inner = crop.top > 0, crop.bottom < size[0], crop.left > 0, crop.right < size[1]
    rows = _fade(mask.shape[0], 2 * feather, *inner[:2])
    columns = _fade(mask.shape[1], 2 * feather, *inner[2:])
    return blur_mask(mask, feather) * rows[:, None] * columns


def fade_inwards(filled: Tensor, feather: int) -> Tensor:
    """Return weights (h, w) that rise as in `feather_mask` with the distance from what is not filled (h, w)."""
    if feather < 1 or bool(filled.all()):
        return filled.float()
    distance = torch.as_tensor(ndimage().distance_transform_edt(filled.numpy())).float()
    return _smooth(distance / (2 * feather + 1))


def _fade(length: int, extent: int, at_start: bool, at_end: bool) -> Tensor:
    extent = min(extent, length // 2)
    steps = torch.arange(1, length + 1, dtype=torch.float32) / (extent + 1)
    ones = torch.ones(length)
    rising = torch.minimum(steps, ones) if at_start else ones
    return _smooth(torch.minimum(rising, steps.flip(0)) if at_end else rising)


def _smooth(share: Tensor) -> Tensor:
    share = share.clamp(max=1)
    return share * share * (3 - 2 * share)
