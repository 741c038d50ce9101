"""The position and the weights of an enlarged tile in the result.

A tile is cropped to its core, resampled if the result has another size than the network's, and, if neighbours
are blended, weighted with a cosine ramp across each border between two cores. The two ramps at a border add
up to one, so the result needs no division and no second buffer.

B tiles, C channels, H and W in pixels of the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import field, replace
from functools import lru_cache
from typing import TypeAlias

import torch
from torch import Tensor

from ..record import record
from ..scaling.resample import Axis, Band, apply_bands, resample_bands
from .tiles import Span
from .transfer import upload

FITS = 128  # positions, of both axes, whose weights are cached: a video may have tiles anywhere


@record
class Line:
    """One axis of the image: `length` input pixels, enlarged `scale` times, resampled to `target` pixels.

    If the input was padded for the network, only the first `extent` enlarged pixels belong to the image; 0 is
    all. `blend` is half the width of the blended zone, in input pixels.
    """

    length: int
    scale: int
    target: int
    blend: int = 0
    extent: int = 0

    @property
    def axis(self) -> Axis:
        """The resampling after the network."""
        return Axis(self.extent or self.length * self.scale, self.target)

    @property
    def support(self) -> int:
        """Input pixels around a core that the resampling needs."""
        return math.ceil(self.axis.support / self.scale) + bool(self.axis.support)

    def place(self, position: int) -> int:
        """Return the result's boundary that belongs to input boundary `position`."""
        return round(min(position * self.scale, self.axis.source) * self.target / self.axis.source)

    def kept(self, span: Span) -> tuple[int, int]:
        """Return the part of the result that a tile writes to, including its blended borders."""
        zone = math.ceil(self._zone)
        low, high = self.place(span.low), self.place(span.high)
        return (low - zone if span.low else low), (high + zone if span.high < self.length else high)

    def bands(self, span: Span) -> list[Band]:
        """Return the resampling bands of the tile at `span`;
        empty if the result has the network's own size.
        """
        return resample_bands(self.axis, span.start * self.scale, span.size * self.scale, *self.kept(span))

    def cut(self, enlarged: Tensor, dimension: int, span: Span, bands: list[Band]) -> Tensor:
        """Crop and resample the network's result for the tile at `span` along `dimension`."""
        if bands:
            return apply_bands(enlarged, dimension, bands)
        low, high = self.kept(span)
        return enlarged.narrow(dimension, low - span.start * self.scale, high - low)

    def weights(self, span: Span) -> Tensor:
        """Return the weights of the result of `cut`; all ones if nothing is blended."""
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
        """Rise from 0 to 1 across the blended zone; r(d) + r(-d) = 1."""
        return 0.5 - 0.5 * torch.cos(math.pi * (distance / (2 * self._zone) + 0.5).clamp(0, 1))


@record
class _Fit:
    """The resampling weights and the blend weights of a tile along one axis, on a device."""

    bands: list[Band]
    weights: Tensor | None


def _compute_fit(line: Line, span: Span, device: torch.device) -> _Fit:
    bands = [replace(band, weights=upload(band.weights, device)) for band in line.bands(span)]
    return _Fit(bands, upload(line.weights(span), device) if line.blend else None)


Fits: TypeAlias = Callable[[Line, Span, torch.device], _Fit]


def cached_fits() -> Fits:
    """Return the function that gives the weights of a position; it keeps those of the last FITS positions."""
    return lru_cache(FITS)(_compute_fit)


@record
class Placement:
    """Both axes of an image. `fits` computes and uploads the weights of a position once for each device."""

    rows: Line
    columns: Line
    fits: Fits = field(default_factory=cached_fits, repr=False, compare=False)

    @property
    def mixes(self) -> bool:
        """Whether neighbours are blended, so that tiles are added instead of copied."""
        return bool(self.rows.blend or self.columns.blend)

    @property
    def support(self) -> int:
        """Input pixels that the resampling needs around a core;
        0 if the result has the network's own size.
        """
        return max(self.rows.support, self.columns.support)

    def with_blend(self, blend: int) -> Placement:
        """Return the same with neighbours blended over `blend` input pixels on each side of a border."""
        return replace(self, rows=replace(self.rows, blend=blend), columns=replace(self.columns, blend=blend))

    def prepare(self, row: Span, column: Span, device: torch.device) -> None:
        """Compute and upload the weights for `fit`, before the device is busy."""
        self.fits(self.rows, row, device)
        self.fits(self.columns, column, device)

    def fit(self, enlarged: Tensor, row: Span, column: Span) -> Tensor:
        """Return the pixels that a tile writes, from the network's result: (B, C, h, w)."""
        down = self.fits(self.rows, row, enlarged.device)
        across = self.fits(self.columns, column, enlarged.device)
        fitted = self.rows.cut(enlarged, -2, row, down.bands)
        fitted = self.columns.cut(fitted, -1, column, across.bands)
        if self.support:
            fitted = fitted.clamp_(0, 1)  # the kernel overshoots at edges
        if down.weights is not None and across.weights is not None:
            fitted = fitted * (down.weights[:, None] * across.weights).to(fitted)
        return fitted

    def write(self, result: Tensor, fitted: Tensor, row: Span, column: Span) -> None:
        """Write the result of `fit` to its position in `result`: (C, H, W)."""
        (top, bottom), (left, right) = self.rows.kept(row), self.columns.kept(column)
        place = result[:, top:bottom, left:right]
        if self.mixes:
            place.add_(fitted)
        else:
            place.copy_(fitted)
