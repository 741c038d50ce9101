"""Blurring a mask: the feather of a segment, with the usual kernel.

A Gaussian of radius r has 2r + 1 weights and a standard deviation of 0.3 (r - 1) + 0.8, as in OpenCV and
torchvision. It is separable: one axis at a time, as products with a narrow band of weights, in blocks.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

ALL_ONES = 1 - 1e-6  # sums of weights round off
_BLOCK = 32  # outputs to a product: the matrix is a narrow band, and its zeros need no multiplying


def blur_mask(mask: Tensor, radius: int) -> Tensor:
    """Return (h, w) blurred, with its edges repeated outwards; the mask itself at radius 0.

    A constant mask stays constant.
    """
    if radius < 1:
        return mask
    rows, columns = torch.empty_like(mask), torch.empty_like(mask)
    for start, stop, low, high, band in _bands(mask.shape[0], radius):
        torch.mm(band, mask[low:high], out=rows[start:stop])
    for start, stop, low, high, band in _bands(mask.shape[1], radius):
        torch.mm(rows[:, low:high], band.T, out=columns[:, start:stop])
    return columns.masked_fill_(columns > ALL_ONES, 1.0)


def gaussian_weights(radius: int) -> Tensor:
    """Return the 2 * radius + 1 weights; their sum is 1."""
    distances = torch.arange(-radius, radius + 1, dtype=torch.float64)
    weights = torch.exp(-((distances / (0.3 * (radius - 1) + 0.8)) ** 2) / 2)
    return weights / weights.sum()


@lru_cache(maxsize=64)
def _bands(length: int, radius: int) -> list[tuple[int, int, int, int, Tensor]]:
    """Return, block by block, which outputs (start, stop) follow from which inputs
    (low, high), and their weights.
    """
    weights = gaussian_weights(radius)
    bands: list[tuple[int, int, int, int, Tensor]] = []
    for start in range(0, length, _BLOCK):
        stop = min(length, start + _BLOCK)
        low, high = max(0, start - radius), min(length, stop + radius)
        places = torch.arange(start, stop)[:, None] + torch.arange(-radius, radius + 1)
        band = torch.zeros(stop - start, high - low, dtype=torch.float64)
        # Beyond the ends an edge is repeated: its weights add up on it.
        band.scatter_add_(1, places.clamp(0, length - 1) - low, weights.expand(stop - start, -1).contiguous())
        bands.append((start, stop, low, high, band.float()))
    return bands
