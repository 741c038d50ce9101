"""Measuring the receptive field of a network: the margin with which a tile equals the whole image.

Two measurements are made on narrow strips along each axis:

* *Where could* a pixel matter? One column of NaN spreads to every output that uses it, whatever the weights.
  Where it stops is a bound for every image. If it never stops, the network looks at the whole image (for
  example with a global pooling), and no margin makes a tile equal: neighbours are blended instead.
* *How far does* it matter? A strip and the same strip cut at its start give the same values far from the cut.
  The distance at which the difference falls below float32's own noise is the margin in practice. Deep
  networks need far less than their bound: RRDB with 23 blocks is bounded by 349 pixels. The same two strips
  show at which positions a tile may start, because windows and pixel shuffles must align.

A small bound is used directly; above `CERTAIN` the measured margin is used, with a reserve.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..record import record
from .stage import Run
from .tiles import ReceptiveField

CERTAIN = 64  # pixels; a bound this small costs little
BREADTH = 32  # of a strip; a multiple of most windows
LENGTHS = (128, 384, 1024)  # of a strip, until its ends are out of reach
PERIODS = (1, 2, 4, 8, 16, 32, 64, 3, 6, 12, 24, 48, 7, 14, 28, 5, 10, 20)
EQUAL = 2e-7  # of the largest value: float32's noise between two ways of computing the same
EQUAL_ELSEWHERE = 1e-3  # where TF32 and other ways for other shapes make noise: half of half a step of 8 bits
SAFETY, RESERVE = 1.5, 8  # factor on a measured margin, and pixels on top
GLOBAL_MARGIN, GLOBAL_BLEND = 32, 16  # read and mixed around a core where nothing bounds the receptive field


@record
class Measured:
    """The measurements: the bound (None: the whole image), the margin in practice,
    the period of positions.
    """

    bound: int | None
    margin: int
    period: int

    def receptive_field(self, minimum: int = 1) -> ReceptiveField:
        """Return the receptive field for tiling, for a network whose sides are at least `minimum`."""
        if self.bound is None:
            return ReceptiveField(GLOBAL_MARGIN, self.period, GLOBAL_BLEND, minimum)
        return ReceptiveField(self.margin, self.period, 0, minimum)


def measure_receptive_field(run: Run, channels: int, device: torch.device, multiple: int = 1) -> Measured:
    """Measure a network that takes (B, channels, h, w) float32 images on `device`.

    The network's sizes must be multiples of `multiple`.
    """

    def run_along_height(strip: Tensor) -> Tensor:
        return run(strip.mT.contiguous()).mT

    axes = [_measure_axis(along, channels, device, multiple) for along in (run, run_along_height)]
    bounds = [axis.bound for axis in axes if axis.bound is not None]
    return Measured(
        max(bounds) if len(bounds) == len(axes) else None,
        max(axis.margin for axis in axes),
        max(axis.period for axis in axes),
    )


def _measure_axis(run: Run, channels: int, device: torch.device, multiple: int) -> Measured:
    bound = find_bound(run, channels, device)
    if bound is None:
        return Measured(None, GLOBAL_MARGIN, _period_of_global(run, channels, device, multiple))
    length = next((length for length in LENGTHS if length > 2 * bound + 2 * max(PERIODS)), LENGTHS[-1])
    strip = textured_picture(channels, BREADTH, length, device)
    whole = run(strip)
    equal = (EQUAL if device.type == "cpu" else EQUAL_ELSEWHERE) * float(whole.abs().max())
    for period in (period for period in PERIODS if period % multiple == 0):
        if (margin := _margin(_difference(run, strip, whole, period), length, equal)) is not None:
            return _with_reserve(bound, margin, period)
    return Measured(None, GLOBAL_MARGIN, max(16, multiple))


def _with_reserve(bound: int, margin: int, period: int) -> Measured:
    certain = bound + period - 1
    measured = int(margin * SAFETY) + RESERVE + period - 1
    if margin - 1 > certain:  # a NaN was taken for something else on its way, or leapt over the strip's ends
        return Measured(margin, measured, period)
    return Measured(bound, certain if certain <= CERTAIN else min(certain, measured), period)


def _period_of_global(run: Run, channels: int, device: torch.device, multiple: int) -> int:
    """Return the smallest period at which a strip that starts there differs about as
    little as at any other.
    """
    strip = textured_picture(channels, BREADTH, LENGTHS[0], device)
    whole = run(strip)
    periods = [period for period in (1, 2, 4, 8, 16, 32) if period % multiple == 0] or [multiple]
    far = {
        period: float(_difference(run, strip, whole, period)[whole.shape[-1] // 2 :].mean())
        for period in periods
    }
    return next(period for period in periods if far[period] <= 1.5 * min(far.values()) + EQUAL)


def _margin(difference: Tensor, length: int, limit: float) -> int | None:
    """Return the distance in input pixels from which on a difference stays within `limit`,
    or None if it does not.
    """
    worst_from = difference.flip(0).cummax(0).values.flip(0)  # worst at this distance or farther
    equal = (worst_from <= limit).nonzero()
    if len(equal) == 0 or int(equal[0]) > 0.9 * len(difference):
        return None
    return int(int(equal[0]) * (length / len(difference)) + 1)


def _difference(run: Run, strip: Tensor, whole: Tensor, start: int) -> Tensor:
    """Return the difference between a strip that starts at `start` and the whole strip,
    by the distance from the cut.
    """
    part = run(strip[..., start:].contiguous())
    return (part - whole[..., whole.shape[-1] - part.shape[-1] :]).abs().amax(dim=(0, 1, 2))


def find_bound(run: Run, channels: int, device: torch.device) -> int | None:
    """Return how far a column of NaN spreads along the width, in input pixels; None if to both ends."""
    for length in LENGTHS:
        columns = length // 2, length // 2 - 1
        before, after = (_spread(run, channels, length, column, device) for column in columns)
        if before is not None and after is not None:
            return max(before, after)
    return None


def _spread(run: Run, channels: int, length: int, column: int, device: torch.device) -> int | None:
    strip = textured_picture(channels, BREADTH, length, device)
    strip[..., column] = torch.nan
    spoiled = run(strip).isnan().any(dim=0).any(dim=0).any(dim=0)
    scale = len(spoiled) / length
    reached = spoiled.nonzero().flatten()
    if len(reached) == 0:
        return 0
    first, last = math.floor(int(reached[0]) / scale), math.ceil((int(reached[-1]) + 1) / scale) - 1
    if first <= 0 or last >= length - 1:
        return None
    return max(column - first, last - column)


def textured_picture(channels: int, height: int, width: int, device: torch.device) -> Tensor:
    """Return a (1, channels, height, width) image in [0, 1]: coarse and fine structure, edges, and noise."""
    generator = torch.Generator().manual_seed(0)
    picture = torch.zeros(1, channels, height, width)
    for step in (1, 2, 4, 8, 16):
        noise = torch.rand(1, channels, -(-height // step), -(-width // step), generator=generator)
        picture += F.interpolate(noise, (height, width), mode="nearest" if step > 4 else "bilinear") / 5
    return picture.to(device)
