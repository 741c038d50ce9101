"""Frames of a video through a network, where tiles that did not change are not computed again.

A network with a limited receptive field gives a tile the same result if the tile and its margin have the same values. So
each frame is compared with the values from which its tiles were computed; changed tiles are computed separately, and the
rest is copied from the previous frame. If most of a frame changed, the whole frame is computed in the usual way, which
costs less than all tiles with their margins.

F frames, C channels, H and W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..scaling.size import Size
from .network import Network
from .placement import Line, Placement
from .tiles import ReceptiveField, Span, TilePlan, plan_tiles

Run = Callable[[Tensor, "Size | None"], Tensor]  # (F, C, H, W) to this size, or to the network's own

WASTE = 1.5  # pixels computed divided by pixels needed, at most, in the tiles that are compared
SIDES = (64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512)
CALL_PIXELS = 512 * 512  # of the tiles that go through together


@dataclass(frozen=True)
class Grid:
    """The compared tiles, and the positions of their enlargements."""

    plan: TilePlan
    placement: Placement

    def tile_of(self, picture: Tensor, row: Span, column: Span) -> Tensor:
        """Return what the network sees of (C, H, W) for a tile."""
        return picture[:, row.start : row.start + row.size, column.start : column.start + column.size]


def plan_grid(network: Network, height: int, width: int, size: Size) -> Grid | None:
    """Return the smallest tiles that waste little; None if no tile can be computed separately.

    That is so for networks that look at the whole image or tile it themselves, and if the receptive field is as large as
    the image.
    """
    reach = None if network.tiles_itself else receptive_field_in_pixels(network)
    lines = [
        Line(length, network.scale, target) for length, target in zip((height, width), size, strict=True)
    ]
    if reach is None:
        return None
    wider = replace(reach, margin=reach.margin + max(line.support for line in lines))
    plans = (plan_tiles(height, width, wider, side) for side in SIDES)
    plan = next((plan for plan in plans if len(plan.tiles) > 1 and plan.redundancy <= WASTE), None)
    return None if plan is None else Grid(plan, Placement(*lines))


def receptive_field_in_pixels(network: Network) -> ReceptiveField | None:
    """Return the receptive field of all stages together, in image pixels; None is unlimited."""
    reaches = [stage.reach() for stage in network.stages]
    if any(reach.blend for reach in reaches):
        return None
    # Every stage after the first one sees what the first one made of blocks of `shuffle` pixels.
    margin = sum(reach.margin for reach in reaches) * network.shuffle
    period = math.lcm(*(reach.period for reach in reaches)) * network.shuffle
    return ReceptiveField(margin, period, 0, max(reach.minimum for reach in reaches) * network.shuffle)


@dataclass(frozen=True)
class Enlarged:
    """The result for one frame.

    Attributes:
        picture: (C, h, w); the same tensor as for the previous frame if nothing changed. Do not modify it.
        computed: share of the frame's tiles that were computed; 1 if the whole frame was computed.
    """

    picture: Tensor
    computed: float


@dataclass
class _Work:
    """The work for one frame: `whole`, or the tiles in `changed`."""

    picture: Tensor
    whole: bool
    changed: list[tuple[Span, Span]]


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
        if torch.equal(picture, reference):
            return _Work(picture, False, [])
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

    def _changed(self, picture: Tensor, reference: Tensor) -> list[tuple[Span, Span]] | None:
        """Return the tiles that changed; None if the whole frame is less work."""
        if self._threshold:
            differs = ((picture - reference).abs() > self._threshold).any(0)
        else:
            differs = (picture != reference).any(0)
        if self._grid is None:
            return None if bool(differs.any()) else []
        plan = self._grid.plan
        changed: list[tuple[Span, Span]] = []
        for row in plan.rows:
            columns = differs[row.start : row.start + row.size].any(0)
            changed += [
                (row, column)
                for column in plan.columns
                if bool(columns[column.start : column.start + column.size].any())
            ]
        height, width = plan.tile_size
        return None if len(changed) * height * width >= plan.height * plan.width else changed

    def _enlarge_whole(self, pictures: list[Tensor]) -> Sequence[Tensor]:
        return list(self._run(torch.stack(pictures), self._size)) if pictures else []

    def _enlarge_tiles(self, works: Sequence[_Work]) -> list[Tensor]:
        """Return what the tiles of all frames write, in order."""
        grid = self._grid
        jobs = [(work.picture, row, column) for work in works for row, column in work.changed]
        if grid is None or not jobs:
            return []
        count = max(1, CALL_PIXELS // math.prod(grid.plan.tile_size))
        written: list[Tensor] = []
        for at in range(0, len(jobs), count):
            some = jobs[at : at + count]
            enlarged = self._run(torch.stack([grid.tile_of(*job) for job in some]), None)
            written += [
                grid.placement.fit(part[None], row, column)[0]
                for part, (_, row, column) in zip(enlarged, some, strict=True)
            ]
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
        return Enlarged(result, len(work.changed) / len(self._grid.plan.tiles))
