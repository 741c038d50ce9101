"""Tiles that cover an image, each read with a margin that is cropped away again.

A network with a limited receptive field gives a pixel the same value in a tile as in the whole image, if the
tile contains the receptive field around the pixel. So a tile *writes* a core and is *read* with a margin
around the core; at the image's own border there is no margin, because the whole image ends there too. All
tiles of an image have one size: the outermost cores are larger by the margin that they do not need.

Sizes and positions are in pixels of the input; one axis at a time.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, product

from ..record import record
from ..scaling.size import Size

SMALLEST_CORE = 16


@record
class Span:
    """One axis of a tile: it is read from `start`, `size` long, and writes `low` to `high` (exclusive)."""

    start: int
    size: int
    low: int
    high: int


@record
class ReceptiveField:
    """The receptive field of a network, for tiling.

    Attributes:
        margin: pixels around a core that must be read with it.
        period: tiles must start at multiples of it (windows, pixel shuffles).
        blend: half the width of the zone in which neighbours are blended; 0 if tiles are exact.
        minimum: smallest side that the network accepts.
    """

    margin: int = 0
    period: int = 1
    blend: int = 0
    minimum: int = 1

    def with_margin(self, more: int) -> ReceptiveField:
        """Return the same with `pixels` more around a core."""
        return replace(self, margin=self.margin + more)

    @property
    def smallest_tile(self) -> int:
        """The side below which a tile would be only margin."""
        core = max(SMALLEST_CORE, 4 * self.blend, self.margin)  # 4: then no two mixed zones meet
        return max(self.minimum + self.period - 1, 2 * (self.margin + self.period) + core)


@record
class TilePlan:
    """The tiles of an image of `height` by `width`, or of a part of it."""

    height: int
    width: int
    rows: tuple[Span, ...]
    columns: tuple[Span, ...]

    @property
    def tiles(self) -> list[tuple[Span, Span]]:
        """All tiles, row by row."""
        return list(product(self.rows, self.columns))

    @property
    def tile_size(self) -> Size:
        """Height and width at which the tiles are read."""
        return self.rows[0].size, self.columns[0].size

    @property
    def redundancy(self) -> float:
        """Pixels read divided by pixels written; 1 is no waste."""
        read = sum(row.size for row in self.rows) * sum(column.size for column in self.columns)
        height = self.rows[-1].high - self.rows[0].low
        width = self.columns[-1].high - self.columns[0].low
        return read / (height * width)


def single_tile(height: int, width: int) -> TilePlan:
    """Return the plan for the image in one piece."""
    return plan_tiles(height, width, ReceptiveField(), max(height, width))


def plan_tiles(height: int, width: int, field: ReceptiveField, tile: int) -> TilePlan:
    """Return tiles of at most `tile` pixels a side, margins included; one if the image is not larger.

    A `tile` too small for the receptive field is enlarged to `field.smallest_tile`.
    """
    return TilePlan(height, width, cut_axis(height, field, tile), cut_axis(width, field, tile))


def split_tile(plan: TilePlan, row: Span, column: Span, field: ReceptiveField, tile: int) -> TilePlan:
    """Return smaller tiles that together cover the core of one tile of `plan`."""
    return TilePlan(
        plan.height,
        plan.width,
        cut_axis(plan.height, field, tile, row.low, row.high),
        cut_axis(plan.width, field, tile, column.low, column.high),
    )


def cut_axis(
    length: int, field: ReceptiveField, tile: int, low: int = 0, high: int | None = None
) -> tuple[Span, ...]:
    """Cut [low, high) of an axis of `length` into the fewest spans of one size, at most
    `tile` or `smallest_tile`.

    Laws: the cores are disjoint and cover [low, high); every start is a multiple of `field.period`; every
    core is `margin` inside its read part, or at the axis' end; all sizes are equal.
    """
    high = length if high is None else high
    largest = max(tile, field.smallest_tile)
    count = -(-(high - low) // largest)  # no fewer, even without margins
    while True:
        spans = cut_evenly(length, field, low, high, count)
        if spans[0].size <= largest:
            return spans
        count += 1


def cut_evenly(length: int, field: ReceptiveField, low: int, high: int, count: int) -> tuple[Span, ...]:
    """Cut [low, high) of an axis of `length` into `count` spans of one size, whatever size that is."""
    margin, period = field.margin, field.period
    # At the image's ends no margin is read, so the cores there may be longer by it.
    first = low + (margin if low == 0 else 0)
    last = high - (margin if high == length else 0)
    if count == 1 or last - first < count:
        bounds = [low + (high - low) * index // count for index in range(count + 1)]
    else:
        bounds = [low, *(first + (last - first) * index // count for index in range(1, count)), high]
    reads = [
        (max(0, before - margin) // period * period, min(length, after + margin))
        for before, after in pairwise(bounds)
    ]
    size = max(max(end - start for start, end in reads), min(field.minimum, length))
    size = min(length, size + (length - size) % period)  # then the last start is a multiple of the period too
    return tuple(
        Span(min(start, length - size), size, before, after)
        for (start, _), before, after in zip(reads, bounds[:-1], bounds[1:], strict=True)
    )
