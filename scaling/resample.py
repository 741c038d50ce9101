"""Resampling a part of an image as if the whole were resampled: antialiased Lanczos, as in Pillow.

One axis is a matrix (output pixels, input pixels) whose rows depend only on the position of an output pixel
in the *whole* image. So a tile with all input pixels that its outputs need gives the values of the whole
image, and the enlarged image never has to exist in one piece.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..record import record
from .size import Size

LOBES = 3
_BLOCK = 32  # outputs to a product: the matrix is a narrow band, and its zeros need no multiplying


@record
class Axis:
    """An axis of `source` pixels that becomes one of `target` pixels."""

    source: int
    target: int

    @property
    def support(self) -> float:
        """Input pixels on each side of an output pixel's centre that contribute to it;
        0 if nothing changes.
        """
        return 0.0 if self.source == self.target else LOBES * max(1.0, self.source / self.target)


def resample(pictures: Tensor, size: Size) -> Tensor:
    """Return whole images (…, H, W) resampled to (…, *size)."""
    for dimension, side in zip((-2, -1), size, strict=True):
        pictures = resample_axis(pictures, dimension, Axis(pictures.shape[dimension], side), 0, 0, side)
    return pictures


def resample_axis(pixels: Tensor, dimension: int, axis: Axis, first: int, low: int, high: int) -> Tensor:
    """Return output pixels `low` to `high` along `dimension` of `pixels`,
    whose first lies at `first` in the whole axis.

    Equal source and target return the pixels unchanged. Missing input pixels count as beyond the image's
    edge.
    """
    if axis.source == axis.target:
        return pixels.narrow(dimension, low - first, high - low)
    bands = resample_bands(axis, first, pixels.shape[dimension], low, high)
    return apply_bands(
        pixels, dimension, [replace(band, weights=band.weights.to(pixels.device)) for band in bands]
    )


@record
class Band:
    """The `weights` (outputs, inputs) of some neighbouring output pixels,
    for the inputs from `begin` of a tile.
    """

    begin: int
    weights: Tensor


def resample_bands(axis: Axis, first: int, length: int, low: int, high: int) -> list[Band]:
    """Return the weights of output pixels `low` to `high`,
    in a tile of `length` input pixels from `first` of the axis.

    The result is empty if source and target are equal.
    """
    if axis.source == axis.target:
        return []
    bands: list[Band] = []
    for start in range(low, high, _BLOCK):
        stop = min(high, start + _BLOCK)
        begin = max(first, math.floor(_centre(axis, start) - axis.support))
        end = min(first + length, axis.source, math.ceil(_centre(axis, stop - 1) + axis.support) + 1)
        bands.append(Band(begin - first, resample_weights(axis, begin, end, start, stop)))
    return bands


def apply_bands(pixels: Tensor, dimension: int, bands: Sequence[Band]) -> Tensor:
    """Return the output pixels of all bands along one of the last two dimensions of a tile, in float32."""
    pixels, down = pixels.float(), dimension in (-2, pixels.dim() - 2)
    seen = [pixels.narrow(dimension, band.begin, band.weights.shape[1]) for band in bands]
    # Neither needs its pixels in another order.
    parts = [
        band.weights @ part if down else part @ band.weights.T for band, part in zip(bands, seen, strict=True)
    ]
    return torch.cat(parts, dim=dimension)


def resample_weights(axis: Axis, begin: int, end: int, low: int, high: int) -> Tensor:
    """Return the (high - low, end - begin) weights of input pixels for output pixels; every row sums to 1."""
    widening = max(1.0, axis.source / axis.target)
    centres = (torch.arange(low, high, dtype=torch.float64) + 0.5) * axis.source / axis.target - 0.5
    distances = (torch.arange(begin, end, dtype=torch.float64)[None] - centres[:, None]) / widening
    weights = torch.sinc(distances) * torch.sinc(distances / LOBES) * (distances.abs() < LOBES)
    return (weights / weights.sum(dim=1, keepdim=True)).float()


def _centre(axis: Axis, output: int) -> float:
    return (output + 0.5) * axis.source / axis.target - 0.5
