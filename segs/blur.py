"""Blurring a mask: the feather of a segment, with the kernel that is known for it.

A Gaussian of radius r has 2r + 1 weights and a standard deviation of 0.3 (r - 1) + 0.8, as in OpenCV and torchvision. It is separable: one
axis at a time, as products with a narrow band of weights, in blocks.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

_BLOCK = 64  # outputs to a product: the matrix is a narrow band, and its zeros need no multiplying


def blur_mask(mask: Tensor, radius: int) -> Tensor:
    """Return (h, w) blurred, with its edges repeated outwards; the mask itself at radius 0."""
    if radius < 1:
        return mask
    return blur_axis(blur_axis(mask.T, radius).T, radius)


def blur_axis(mask: Tensor, radius: int) -> Tensor:
    """Return (h, w) blurred along w, with its edges repeated outwards."""
    width = mask.shape[-1]
    padded = F.pad(mask[None], (radius, radius), mode="replicate")[0]
    blurred = torch.empty(mask.shape, dtype=mask.dtype, device=mask.device)
    for start in range(0, width, _BLOCK):
        count = min(_BLOCK, width - start)
        band = _band(radius)[:count, : count + 2 * radius].to(mask.device)
        torch.mm(padded[:, start : start + count + 2 * radius], band.T, out=blurred[:, start : start + count])
    return blurred


def gaussian_weights(radius: int) -> Tensor:
    """Return the 2 * radius + 1 weights; their sum is 1."""
    distances = torch.arange(-radius, radius + 1, dtype=torch.float64)
    weights = torch.exp(-((distances / (0.3 * (radius - 1) + 0.8)) ** 2) / 2)
    return weights / weights.sum()


@cache
def _band(radius: int) -> Tensor:
    """Return the (block, block + 2 * radius) matrix whose row i holds the weights from column i on."""
    weights = gaussian_weights(radius).float()
    band = torch.zeros(_BLOCK, _BLOCK + 2 * radius)
    for row in range(_BLOCK):
        band[row, row : row + 2 * radius + 1] = weights
    return band
