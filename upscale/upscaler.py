"""Pictures through a network to any size: stage by stage, one picture's worth of memory beside the result.

F pictures, C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from .channels import Channels
from .enlarge import Report, enlarge, layout_of
from .network import Network
from .placement import Line, Placement
from .stage import Stage
from .tile_size import choose_plan, fitting_pixels
from .tiles import Reach, TilePlan, plan_tiles

FEATURES_SHARE = 0.3  # of the free memory that a trunk's result may take; else it lies in main memory
BATCH_PIXELS = 512 * 512  # tiles smaller than that go together on a GPU; on the CPU it gains nothing


@dataclass(frozen=True)
class Progress:
    """Told before the first tile and after every one.

    Attributes:
        picture: its number.
        share: of all the work that is done.
        ahead: share that the next tile will add.
        part: (C, h, w) of the result, or None where there is nothing to see yet.
        place: top, bottom, left and right of the part, as shares of the picture.
    """

    picture: int
    share: float
    ahead: float
    part: Tensor | None = None
    place: tuple[float, float, float, float] = (0.0, 1.0, 0.0, 1.0)


@dataclass(frozen=True)
class Upscale:
    """What is wanted, and where.

    Attributes:
        size: height and width of the result; None is the network's own.
        tile: side of the tiles, margins included; 0 chooses it by the memory.
        alpha: one of `channels.ALPHA`.
        device, dtype: of the result.
        free: returns the free bytes on the network's device.
        recover: the same after giving back what the allocator keeps.
        report: called after every tile; what it raises ends the work.
        say: told in a few words how each stage is cut.
    """

    free: Callable[[], float]
    size: tuple[int, int] | None = None
    tile: int = 0
    alpha: str = "model"
    device: torch.device | None = None
    dtype: torch.dtype = torch.float32
    recover: Callable[[], float] | None = None
    report: Callable[[Progress], None] | None = None
    say: Callable[[str], None] | None = None

    def __call__(self, pictures: Tensor, network: Network) -> Tensor:
        """Return (F, C', *size) for pictures (F, C, H, W) in [0, 1], from any device and of any float type.

        Raises:
            ValueError, MemoryError: one sentence.
        """
        channels = Channels(pictures.shape[1], network.channels, self.alpha)
        if channels.unchanged and len(network.stages) == 1:
            return self._through(pictures, network, _Part(0, len(pictures), len(pictures)))
        result = None
        for index in range(len(pictures)):
            picture = pictures[index : index + 1]
            part = _Part(index, 1, len(pictures))
            enlarged = channels.join(self._through(channels.split(picture), network, part), picture)
            if len(pictures) == 1:
                return enlarged
            if result is None:
                shape = (len(pictures), *enlarged.shape[1:])
                layout = layout_of(enlarged)
                result = torch.empty(shape, dtype=self.dtype, device=enlarged.device, memory_format=layout)
            result[index] = enlarged[0]
        assert result is not None, "there is at least one picture"
        return result

    def _through(self, pictures: Tensor, network: Network, part: _Part) -> Tensor:
        """Return pictures that the network takes as they are, enlarged."""
        height, width = (side * network.scale for side in pictures.shape[-2:])
        target = self.size or (height, width)
        source = network.prepare(pictures)
        done = 0.0
        for stage, share in zip(network.stages, network.work_shares, strict=True):
            step = replace(part, before=done, share=share)
            if stage is network.stages[-1]:
                rows = Line(source.shape[-2], stage.scale, target[0], extent=height)
                columns = Line(source.shape[-1], stage.scale, target[1], extent=width)
                source = self._run(
                    source, stage, Placement(rows, columns), replace(step, visible=True), network
                )
            else:
                lines = [Line(side, stage.scale, side * stage.scale) for side in source.shape[-2:]]
                source = self._run(source, stage, Placement(*lines), step, network)
            done += share
        return source

    def _run(
        self, source: Tensor, stage: Stage, placement: Placement, part: _Part, network: Network
    ) -> Tensor:
        support = max(placement.rows.support, placement.columns.support)
        reach = cache(lambda: _wider(stage.reach(), support))
        free, on_cpu = self.free(), stage.workers[0].device.type == "cpu"
        fits = source.shape[-2] * source.shape[-1] <= fitting_pixels(stage.need, free)
        in_one = network.tiles_itself or (fits and not part.visible)  # a trunk is best in one piece
        plan = _in_one_piece(source) if in_one else self._plan(source, stage, reach, free)
        if len(plan.tiles) > 1:
            placement = placement.with_blend(reach().blend)
        if self.say and part.first == 0:
            self.say(_description(plan, placement))
        device, dtype = (self.device, self.dtype) if part.visible else _place_of_features(source, stage, free)
        return enlarge(
            source,
            replace(stage, reach=reach),
            plan,
            placement,
            device=device,
            dtype=dtype,
            batch_pixels=0 if on_cpu else min(BATCH_PIXELS, fitting_pixels(stage.need, free)),
            report=part.reporter(self.report, plan, len(plan.tiles) * len(source)),
            recover=self.recover,
        )

    def _plan(self, source: Tensor, stage: Stage, reach: Callable[[], Reach], free: float) -> TilePlan:
        height, width = source.shape[-2:]
        if self.tile >= max(height, width):
            return _in_one_piece(source)
        if self.tile:
            return plan_tiles(height, width, reach(), self.tile)
        return choose_plan(height, width, reach, stage.need, free, stage.workers[0].device.type == "cpu")


@dataclass(frozen=True)
class _Part:
    """Which part of all the work a stage is: pictures `first` to `first + pictures` of `count`, after `before`."""

    first: int
    pictures: int
    count: int
    before: float = 0.0
    share: float = 1.0
    visible: bool = False

    def reporter(
        self, tell: Callable[[Progress], None] | None, plan: TilePlan, tiles: int
    ) -> Callable[[Report], None] | None:
        """Return what turns the reports of a stage with so many tiles into `Progress`."""
        if tell is None:
            return None
        scale = self.pictures / self.count  # of this part's work in all

        def share(done: float) -> float:
            return self.first / self.count + scale * (self.before + self.share * done)

        def report(told: Report) -> None:
            calls = told.done + told.left
            # A picture may go through the network in several: colours first, then its transparency.
            seen = self.visible and told.tile.picture < self.pictures
            row, column = told.tile.row, told.tile.column
            tell(
                Progress(
                    self.first + min(told.tile.picture, self.pictures - 1),
                    share(told.done / calls),
                    scale * self.share / calls if told.left else 0.0,
                    told.written[0] if seen else None,
                    (
                        row.low / plan.height,
                        row.high / plan.height,
                        column.low / plan.width,
                        column.high / plan.width,
                    ),
                )
            )

        tell(Progress(self.first, share(0.0), scale * self.share / tiles))
        return report


def _description(plan: TilePlan, placement: Placement) -> str:
    """Return the plan in a few words, for the log."""
    if len(plan.tiles) == 1:
        return f"{plan.width}x{plan.height} in one piece"
    height, width = plan.tile_size
    how = "blended" if placement.mixes else "exact"
    tiles = f"{len(plan.tiles)} tiles of {width}x{height}"
    return f"{plan.width}x{plan.height} in {tiles}, {how}, {plan.redundancy:.2f} of its pixels computed"


def _in_one_piece(pictures: Tensor) -> TilePlan:
    height, width = pictures.shape[-2:]
    return plan_tiles(height, width, Reach(), max(height, width))


def _place_of_features(source: Tensor, stage: Stage, free: float) -> tuple[torch.device, torch.dtype]:
    """Return where a trunk's result lies, and in which type: with the network where there is room, else in main memory."""
    worker = stage.workers[0]
    needed = source[:, 0].numel() * stage.channels * worker.dtype.itemsize
    return worker.device if needed <= FEATURES_SHARE * free else torch.device("cpu"), worker.dtype


def _wider(reach: Reach, support: int) -> Reach:
    """Return a reach that also holds what a resampling needs around a core."""
    return replace(reach, margin=reach.margin + support)
