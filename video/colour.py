"""From RGB to the numbers in a video file: Y'CbCr of any matrix and range, 4:2:0,
4:2:2 or 4:4:4, or RGB itself.

Written out here because the usual converter (swscale) is up to 4 steps off in 10 bits, and wrong at the right
edge of images whose width is no multiple of 32. Numbers are those of ITU-T H.273, as FFmpeg has them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..record import record

RGB_MATRIX, BT709, UNSPECIFIED, SMPTE170M = 0, 1, 2, 6
LIMITED, FULL = 1, 2
HD_HEIGHT = 720  # from which on players take an untagged video as BT.709, below as BT.601

# Shares of red and blue in luma.
WEIGHTS = {
    1: (0.2126, 0.0722),  # BT.709
    4: (0.30, 0.11),  # FCC
    5: (0.299, 0.114),  # BT.601 625
    6: (0.299, 0.114),  # BT.601 525
    7: (0.212, 0.087),  # SMPTE 240M
    9: (0.2627, 0.0593),  # BT.2020
}


@record
class Colour:
    """The meaning of the numbers in a file as colours.

    Attributes:
        matrix, primaries, transfer: as in H.273; 2 is unspecified.
        range: 0 unspecified (limited), 1 limited (16 to 235), 2 full (0 to 255).
    """

    matrix: int = BT709
    range: int = LIMITED
    primaries: int = BT709
    transfer: int = BT709

    @property
    def weights(self) -> tuple[float, float]:
        """Shares of red and blue in luma; an unspecified matrix is decoded as BT.601."""
        return WEIGHTS.get(self.matrix, WEIGHTS[SMPTE170M])

    def for_result(self, source_height: int) -> Colour:
        """Return the tags for the enlarged video.

        RGB becomes BT.709. A small untagged video is tagged as BT.601, as players assume: enlarged and
        untagged, players would assume BT.709, with other colours.
        """
        if self.matrix == RGB_MATRIX:
            return Colour()
        if self.matrix == UNSPECIFIED and source_height < HD_HEIGHT:
            return replace(self, matrix=SMPTE170M)
        return self


BT709_COLOUR = Colour()


@record
class Pixels:
    """A pixel format of a file.

    Attributes:
        name: FFmpeg's.
        bits: of one colour of one pixel.
        shrink: how many rows and columns share one pair of colour differences; None is RGB.
    """

    name: str
    bits: int
    shrink: tuple[int, int] | None


PIXELS = {
    pixels.name: pixels
    for pixels in (
        Pixels("yuv420p", 8, (2, 2)),
        Pixels("yuv420p10le", 10, (2, 2)),
        Pixels("yuv422p10le", 10, (1, 2)),
        Pixels("bgr0", 8, None),
        Pixels("gbrp10le", 10, None),
    )
}


def to_planes(picture: Tensor, pixels: Pixels, colour: Colour, left: bool = False) -> list[NDArray[Any]]:
    """Convert (3, H, W) to a file's pixels: one array per plane, (h, w) or packed (H, W, 4).

    Args:
        left: whether shared colours lie on the left column of their block, as decoders assume for H.264 and
            H.265; else in its centre.
    """
    picture = picture.detach().to("cpu", torch.float32).clamp(0, 1)
    if pixels.shrink is None:
        return _rgb_planes(picture, pixels)
    luma, blue, red = _product(_matrix(pixels.bits, colour), picture)
    black, grey = _offsets(pixels.bits, colour)
    differences = _shrunk(torch.stack([blue, red]), pixels.shrink, left) + grey
    return [_integers(plane, pixels.bits) for plane in (luma + black, *differences)]


def _product(weights: Tensor, picture: Tensor) -> Tensor:
    """Return (n, 3) times (3, H, W) as (n, H, W), whose planes follow each other in memory,
    whatever the picture's do.
    """
    return (weights @ picture.flatten(1)).reshape(len(weights), *picture.shape[1:])


def _matrix(bits: int, colour: Colour) -> Tensor:
    """Return the matrix (3, 3) from RGB in [0, 1] to luma and the two colour differences, without offsets."""
    red, blue = colour.weights
    luma = torch.tensor([red, 1 - red - blue, blue], dtype=torch.float64)
    unit = torch.eye(3, dtype=torch.float64)
    differences = (unit[2] - luma) / (2 - 2 * blue), (unit[0] - luma) / (2 - 2 * red)
    top, step = 2**bits - 1, 2 ** (bits - 8)
    scale, difference_scale = (top, top) if colour.range == FULL else (219 * step, 224 * step)
    return torch.stack([luma * scale, *(difference * difference_scale for difference in differences)]).float()


def _offsets(bits: int, colour: Colour) -> tuple[int, int]:
    """Return the number of black in luma, and of grey in a colour difference."""
    step = 2 ** (bits - 8)
    return (0 if colour.range == FULL else 16 * step), 128 * step


def _rgb_planes(picture: Tensor, pixels: Pixels) -> list[NDArray[Any]]:
    r, g, b = (_integers(plane * (2**pixels.bits - 1), pixels.bits) for plane in picture)
    if pixels.name == "bgr0":
        return [np.stack([b, g, r, np.zeros_like(r)], axis=-1)]
    return [g, b, r]


def _shrunk(planes: Tensor, factors: tuple[int, int], left: bool) -> Tensor:
    """Return the means of blocks of `factors`, across about the left column where
    `left`; edges are repeated.
    """
    down, across = -planes.shape[-2] % factors[0], -planes.shape[-1] % factors[1]
    if down or across:
        planes = F.pad(planes[None], (0, across, 0, down), mode="replicate")[0]
    if factors[0] == 2:
        planes = (planes[:, ::2] + planes[:, 1::2]) / 2
    even, odd = planes[..., ::2], planes[..., 1::2]
    if not left:
        return (even + odd) / 2
    before = torch.cat([even[..., :1], odd[..., :-1]], dim=-1)
    return (before + 2 * even + odd) / 4


def _integers(plane: Tensor, bits: int) -> NDArray[Any]:
    numbers = plane.round().clamp_(0, 2**bits - 1)
    if bits == 8:
        return numbers.to(torch.uint8).numpy()
    return numbers.to(torch.int32).numpy().astype(np.uint16)
