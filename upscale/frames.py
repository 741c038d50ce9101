"""Frames of a video through a network, where what did not change is not computed again.

A network of limited receptive field gives a pixel the same value whenever what it sees holds the same values.
So each frame is compared, cell by cell, with what the cells were computed from. The cells that see a change
are joined to tiles, which go through the network on their own, and the rest is taken from the frame before.
Where most of a frame changed, the frame goes through in the usual way, which costs less than all tiles with
their margins.

F frames, C channels, H and W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from typing import TypeAlias, cast

import torch
from torch import Tensor

from ..record import record
from ..scaling.box import Box
from ..scaling.size import Size
from .float32 import true_products
from .network import Network
from .placement import Line, Placement
from .tiles import ReceptiveField, Span, cut_evenly, plan_tiles

Tile: TypeAlias = tuple[Span, Span]
Run = Callable[[Tensor, "Size | None"], Tensor]  # (F, C, H, W) to this size, or to the network's own

CELL = 16  # pixels a side of the cells that are compared
CALL_PIXELS = 512 * 512  # of the tiles that go through together
# On one CPU thread torch computes convolutions of no more values with another kernel, which rounds in another way. The
# convolutions of larger tiles give the bits of the whole frame.
SMALLEST_CALL = 20480
WASTE = 1.5  # pixels computed divided by pixels needed, at most, in tiles of one shape
SIDES = (64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512)  # of those, margins included


@record
class Grid:
    """The cells that are compared, and where the enlargements of tiles go.

    Attributes:
        rows, columns: the core of each cell, and what it sees.
        field: the receptive field, in image pixels.
        joins: whether neighbouring cells are joined to one tile; else each is a tile, and all have one shape.
        smallest: height and width below which no tile is computed.
    """

    rows: tuple[Span, ...]
    columns: tuple[Span, ...]
    placement: Placement
    field: ReceptiveField
    joins: bool
    smallest: Size = (1, 1)

    @property
    def size(self) -> Size:
        """Height and width of the image."""
        return self.placement.rows.length, self.placement.columns.length

    @property
    def smallest_work(self) -> int:
        """Pixels that the network sees of the smallest tile."""
        return self._pixels(min(row.size for row in self.rows), min(column.size for column in self.columns))

    def tiles(self, differs: Tensor) -> list[Tile]:
        """Return the tiles that must be computed where the pixels in `differs` (H, W) have changed."""
        boxes = self._changed(differs)
        if self.joins:  # twice: a box that has grown may have reached another one
            boxes = self._joined(self._joined(boxes))
        (height, width), (tall, wide) = self.size, self.smallest
        return [
            (
                self._span(self.rows, height, tall, box.top, box.bottom),
                self._span(self.columns, width, wide, box.left, box.right),
            )
            for box in boxes
        ]

    def _changed(self, differs: Tensor) -> list[Box]:
        """Return the cells that see a change, counted in cells:
        neighbours in a row as one box where they are joined.
        """
        in_rows = torch.stack([differs[row.start : row.start + row.size].any(0) for row in self.rows])
        in_cells = [in_rows[:, one.start : one.start + one.size].any(1) for one in self.columns]
        boxes: list[Box] = []
        for row, cells in enumerate(cast("list[list[bool]]", torch.stack(in_cells, dim=1).tolist())):  # pyright: ignore[reportUnknownMemberType]
            for changed, run in groupby(range(len(cells)), key=cells.__getitem__):
                columns = list(run) if changed else []
                runs = (
                    [(columns[0], columns[-1])] if self.joins and columns else [(one, one) for one in columns]
                )
                boxes += [Box(row, first, row + 1, last + 1) for first, last in runs]
        return boxes

    def _joined(self, boxes: Sequence[Box]) -> list[Box]:
        """Return the boxes with those joined that are less work together than apart."""
        joined: list[Box] = []
        for box in boxes:
            best = min(joined, key=lambda one: self._work(one.union(box)) - self._work(one), default=box)
            union = best.union(box)
            if joined and self._work(union) <= min(CALL_PIXELS, self._work(best) + self._work(box)):
                joined[joined.index(best)] = union
            else:
                joined.append(box)
        return joined

    def _work(self, box: Box) -> int:
        """Return how many pixels the network sees of a box of cells."""
        top, bottom = self.rows[box.top], self.rows[box.bottom - 1]
        left, right = self.columns[box.left], self.columns[box.right - 1]
        return self._pixels(bottom.start + bottom.size - top.start, right.start + right.size - left.start)

    def _pixels(self, height: int, width: int) -> int:
        """Return how many pixels a tile has that must have this height and width at least."""
        return max(height, self.smallest[0]) * max(width, self.smallest[1])

    def _span(self, cells: Sequence[Span], length: int, smallest: int, first: int, end: int) -> Span:
        if not self.joins:
            return cells[first]
        field = replace(self.field, minimum=max(self.field.minimum, smallest))
        [span] = cut_evenly(length, field, cells[first].low, cells[end - 1].high, 1)
        return span


def plan_grid(network: Network, height: int, width: int, size: Size, one_shape: bool = False) -> Grid | None:
    """Return the cells to compare; None if no tile can be computed separately.

    That is so for networks that look at the whole image or tile it themselves, and if the receptive field is
    as large as the image.

    Args:
        one_shape: whether all tiles must have one shape, as for a network that is compiled anew for every
            shape.
    """
    field = None if network.tiles_itself else receptive_field_in_pixels(network)
    if field is None:
        return None
    placement = Placement(Line(height, network.scale, size[0]), Line(width, network.scale, size[1]))
    wider = field.with_margin(placement.support)
    smallest = _smallest_tile(height, width, network.channels)
    if one_shape:
        plans = (plan_tiles(height, width, wider, side) for side in SIDES)
        suitable = (
            plan
            for plan in plans
            if len(plan.tiles) > 1
            and plan.redundancy <= WASTE
            and math.prod(plan.tile_size) >= math.prod(smallest)
        )
        plan = next(suitable, None)
        return plan and Grid(plan.rows, plan.columns, placement, wider, joins=False)
    grid = Grid(_cells(height, wider), _cells(width, wider), placement, wider, True, smallest)
    return grid if grid.smallest_work < height * width else None


def _smallest_tile(height: int, width: int, channels: int) -> Size:
    """Return height and width of the smallest tile, about a square, in an image of this size;
    the whole of a small image.
    """
    pixels = SMALLEST_CALL // channels + 1
    side = math.isqrt(pixels - 1) + 1
    tall = min(height, max(side, -(-pixels // width)))
    return tall, min(width, -(-pixels // tall))


def _cells(length: int, field: ReceptiveField) -> tuple[Span, ...]:
    bounds = [*range(0, length, CELL), length]
    return tuple(cut_evenly(length, field, low, high, 1)[0] for low, high in pairwise(bounds))


def receptive_field_in_pixels(network: Network) -> ReceptiveField | None:
    """Return the receptive field of all stages together, in image pixels; None is unlimited."""
    fields = [stage.receptive_field() for stage in network.stages]
    if any(field.blend for field in fields):
        return None
    # Every stage after the first one sees what the first one made of blocks of `shuffle` pixels.
    margin = sum(field.margin for field in fields) * network.shuffle
    period = math.lcm(*(field.period for field in fields)) * network.shuffle
    return ReceptiveField(margin, period, 0, max(field.minimum for field in fields) * network.shuffle)


@record
class Enlarged:
    """The result for one frame.

    Attributes:
        picture: (C, h, w); the same tensor as for the previous frame if nothing changed. Do not modify it.
        computed: computed pixels, as a share of the frame's; 1 if the whole frame was computed.
    """

    picture: Tensor
    computed: float


@dataclass
class _Work:
    """The work for one frame: `whole`, or the tiles in `changed`."""

    picture: Tensor
    whole: bool
    changed: list[Tile]


class FrameUpscaler:
    """Enlarges frames in order.

    Args:
        run: enlarges images in the usual way.
        size: height and width of the result.
        grid: from `plan_grid`; None compares whole frames only.
        threshold: largest difference, in pixel values, that counts as unchanged; 0 is exact.
    """

    def __init__(self, run: Run, size: Size, grid: Grid | None, threshold: float = 0.0) -> None:
        self._run, self._size, self._grid, self._threshold = run, size, grid, threshold
        self._reference: Tensor | None = None  # what the result so far was computed from
        self._result: Tensor | None = None

    def __call__(self, pictures: Sequence[Tensor], fresh: Sequence[bool]) -> list[Enlarged]:
        """Return the enlarged frames for (C, H, W) each; `fresh` ones are computed without earlier frames."""
        works = [self._compare(picture, new) for picture, new in zip(pictures, fresh, strict=True)]
        wholes = iter(self._enlarge_whole([work.picture for work in works if work.whole]))
        tiles = iter(self._enlarge_tiles(works))
        return [self._put_together(work, wholes, tiles) for work in works]

    def _compare(self, picture: Tensor, fresh: bool) -> _Work:
        reference = self._reference
        if fresh or reference is None:
            self._reference = picture
            return _Work(picture, True, [])
        changed = self._changed(picture, reference)
        if changed is None:
            self._reference = picture
            return _Work(picture, True, [])
        if self._threshold and changed:
            reference = reference.clone()
            for row, column in changed:
                core = (..., slice(row.low, row.high), slice(column.low, column.high))
                reference[core] = picture[core]
            self._reference = reference
        elif not self._threshold:
            self._reference = picture
        return _Work(picture, False, changed)

    def _changed(self, picture: Tensor, reference: Tensor) -> list[Tile] | None:
        """Return the tiles that must be computed; None if the whole frame is less work."""
        if self._threshold:
            differs = ((picture - reference).abs() > self._threshold).any(0)
        else:
            differs = (picture != reference).any(0)
        if self._grid is None:
            return None if bool(differs.any()) else []
        tiles = self._grid.tiles(differs)
        return None if _pixels(tiles) >= math.prod(self._grid.size) else tiles

    def _enlarge_whole(self, pictures: list[Tensor]) -> Sequence[Tensor]:
        return list(self._run(torch.stack(pictures), self._size)) if pictures else []

    def _enlarge_tiles(self, works: Sequence[_Work]) -> list[Tensor]:
        """Return what the tiles of all frames write, in order."""
        grid = self._grid
        jobs = [(work.picture, row, column) for work in works for row, column in work.changed]
        if grid is None or not jobs:
            return []
        # Tiles of one shape go together, so that several devices have something to share.
        of_shape: dict[Size, list[int]] = {}
        for index, (_, row, column) in enumerate(jobs):
            of_shape.setdefault((row.size, column.size), []).append(index)
        written = [torch.empty(0)] * len(jobs)
        for shape, indices in of_shape.items():
            count = max(1, CALL_PIXELS // math.prod(shape))
            for at in range(0, len(indices), count):
                some = indices[at : at + count]
                enlarged = self._run(torch.stack([_seen(*jobs[index]) for index in some]), None)
                with true_products():
                    for index, part in zip(some, enlarged, strict=True):
                        _, row, column = jobs[index]
                        written[index] = grid.placement.fit(part[None], row, column)[0]
        return written

    def _put_together(self, work: _Work, wholes: Iterator[Tensor], tiles: Iterator[Tensor]) -> Enlarged:
        if work.whole:
            self._result = next(wholes)
            return Enlarged(self._result, 1.0)
        assert self._result is not None, "the first frame is fresh"
        if not work.changed:
            return Enlarged(self._result, 0.0)
        assert self._grid is not None, "only a grid has tiles"
        result = self._result.clone()
        for (row, column), written in zip(work.changed, tiles, strict=False):
            self._grid.placement.write(result, written, row, column)
        self._result = result
        return Enlarged(result, _pixels(work.changed) / math.prod(self._grid.size))


def _pixels(tiles: Sequence[Tile]) -> int:
    return sum(row.size * column.size for row, column in tiles)


def _seen(picture: Tensor, row: Span, column: Span) -> Tensor:
    """Return what the network sees of (C, H, W) for a tile."""
    return picture[:, row.start : row.start + row.size, column.start : column.start + column.size]
