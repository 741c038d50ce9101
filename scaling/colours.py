"""Colours of images with any channels: 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def rgb(picture: Tensor, dimension: int) -> Tensor:
    """Return a view with three channels along `dimension`: grey is repeated, alpha is dropped."""
    if picture.shape[dimension] >= 3:
        return picture.narrow(dimension, 0, 3)
    shape = list(picture.shape)
    shape[dimension] = 3
    return picture.narrow(dimension, 0, 1).expand(shape)


def fill_transparent(pictures: Tensor) -> Tensor:
    """Return (B, C, H, W) with the colours of fully transparent pixels filled from nearby;
    the rest keeps its bits.

    Pull-push: the visible colours are averaged into smaller and smaller images, which fill the holes.
    """
    colours, alpha = pictures[:, :-1], pictures[:, -1:]
    seen = (alpha > 0).to(colours)
    if bool(seen.all()):
        return pictures
    return torch.cat([_filled(colours * seen, seen), alpha], dim=1)


def _filled(colours: Tensor, seen: Tensor) -> Tensor:
    height, width = colours.shape[-2:]
    if max(height, width) == 1:
        return colours
    below, weight = (
        F.avg_pool2d(part, 2, ceil_mode=True, count_include_pad=False) for part in (colours, seen)
    )
    below = _filled(below / weight.clamp(min=1e-6), (weight > 0).to(weight))
    guess = F.interpolate(below, scale_factor=2, mode="nearest")[..., :height, :width]
    return torch.where(seen > 0, colours, guess)
