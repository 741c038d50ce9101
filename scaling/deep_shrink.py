"""Deep Shrink: how far the features of a UNet shrink, and when the shrinking fades.

A diffusion UNet composes a picture well at the size that it was trained for. Shrinking its inner features in the
early steps keeps them at that size while the picture itself is larger.

Source: Kohya S., "Deep Shrink" (sd-scripts, November 2023), as in ComfyUI's `PatchModelAddDownscale`. The
fade follows the gradual variants of it; the automatic factor and the low pass are ours.

All sizes are (height, width).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from .size import Size

# Picture side to trained side below which a plain UNet still composes well, and resampling would only cost sharpness.
SMALLEST_USEFUL_RATIO = 1.25

# Side of the shrunken features in trained sides. At 1 several objects become a sixth too many, here as many as asked.
FEATURES_SIDE = 15 / 16

BACK_PROJECTIONS = 2


def shrunk_size(size: Sequence[int], factor: float) -> Size:
    """Return `size` divided by `factor` and rounded, each side at least 1.

    `factor` 1 is the identity; a factor below 1 enlarges.
    """
    height, width = size
    return _shrunk_side(height, factor), _shrunk_side(width, factor)


def _shrunk_side(side: int, factor: float) -> int:
    # The product with the reciprocal, not the quotient: they round differently, and the original node multiplies.
    return max(1, round(side * (1.0 / factor)))


def faded_factor(factor: float, strength: float) -> float:
    """Return the factor at `strength`: `factor` at 1, no change (1.0) at 0, linear between."""
    return factor if strength == 1.0 else 1.0 + (factor - 1.0) * strength


def automatic_factor(latent_size: Sequence[int], trained_side: int) -> float:
    """Return the factor for a latent of any shape, or 1.0 if it is not clearly larger than a trained one.

    It brings the features a little below the trained area. In wide pictures objects double along the long side with less,
    and become too small for the short side with much more; several objects keep their number (counted on the tiny models at 3:2 and
    2:1 and with several objects, see bench/results/effect.md). Both arguments are in latent pixels.
    """
    ratio = math.sqrt(math.prod(latent_size)) / trained_side
    if ratio < SMALLEST_USEFUL_RATIO:
        return 1.0
    return round(ratio / FEATURES_SIDE, 3)  # in the node's step, so it can be typed in


def low_passed(latent: Tensor, factor: float) -> Tensor:
    """Return a latent (B, C, H, W) without detail that a grid `factor` times as coarse cannot show.

    What the grid can show stays nearly as it is: an enlargement alone would blur it, so what its own averages lack is added.
    That is iterative back-projection (Irani and Peleg, 1991, "Improving resolution by image registration").
    """
    size, coarse = latent.shape[-2:], shrunk_size(latent.shape[-2:], factor)
    grid = F.interpolate(latent, coarse, mode="area")
    shown = F.interpolate(grid, size, mode="bicubic")
    for _ in range(BACK_PROJECTIONS):
        shown = shown + F.interpolate(grid - F.interpolate(shown, coarse, mode="area"), size, mode="bicubic")
    return shown
