"""Where an enlarged tile goes in the result, and with what weight.

A tile is cut to what it answers for, resampled where the result has another size than the network makes, and, where
neighbours are mixed, weighted by a cosine ramp across each border between two cores. The two ramps at a border add up
to one, so the result needs no division and no second buffer.

B tiles, C channels, H and W in pixels of the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache

import torch
from torch import Tensor

from ..scaling.resample import Axis, Band, apply_bands, resample_bands
from .tiles import Span
from .transfer import upload

FITS = 128  # positions, of both axes, whose weights are cached: a video may have tiles anywhere


@dataclass(frozen=True)
class Line:
    """One axis of the picture: `length` input pixels, enlarged `scale` times, brought to `target` pixels.

    Of the enlarged pixels only the first `extent` belong to the picture, where the input was continued to suit the
    network; 0 is all. `blend` is half the width of the mixed zone, in input pixels.
    """

    length: int
    scale: int
    target: int
    blend: int = 0
    extent: int = 0

    @property
    def axis(self) -> Axis:
        """What is left to resample after the network."""
        return Axis(self.extent or self.length * self.scale, self.target)

    @property
    def support(self) -> int:
        """Input pixels that the resampling needs around a core."""
        return math.ceil(self.axis.support / self.scale) + bool(self.axis.support)

    def place(self, position: int) -> int:
        """Return the result's boundary that belongs to input boundary `position`."""
        return round(min(position * self.scale, self.axis.source) * self.target / self.axis.source)

    def kept(self, span: Span) -> tuple[int, int]:
        """Return the part of the result that a tile writes to, its mixed borders included."""
        zone = math.ceil(self._zone)
        low, high = self.place(span.low), self.place(span.high)
        return (low - zone if span.low else low), (high + zone if span.high < self.length else high)

    def bands(self, span: Span) -> list[Band]:
        """Return what the tile at `span` is resampled with; nothing where the result has the network's own size."""
        return resample_bands(self.axis, span.start * self.scale, span.size * self.scale, *self.kept(span))

    def cut(self, enlarged: Tensor, dimension: int, span: Span, bands: list[Band]) -> Tensor:
        """Return what the tile at `span` writes along `dimension` of what the network made of it."""
        if bands:
            return apply_bands(enlarged, dimension, bands)
        low, high = self.kept(span)
        return enlarged.narrow(dimension, low - span.start * self.scale, high - low)

    def weights(self, span: Span) -> Tensor:
        """Return the weights of what `cut` returns; all ones where nothing is mixed."""
        low, high = self.kept(span)
        positions = torch.arange(low, high, dtype=torch.float64) + 0.5
        weights = torch.ones_like(positions)
        if span.low:
            weights = weights * self._ramp(positions - self.place(span.low))
        if span.high < self.length:
            weights = weights * self._ramp(self.place(span.high) - positions)
        return weights.float()

    @property
    def _zone(self) -> float:
        return self.blend * self.scale * self.target / self.axis.source

    def _ramp(self, distance: Tensor) -> Tensor:
        """Rise from 0 to 1 across the mixed zone; r(d) + r(-d) = 1."""
        return 0.5 - 0.5 * torch.cos(math.pi * (distance / (2 * self._zone) + 0.5).clamp(0, 1))


@dataclass(frozen=True)
class _Fit:
    """What fits a tile along one axis, on a device: what it is resampled with, and its weights where tiles are mixed."""

    bands: list[Band]
    weights: Tensor | None


def _compute_fit(line: Line, span: Span, device: torch.device) -> _Fit:
    bands = [replace(band, weights=upload(band.weights, device)) for band in line.bands(span)]
    return _Fit(bands, upload(line.weights(span), device) if line.blend else None)


@dataclass(frozen=True)
class Placement:
    """Both axes of a picture. What a position needs is computed and uploaded once for each device, the last FITS of them."""

    rows: Line
    columns: Line
    _fit: Callable[[Line, Span, torch.device], _Fit] = field(
        init=False, default_factory=lambda: lru_cache(FITS)(_compute_fit), repr=False, compare=False
    )

    @property
    def mixes(self) -> bool:
        """Whether neighbours are mixed, so that tiles are added instead of copied."""
        return bool(self.rows.blend or self.columns.blend)

    @property
    def support(self) -> int:
        """Input pixels that the resampling needs around a core; 0 where the result has the size that the network makes."""
        return max(self.rows.support, self.columns.support)

    def with_blend(self, blend: int) -> Placement:
        """Return the same with neighbours mixed so many input pixels on either side of a border."""
        return Placement(replace(self.rows, blend=blend), replace(self.columns, blend=blend))

    def prepare(self, row: Span, column: Span, device: torch.device) -> None:
        """Compute and upload what `fit` needs, before the device is busy."""
        self._fit(self.rows, row, device)
        self._fit(self.columns, column, device)

    def fit(self, enlarged: Tensor, row: Span, column: Span) -> Tensor:
        """Return what a tile writes, from what the network made of it: (B, C, h, w)."""
        down = self._fit(self.rows, row, enlarged.device)
        across = self._fit(self.columns, column, enlarged.device)
        fitted = self.rows.cut(enlarged, -2, row, down.bands)
        fitted = self.columns.cut(fitted, -1, column, across.bands)
        if self.support:
            fitted = fitted.clamp_(0, 1)  # the kernel overshoots at edges
        if down.weights is not None and across.weights is not None:
            fitted = fitted * (down.weights[:, None] * across.weights).to(fitted)
        return fitted

    def write(self, result: Tensor, fitted: Tensor, row: Span, column: Span) -> None:
        """Put what `fit` returned into its place of `result`: (C, H, W)."""
        (top, bottom), (left, right) = self.rows.kept(row), self.columns.kept(column)
        place = result[:, top:bottom, left:right]
        if self.mixes:
            place.add_(fitted)
        else:
            place.copy_(fitted)
