"""The loop: tiles through a network and into the result, and the only place that knows about running out of memory.

A call that runs out of memory costs only its own tiles, which are cut into pieces: of a size that has passed before, or
else of what fits the memory that is free by then, at most half the side. What is done stays, and what is still to do is
cut as small. A tile in which the network gives no numbers is computed again in float32 and never written as it is.

F pictures, C channels, H and W pixels.
"""

from __future__ import annotations

import math
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import TypeAlias

import torch
from torch import Tensor

from ..errors import bad_input
from ..scaling.box import Box
from ..scaling.size import Size
from .memory import is_out_of_memory
from .placement import Placement
from .stage import Stage, Worker
from .tile_size import fitting_pixels
from .tiles import Span, TilePlan, split_tile


@dataclass(frozen=True)
class Tile:
    """One tile of one picture; `careful` ones are computed in float32."""

    picture: int
    row: Span
    column: Span
    careful: bool = False

    @property
    def shape(self) -> Size:
        """Height and width that the network sees."""
        return self.row.size, self.column.size

    @property
    def core(self) -> Box:
        """What it answers for."""
        return Box(self.row.low, self.column.low, self.row.high, self.column.high)

    def of(self, pictures: Tensor) -> Tensor:
        """Return what the network sees: (1, C, h, w)."""
        rows = pictures[self.picture : self.picture + 1, :, self.row.start : self.row.start + self.row.size]
        return rows[..., self.column.start : self.column.start + self.column.size]


@dataclass(frozen=True)
class Report:
    """One tile is done: which it was, what was written, and how many are done and left."""

    tile: Tile
    written: Tensor
    done: int
    left: int


class OutOfMemory(MemoryError):
    """Even the smallest tile does not fit."""


class NotANumber(ValueError):
    """The network gives no numbers, in float32 either."""


def enlarge(
    pictures: Tensor,
    stage: Stage,
    plan: TilePlan,
    placement: Placement,
    *,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    batch_pixels: int = 0,
    report: Callable[[Report], None] | None = None,
    recover: Callable[[], float] | None = None,
) -> Tensor:
    """Run (F, C, H, W) through `stage` tile by tile and return (F, C', placement's height, width).

    Args:
        device, dtype: of the result; the pictures' device where it is None.
        batch_pixels: tiles of one shape go together up to so many input pixels; 0 is one at a time.
        report: called after every tile, in this thread; what it raises ends the loop.
        recover: called after running out of memory: gives back what the allocator keeps, and returns the free bytes.

    Raises:
        OutOfMemory: when even the smallest tile does not fit.
        NotANumber: when the network gives NaN in float32 too.
    """
    waiting = _Waiting(plan, len(pictures), stage, placement, batch_pixels, recover)
    canvas = _Canvas(len(pictures), device or pictures.device, dtype)
    done = 0
    calls = _calls(pictures, stage.workers, waiting, canvas.device)
    try:
        for tiles, fitted in calls:
            good = [not bool(written.sum(dtype=torch.float32).isnan()) for written in fitted]
            waiting.passed(
                tiles, again=[tile for tile, is_good in zip(tiles, good, strict=True) if not is_good]
            )
            for tile, written in compress(zip(tiles, fitted, strict=True), good):
                canvas.write(tile, written, waiting.placement)
                done += 1
                if report:
                    report(Report(tile, written, done, len(waiting)))
    finally:
        calls.close()
    return canvas.finished()


class _Canvas:
    """The result, made when the first tile is there; a tile that is the whole result becomes it."""

    def __init__(self, count: int, device: torch.device, dtype: torch.dtype) -> None:
        self._count, self.device, self._dtype = count, device, dtype
        self._result: Tensor | None = None
        self._begun: set[int] = set()  # pictures to which mixed tiles were added

    def write(self, tile: Tile, written: Tensor, placement: Placement) -> None:
        size = placement.rows.target, placement.columns.target
        if self._result is None and self._count == 1 and written.shape[-2:] == size:
            self._result = written.to(self.device, self._dtype)
            return
        if self._result is None:
            shape = (self._count, written.shape[1], *size)
            layout = layout_of(written)
            self._result = torch.empty(shape, device=self.device, dtype=self._dtype, memory_format=layout)
        picture = self._result[tile.picture]
        if placement.mixes and tile.picture not in self._begun:
            self._begun.add(tile.picture)
            picture.zero_()
        placement.write(picture, written[0], tile.row, tile.column)

    def finished(self) -> Tensor:
        assert self._result is not None, "a plan has at least one tile"
        return self._result


def layout_of(pictures: Tensor) -> torch.memory_format:
    """Return the memory layout of (B, C, H, W), so that a copy can be made in the same."""
    flat = pictures.is_contiguous(memory_format=torch.channels_last) and not pictures.is_contiguous()
    return torch.channels_last if flat else torch.contiguous_format


class _Waiting:
    """The tiles still to do; handed out to one or several workers."""

    def __init__(
        self,
        plan: TilePlan,
        count: int,
        stage: Stage,
        placement: Placement,
        batch_pixels: int,
        recover: Callable[[], float] | None,
    ) -> None:
        self._plan, self._stage, self._batch_pixels, self._recover = plan, stage, batch_pixels, recover
        self.placement = placement
        self._tiles = deque(Tile(picture, *tile) for picture in range(count) for tile in plan.tiles)
        self._taken = 0
        self._passed = 0  # pixels of the largest call that passed
        self._ceiling = 0  # pixels above which nothing is tried any more; 0 is none
        self._ended = False
        self._change = threading.Condition()

    def __len__(self) -> int:
        return len(self._tiles) + self._taken

    def take(self, wait: bool) -> list[Tile]:
        """Return the next tiles for one call; none when all are done. `wait` for those of others, which may fail."""
        with self._change:
            while wait and not self._tiles and self._taken:
                self._change.wait()
            if not self._tiles:
                return []
            first = self._tiles.popleft()
            if self._ceiling and math.prod(first.shape) > self._ceiling:
                self._put_back(self._pieces(first, self._ceiling))
                first = self._tiles.popleft()
            tiles = [first]
            while self._fits(tiles):
                tiles.append(self._tiles.popleft())
            self._taken += len(tiles)
            return tiles

    def passed(self, tiles: Sequence[Tile], again: Sequence[Tile] = ()) -> None:
        """Note that these are done, but for those in `again`, which hold no numbers: they wait for float32.

        Raises:
            NotANumber: when it was float32 already.
        """
        with self._change:
            self._taken -= len(tiles)
            self._passed = max(self._passed, _pixels(tiles))
            for tile in again:
                if tile.careful:
                    raise bad_input(
                        "upscale_model",
                        f"numbers for the tile at ({tile.column.low}, {tile.row.low})",
                        "NaN, in float32 too",
                        "The model's file is damaged, or it is not for such pictures.",
                        NotANumber,
                    )
            self._put_back([replace(tile, careful=True) for tile in again])
            self._change.notify_all()

    def failed(self, tiles: Sequence[Tile]) -> None:
        """Note that these ran out of memory: they wait again in pieces.

        Raises:
            OutOfMemory: when they were as small as they can be.
        """
        pixels, smallest = _pixels(tiles), self._stage.reach().smallest_tile
        if len(tiles) == 1 and max(tiles[0].shape) <= smallest:
            height, width = tiles[0].shape
            raise bad_input(
                "upscale_model",
                f"memory for a tile of {width}x{height} pixels",
                "none",
                "Close other programs, or use a smaller model.",
                OutOfMemory,
            )
        free = fitting_pixels(self._stage.need, self._recover()) if self._recover else pixels
        with self._change:
            if self._ended:
                return
            # A plan of one tile was made without asking for the reach: until now nothing had to be mixed.
            self.placement = self.placement.with_blend(self._stage.reach().blend)
            safe = self._passed if 0 < self._passed < pixels else min(pixels // 4, free)
            self._ceiling = max(safe, smallest**2)
            self._batch_pixels = min(self._batch_pixels, self._ceiling)
            self._taken -= len(tiles)
            self._put_back([piece for tile in tiles for piece in self._pieces(tile, self._ceiling)])
            self._change.notify_all()

    def give_up(self) -> None:
        """Hand out no more, whatever still fails."""
        with self._change:
            self._ended = True
            self._tiles.clear()
            self._taken = 0
            self._change.notify_all()

    def _put_back(self, tiles: Sequence[Tile]) -> None:
        self._tiles.extendleft(reversed(tiles))

    def _fits(self, tiles: list[Tile]) -> bool:
        """Return whether the next tile can go with these."""
        if not self._tiles or _pixels(tiles) + math.prod(tiles[0].shape) > self._batch_pixels:
            return False
        one, other = tiles[0], self._tiles[0]
        return one.shape == other.shape and one.careful == other.careful

    def _pieces(self, tile: Tile, pixels: int) -> list[Tile]:
        if math.prod(tile.shape) <= pixels:
            return [tile]
        plan = split_tile(self._plan, tile.row, tile.column, self._stage.reach(), math.isqrt(pixels))
        return [Tile(tile.picture, row, column, tile.careful) for row, column in plan.tiles]


def _pixels(tiles: Sequence[Tile]) -> int:
    return len(tiles) * math.prod(tiles[0].shape)


_Call: TypeAlias = tuple[Sequence[Tile], list[Tensor]]


def _calls(
    pictures: Tensor, workers: Sequence[Worker], waiting: _Waiting, device: torch.device
) -> Generator[_Call, None, None]:
    """Yield every call with what its tiles write, on `device`, as they are done."""
    if len(workers) > 1:
        yield from _calls_in_threads(pictures, workers, waiting, device)
        return
    [worker] = workers
    flying: tuple[list[Tile], list[_Delivery]] | None = None
    while len(waiting):
        tiles = waiting.take(wait=flying is None)
        started = _start(pictures, worker, tiles, device, waiting) if tiles else None
        # The next call is queued before the one before it is waited for.
        if worker.runs_ahead:
            started, flying = flying, started
        if started:
            yield started[0], [delivery.wait() for delivery in started[1]]


def _calls_in_threads(
    pictures: Tensor, workers: Sequence[Worker], waiting: _Waiting, device: torch.device
) -> Generator[_Call, None, None]:
    """The same with a thread for each of several devices; each takes the next call as soon as it is free."""
    done: queue.SimpleQueue[_Call | BaseException | None] = queue.SimpleQueue()

    def work(worker: Worker) -> None:
        try:
            with torch.inference_mode():  # a thread does not inherit it
                while tiles := waiting.take(wait=True):
                    if started := _start(pictures, worker, tiles, device, waiting):
                        done.put((tiles, [delivery.wait() for delivery in started[1]]))
            done.put(None)
        except BaseException as error:
            done.put(error)

    threads = [threading.Thread(target=work, args=(worker,), daemon=True) for worker in workers]
    for thread in threads:
        thread.start()
    try:
        running = len(threads)
        while running:
            call = done.get()
            if isinstance(call, BaseException):
                raise call
            if call is None:
                running -= 1
            else:
                yield call
    finally:
        waiting.give_up()
        for thread in threads:
            thread.join()


def _start(
    pictures: Tensor, worker: Worker, tiles: list[Tile], device: torch.device, waiting: _Waiting
) -> tuple[list[Tile], list[_Delivery]] | None:
    """Compute a call and send it on its way; None where memory ran out, and its tiles wait again."""
    placement = waiting.placement
    try:
        run = worker.run_carefully if tiles[0].careful else worker
        enlarged = run(_gather(pictures, tiles))
        parts = [placement.fit(enlarged[at : at + 1], tile.row, tile.column) for at, tile in enumerate(tiles)]
        return tiles, [_Delivery(part, device) for part in parts]
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    # Outside the handler: the error's traceback would keep the tensors of the failed call alive.
    waiting.failed(tiles)
    return None


class _Delivery:
    """A tile on its way to where the result lies; from a GPU by way of pinned memory, while the GPU goes on."""

    def __init__(self, tile: Tensor, device: torch.device) -> None:
        self._event: torch.cuda.Event | None = None
        if tile.device.type == "cuda" and device.type == "cpu":
            self._tile = torch.empty(tile.shape, dtype=tile.dtype, pin_memory=True)
            self._tile.copy_(tile, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(tile.device))
        else:
            self._tile = tile.to(device)

    def wait(self) -> Tensor:
        """Return the tile, arrived."""
        if self._event is not None:
            self._event.synchronize()
        return self._tile


def _gather(pictures: Tensor, tiles: Sequence[Tile]) -> Tensor:
    seen = [tile.of(pictures) for tile in tiles]
    return seen[0] if len(seen) == 1 else torch.cat(seen)
