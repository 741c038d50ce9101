"""RAU-Net: the sizes of its two rescalings, and their published schedule.

One runs a Downsample convolution with twice its stride, on the same weights; the other averages the features
after an attention block over small rectangles. Both give the deep features of a large image the UNet's
trained size.

Source: HiDiffusion (arXiv 2311.17528v2), section 3.2 and appendix, and the schedule of its reference code.

All sizes are (height, width). B C H W are batch, channels, height, width of the features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from ..record import record
from .size import Size

STRIDE = 4
Kind = Literal["sd", "sdxl"]
Span = tuple[float, float]


def dilated_convolution(features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Apply a 3x3 Downsample kernel with stride 4: (B, C, H, W) -> (B, C', ceil(H / 4), ceil(W / 4)).

    With dilation 2, the nine taps cover the same share of an image of twice the side as they did with
    dilation 1.
    """
    return F.conv2d(features, weight, bias, stride=STRIDE, padding=2, dilation=2)


def dilated_size(size: Sequence[int]) -> Size:
    """Return the size of `dilated_convolution`'s result."""
    height, width = size
    return -(-height // STRIDE), -(-width // STRIDE)


def pooled_size(size: Sequence[int], factors: Sequence[float], increment: int = 1) -> Size:
    """Return `size` divided by `factors`, rounded down to multiples of `increment`.

    A side is at least `increment`; a factor of at least 1 never enlarges it, and one below 1 never reduces
    it.
    """
    height, width = (_pooled_side(*side, increment) for side in zip(size, factors, strict=True))
    return height, width


def _pooled_side(side: int, factor: float, increment: int) -> int:
    target = max(increment, int(side / increment // factor) * increment)
    return min(side, target) if factor >= 1 else max(side, target)


def averaging_kernel(size: Sequence[int], target: Sequence[int]) -> Size:
    """Return the kernel of `F.avg_pool2d` that gives `target` for features of `size`,
    or the nearest size above it.
    """
    height, width = (max(1, side // aim) for side, aim in zip(size, target, strict=True))
    return height, width


def averaged_size(size: Sequence[int], kernel: Sequence[int], ceil: bool = True) -> Size:
    """Return the result size of `F.avg_pool2d` with `kernel`: rounded up with `ceil`, else down."""
    height, width = (
        -(-side // step) if ceil else side // step for side, step in zip(size, kernel, strict=True)
    )
    return height, width


@record
class Phases:
    """Shares of the executed steps in which each rescaling is on; (0, 0) is never."""

    dilated: Span
    pooled: Span


NEVER: Span = (0.0, 0.0)

# The shorter side of a latent from which the larger class applies: four times the trained size.
LARGE_SIDE: dict[Kind, int] = {"sd": 256, "sdxl": 512}
AGGRESSIVE_SHARE = 8 / 50  # the reference gives it as 8 steps of 50


def published_phases(
    kind: Kind, latent_size: Sequence[int], *, turbo: bool = False, control: bool = False
) -> Phases:
    """Return when the rescalings of the reference code are on.

    Args:
        kind: "sd" for SD 1.x and 2.x, or "sdxl".
        latent_size: of the image; at four times the trained size and above, the shares of the larger class
            apply.
        turbo: SDXL-Turbo, which uses the pooling only.
        control: whether a ControlNet is used; it lengthens SDXL's smaller class.
    """
    large = min(latent_size) >= LARGE_SIDE[kind]
    if kind == "sd":
        return Phases(dilated=(0.0, 0.7), pooled=(0.0, 0.3)) if large else Phases((0.0, 0.4), NEVER)
    if turbo:
        return Phases(NEVER, (0.0, 0.5))
    if large:
        return Phases(dilated=(0.0, 0.3), pooled=(0.0, 0.7))
    return Phases(dilated=(0.0, AGGRESSIVE_SHARE), pooled=(AGGRESSIVE_SHARE, 0.5 if control else 0.4))
