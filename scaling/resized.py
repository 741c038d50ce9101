"""Resizing whole images in floating point, one at a time.

F images, C channels, H and W pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .colours import fill_transparent
from .resample import resample
from .size import Size

METHODS = ("lanczos", "nearest", "bilinear", "bicubic")


def resize_pictures(pictures: Tensor, size: Size, method: str, *, antialias: bool = True) -> Tensor:
    """Return (F, C, H, W) in [0, 1] resized to (F, C, *size) as float32; equal sizes return a copy.

    `antialias` only matters when images are reduced; Lanczos always has it. Colours of fully transparent pixels do not bleed.
    """
    result = torch.empty((len(pictures), pictures.shape[1], *size), dtype=torch.float32)
    for picture, place in zip(pictures, result, strict=True):
        picture = picture.float().cpu()
        if picture.shape[-2:] == size:
            place.copy_(picture)
            continue
        if len(picture) in (2, 4):
            picture = fill_transparent(picture[None])[0]
        place.copy_(_resized(picture, size, method, antialias).clamp_(0, 1))
    return result


def _resized(picture: Tensor, size: Size, method: str, antialias: bool) -> Tensor:
    if method == "lanczos":
        return resample(picture, size)
    if method == "nearest":
        return F.interpolate(picture[None], size, mode="nearest-exact")[0]
    shrinks = size[0] < picture.shape[-2] or size[1] < picture.shape[-1]
    # Where nothing shrinks both mean the same, but PyTorch's bicubic has another kernel for each.
    return F.interpolate(picture[None], size, mode=method, antialias=antialias or not shrinks)[0]
