"""Resampling a part of a picture as if the whole were resampled: antialiased Lanczos, as in Pillow.

One axis is a matrix of output by input pixels whose rows depend only on where an output pixel lies in the *whole*
picture. So a tile that holds all the input pixels that its outputs ask for gives them the whole picture's values, and
the enlarged picture never has to exist in one piece.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .size import Size

LOBES = 3
_BLOCK = 64  # outputs to a product: the matrix is a narrow band, and its zeros need no multiplying


@dataclass(frozen=True)
class Axis:
    """An axis of `source` pixels that becomes one of `target` pixels."""

    source: int
    target: int

    @property
    def support(self) -> float:
        """Input pixels on either side of an output pixel's centre that it is made of; 0 where nothing changes."""
        return 0.0 if self.source == self.target else LOBES * max(1.0, self.source / self.target)


def resample(pictures: Tensor, size: Size) -> Tensor:
    """Return whole pictures (…, H, W) resampled to (…, *size)."""
    for dimension, side in zip((-2, -1), size, strict=True):
        pictures = resample_axis(pictures, dimension, Axis(pictures.shape[dimension], side), 0, 0, side)
    return pictures


def resample_axis(pixels: Tensor, dimension: int, axis: Axis, first: int, low: int, high: int) -> Tensor:
    """Return output pixels `low` to `high` along `dimension` of `pixels`, whose first lies at `first` in the whole axis.

    Equal source and target give the pixels themselves. Input pixels that the outputs ask for and that are not there
    are taken as beyond the picture's end.
    """
    dimension %= pixels.dim()
    if axis.source == axis.target:
        return pixels.narrow(dimension, low - first, high - low)
    pixels = pixels.movedim(dimension, -1).float()
    blocks: list[Tensor] = []
    for start in range(low, high, _BLOCK):
        stop = min(high, start + _BLOCK)
        begin = max(first, math.floor(_centre(axis, start) - axis.support))
        end = min(
            first + pixels.shape[-1], axis.source, math.ceil(_centre(axis, stop - 1) + axis.support) + 1
        )
        weights = resample_weights(axis, begin, end, start, stop).to(pixels.device)
        blocks.append(pixels[..., begin - first : end - first] @ weights.T)
    return torch.cat(blocks, dim=-1).movedim(-1, dimension)


def resample_weights(axis: Axis, begin: int, end: int, low: int, high: int) -> Tensor:
    """Return the (high - low, end - begin) weights of input pixels for output pixels; every row sums to 1."""
    widening = max(1.0, axis.source / axis.target)
    centres = (torch.arange(low, high, dtype=torch.float64) + 0.5) * axis.source / axis.target - 0.5
    distances = (torch.arange(begin, end, dtype=torch.float64)[None] - centres[:, None]) / widening
    weights = torch.sinc(distances) * torch.sinc(distances / LOBES) * (distances.abs() < LOBES)
    return (weights / weights.sum(dim=1, keepdim=True)).float()


def _centre(axis: Axis, output: int) -> float:
    return (output + 0.5) * axis.source / axis.target - 0.5
