"""Deep Shrink: the factor by which the features of a UNet are downscaled, and its fade-out.

A diffusion UNet composes images well at its trained size. Downscaling its inner features in the
early steps keeps them at that size while the image is larger.

Source: Kohya S., "Deep Shrink" (sd-scripts, November 2023), as in ComfyUI's `PatchModelAddDownscale`. The
fade follows the gradual variants of it; the automatic factor is ours.

All sizes are (height, width).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from .size import Size

# Image size divided by trained size below which a plain UNet composes well.
SMALLEST_USEFUL_RATIO = 1.25


def shrunk_size(size: Sequence[int], factor: float) -> Size:
    """Return `size` divided by `factor` and rounded, each side at least 1.

    `factor` 1 is the identity; a factor below 1 enlarges.
    """
    height, width = size
    return _shrunk_side(height, factor), _shrunk_side(width, factor)


def _shrunk_side(side: int, factor: float) -> int:
    # Multiplies by the reciprocal as the original node does, because division rounds differently.
    return max(1, round(side * (1.0 / factor)))


def faded_factor(factor: float, strength: float) -> float:
    """Return the factor at `strength`: `factor` at 1, no change (1.0) at 0, linear between."""
    return factor if strength == 1.0 else 1.0 + (factor - 1.0) * strength


def automatic_factor(latent_size: Sequence[int], trained_side: int) -> float:
    """Return the factor for a latent of any shape, or 1.0 if it is not clearly larger than a trained one.

    It gives the features the trained area: at twice the trained size the factor is 2. In wide images, objects
    are duplicated along the long side with a lower factor, and become too small for the short side with a
    much higher one (counted on the tiny models at 3:2 and 2:1, see bench/results/effect.md). Both arguments
    are in latent pixels.
    """
    ratio = math.sqrt(math.prod(latent_size)) / trained_side
    if ratio < SMALLEST_USEFUL_RATIO:
        return 1.0
    return round(ratio, 3)  # in the node's step, so it can be typed in
