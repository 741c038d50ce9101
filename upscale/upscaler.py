"""Enlarging images with a network to any size: stage by stage,
with the memory of one image besides the result.

F images, C channels, H and W pixels.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import field, replace
from functools import partial

import torch
from torch import Tensor

from ..record import record
from ..scaling.box import Box
from ..scaling.size import Size
from .budget import Budget
from .channels import Channels
from .enlarge import Tile, empty_pictures, enlarge
from .network import Network
from .placement import Fits, Line, Placement, cached_fits
from .stage import Stage
from .tile_size import choose_plan, fitting_pixels
from .tiles import ReceptiveField, TilePlan, plan_tiles, single_tile

FEATURES_SHARE = 0.3  # of the free memory that a trunk's result may take; else it lies in main memory
BATCH_PIXELS = 512 * 512  # tiles smaller than that go together on a GPU; on the CPU it gains nothing
WHOLE = Box(0, 0, 1, 1)  # of an image of one pixel


@record
class Progress:
    """Reported before the first tile and after every one.

    Attributes:
        picture: number of the image.
        share: finished share of the work.
        ahead: share that the next tile will add.
        part: (C, h, w) of the result, or None if there is nothing to show yet.
        box, size: the part covers `box` of an image of `size`.
    """

    picture: int
    share: float
    ahead: float
    part: Tensor | None = None
    box: Box = WHOLE
    size: Size = (1, 1)


@record
class Options:
    """The settings of the result.

    Attributes:
        size: of the result; None is the network's own.
        tile: height and width of the tiles, margins included; 0 chooses them from the free memory.
        alpha: one of `channels.ALPHA`.
        device, dtype: of the result.
    """

    size: Size | None = None
    tile: int = 0
    alpha: str = "model"
    device: torch.device | None = None
    dtype: torch.dtype = torch.float32


@record
class Hooks:
    """The functions called during the work.

    Attributes:
        free: returns the free bytes on the network's device.
        recover: the same after emptying the allocator's cache.
        report: called after every tile; what it raises ends the work.
        log: called with a line on the tiles of each stage.
        check: called repeatedly while waiting for a GPU; an error in it ends the work.
        blended: called if a network that looks at the whole image saw it in tiles, which are blended.
        budget: for measurements during the work.
        fits: gives the resampling weights; a caller that enlarges frame after frame keeps them here.
    """

    free: Callable[[], float]
    recover: Callable[[], float] | None = None
    report: Callable[[Progress], None] = lambda progress: None
    log: Callable[[str], None] = lambda plan: None
    check: Callable[[], None] = lambda: None
    blended: Callable[[], None] = lambda: None
    budget: Budget = field(default_factory=Budget)
    fits: Fits = field(default_factory=cached_fits)


def upscale_pictures(pictures: Tensor, network: Network, options: Options, hooks: Hooks) -> Tensor:
    """Return (F, C', *size) for images (F, C, H, W) in [0, 1], from any device and of any float type.

    Raises:
        ValueError: when the channels do not suit the network, or the network gives NaN.
        MemoryError: when not even the smallest tile fits.
    """
    if network.tiles_itself:
        options = replace(options, tile=sys.maxsize)
    count, channels = len(pictures), Channels(pictures.shape[1], network.channels, options.alpha)
    if channels.unchanged and len(network.stages) == 1:
        return _upscale(pictures, network, options, hooks, _Work(0, count))
    result = None
    for index in range(count):
        picture = pictures[index : index + 1]
        work = _Work(index, 1, index / count, 1 / count)
        enlarged = channels.join(_upscale(channels.split(picture), network, options, hooks, work), picture)
        if count == 1:
            return enlarged
        if result is None:
            size = enlarged.shape[-2], enlarged.shape[-1]
            result = empty_pictures(enlarged, count, size, enlarged.device, options.dtype)
        result[index] = enlarged[0]
    assert result is not None, "there is at least one picture"
    return result


@record
class _Work:
    """A part of all the work: `count` images from `first`,
    and the share from `start` that is `length` long.
    """

    first: int
    count: int
    start: float = 0.0
    length: float = 1.0


def _upscale(pictures: Tensor, network: Network, options: Options, hooks: Hooks, work: _Work) -> Tensor:
    """Return images with the network's own channels, enlarged."""
    height, width = pictures.shape[-2:]
    own = height * network.scale, width * network.scale
    source = network.prepare(pictures)
    for stage, share in zip(network.stages, network.work_shares, strict=True):
        grown = source.shape[-2] * stage.scale, source.shape[-1] * stage.scale
        extents, targets = (grown, grown) if stage.gives_features else (own, options.size or own)
        rows, columns = (
            Line(length, stage.scale, target, extent=extent)
            for length, target, extent in zip(source.shape[-2:], targets, extents, strict=True)
        )
        part = replace(work, length=work.length * share)
        source = _run(source, stage, Placement(rows, columns, hooks.fits), options, hooks, part)
        work = replace(work, start=work.start + part.length)
    return source


def _run(
    source: Tensor, stage: Stage, placement: Placement, options: Options, hooks: Hooks, work: _Work
) -> Tensor:
    support = placement.support

    def receptive_field(must: bool = True) -> ReceptiveField:
        return stage.receptive_field(hooks.budget, must).with_margin(support)

    wider = replace(stage, receptive_field=receptive_field)
    free = hooks.free()
    plan = _plan(source, wider, options.tile, free)
    if len(plan.tiles) > 1:
        placement = placement.with_blend(wider.receptive_field().blend)
    if work.first == 0:
        hooks.log(_description(plan, placement))
    device, dtype = options.device, options.dtype
    if stage.gives_features:
        device, dtype = _place_of_features(source, stage, free)

    def tile_done(tile: Tile, written: Tensor, done: int, left: int) -> None:
        share = work.start + work.length * done / (done + left)
        ahead = work.length / (done + left) if left else 0.0
        # An image may go through the network in several: colours first, then its transparency.
        part = written[0] if tile.picture < work.count and not stage.gives_features else None
        picture = work.first + min(tile.picture, work.count - 1)
        box = Box(tile.row.low, tile.column.low, tile.row.high, tile.column.high)
        hooks.report(Progress(picture, share, ahead, part, box, (plan.height, plan.width)))

    hooks.report(Progress(work.first, work.start, work.length / (len(plan.tiles) * len(source))))
    return enlarge(
        source,
        wider,
        plan,
        placement,
        device=device,
        dtype=dtype,
        batch_pixels=0 if stage.on_cpu else min(BATCH_PIXELS, fitting_pixels(stage.memory_estimate, free)),
        report=tile_done,
        recover=hooks.recover,
        check=hooks.check,
        blended=hooks.blended,
    )


def _plan(source: Tensor, stage: Stage, tile: int, free: float) -> TilePlan:
    height, width = source.shape[-2:]
    fits = height * width <= fitting_pixels(stage.memory_estimate, free)
    if tile >= max(height, width) or (stage.gives_features and fits):  # a trunk is best in one piece
        return single_tile(height, width)
    if tile:
        return plan_tiles(height, width, stage.receptive_field(), tile)
    return choose_plan(
        height,
        width,
        partial(stage.receptive_field, must=not fits),
        stage.memory_estimate,
        free,
        stage.on_cpu,
    )


def _description(plan: TilePlan, placement: Placement) -> str:
    """Return a short description of the plan, for the log."""
    if len(plan.tiles) == 1:
        return f"{plan.width}x{plan.height} in one piece"
    height, width = plan.tile_size
    how = "blended" if placement.mixes else "exact"
    tiles = f"{len(plan.tiles)} tiles of {width}x{height}"
    return f"{plan.width}x{plan.height} in {tiles}, {how}, {plan.redundancy:.2f} of its pixels computed"


def _place_of_features(source: Tensor, stage: Stage, free: float) -> tuple[torch.device, torch.dtype]:
    """Return the device and dtype of a trunk's result: the network's if it fits, else main memory."""
    worker = stage.workers[0]
    needed = source[:, 0].numel() * stage.channels * worker.dtype.itemsize
    return worker.device if needed <= FEATURES_SHARE * free else torch.device("cpu"), worker.dtype
