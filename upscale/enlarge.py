"""The loop over tiles: runs the network, writes the result,
and is the only place that handles running out of memory.

If a call runs out of memory, only its own tiles are repeated, split into smaller ones: of a size that worked
before, or of what fits the memory that is free then, at most half the side. Finished tiles stay, and the
remaining ones are split to the same size. Errors that may mean the same are treated so once; if one comes
again in a smaller call, it is raised. A tile with NaN is computed again in float32 and never written with
NaN.

F images, C channels, H and W pixels.
"""

from __future__ import annotations

import math
import queue
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import compress
from typing import TypeAlias

import torch
from torch import Tensor

from ..errors import bad_input
from ..record import record
from ..scaling.size import Size
from .float32 import true_products
from .memory import is_out_of_memory, may_be_out_of_memory
from .placement import Placement
from .stage import Stage, Worker
from .tile_size import fitting_pixels
from .tiles import Span, TilePlan, split_tile
from .transfer import Check, deliver


@record
class Tile:
    """One tile of one image; `fp32_fallback` ones are computed in float32."""

    picture: int
    row: Span
    column: Span
    fp32_fallback: bool = False

    @property
    def shape(self) -> Size:
        """Height and width of the network's input."""
        return self.row.size, self.column.size

    def of(self, pictures: Tensor) -> Tensor:
        """Return the network's input: (1, C, h, w)."""
        picture = pictures[self.picture : self.picture + 1]
        return picture.narrow(2, self.row.start, self.row.size).narrow(3, self.column.start, self.column.size)


class OutOfMemory(MemoryError):
    """Even the smallest tile does not fit."""


class NotANumber(ValueError):
    """The network gives NaN, also in float32."""


def enlarge(
    pictures: Tensor,
    stage: Stage,
    plan: TilePlan,
    placement: Placement,
    *,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    batch_pixels: int = 0,
    report: Callable[[Tile, Tensor, int, int], None] | None = None,
    recover: Callable[[], float] | None = None,
    check: Check = lambda: None,
    blended: Callable[[], None] = lambda: None,
) -> Tensor:
    """Run (F, C, H, W) through `stage` tile by tile and return (F, C', placement's height, width).

    Args:
        device, dtype: of the result; None is the images' device.
        batch_pixels: maximum number of input pixels of tiles of one shape in one batch; 0 is one tile at a
            time.
        report: called after every tile, in this thread, with what was written of it, and how many tiles are
            done and left; what it raises ends the loop.
        recover: called after running out of memory: empties the allocator's cache and returns the free bytes.
        check: called repeatedly while waiting for a GPU; an error in it ends the loop.
        blended: called at the end if tiles were blended: the network looks at the whole image, and saw tiles.

    Raises:
        OutOfMemory: when even the smallest tile does not fit.
        NotANumber: when the network gives NaN in float32 too.
    """
    waiting = _Waiting(plan, len(pictures), stage, placement, batch_pixels, recover)
    size, device = (placement.rows.target, placement.columns.target), device or pictures.device
    result, done, begun = None, 0, set[int]()
    # For `fit`, and all the time: a thread that switched would change what the networks of others compute.
    with true_products(), closing(_calls(pictures, stage.workers, waiting, device, check)) as calls:
        for tiles, fitted, spoiled in calls:
            waiting.passed(tiles, again=list(compress(tiles, spoiled)))
            for tile, written, is_spoiled in zip(tiles, fitted, spoiled, strict=True):
                if is_spoiled:
                    continue
                if result is None and len(pictures) == 1 and written.shape[-2:] == size:
                    result = written.to(device, dtype)  # a tile that is the whole result becomes it
                else:
                    if result is None:
                        result = empty_pictures(written, len(pictures), size, device, dtype)
                    if waiting.placement.mixes and tile.picture not in begun:
                        result[tile.picture].zero_()
                        begun.add(tile.picture)
                    waiting.placement.write(result[tile.picture], written[0], tile.row, tile.column)
                done += 1
                if report:
                    report(tile, written, done, len(waiting))
    assert result is not None, "a plan has at least one tile"
    if waiting.placement.mixes:
        blended()
    return result


def empty_pictures(like: Tensor, count: int, size: Size, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return an uninitialised (count, C, *size), in the memory format of `like` (B, C, h, w)."""
    flat = like.is_contiguous(memory_format=torch.channels_last) and not like.is_contiguous()
    memory_format = torch.channels_last if flat else torch.contiguous_format
    return torch.empty((count, like.shape[1], *size), device=device, dtype=dtype, memory_format=memory_format)


class _GivenUp(Exception):
    """The loop has ended."""


class _Waiting:
    """The remaining tiles, for one or several workers."""

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
        self._ceiling = sys.maxsize  # pixels above which nothing is tried any more
        self._doubt: Exception | None = None  # that may have meant being out of memory
        self._ended = False
        self._change = threading.Condition()

    def __len__(self) -> int:
        with self._change:
            return len(self._tiles) + self._taken

    def take(self, wait: bool = False) -> list[Tile]:
        """Return the next tiles for one call; empty when all are done.

        `wait` for those of other workers, which may fail.
        """
        with self._change:
            self._change.wait_for(lambda: not wait or self._tiles or not self._taken or self._ended)
            if self._ended or not self._tiles:
                return []
            if math.prod(self._tiles[0].shape) > self._ceiling:
                whole, side = self._tiles.popleft(), math.isqrt(self._ceiling)
                pieces = split_tile(
                    self._plan, whole.row, whole.column, self._stage.receptive_field(), side
                ).tiles
                self._put_back((), [replace(whole, row=row, column=column) for row, column in pieces])
            tiles = [self._tiles.popleft()]
            while self._fits(tiles):
                tiles.append(self._tiles.popleft())
            self._taken += len(tiles)
            return tiles

    def passed(self, tiles: Sequence[Tile], again: Sequence[Tile] = ()) -> None:
        """Mark these as done, except those in `again`, which contain NaN: they wait for float32.

        Raises:
            NotANumber: when it was float32 already.
        """
        for tile in again:
            if tile.fp32_fallback:
                expected = f"finite numbers for the tile at ({tile.column.low}, {tile.row.low})"
                hint = "The model file is damaged, or the model does not fit these images."
                raise bad_input("upscale_model", expected, "NaN, also in float32", hint, NotANumber)
        with self._change:
            self._passed = max(self._passed, _pixels(tiles))
            self._put_back(tiles, [replace(tile, fp32_fallback=True) for tile in again])

    def failed(self, tiles: Sequence[Tile], doubt: Exception | None = None) -> None:
        """Mark these as out of memory: they wait again, split.

        `doubt` is the error if it may have another reason.

        Raises:
            OutOfMemory: when they were as small as they can be.
            Exception: when a smaller call raises a doubtful error again; it is the first such error.
        """
        pixels, smallest = _pixels(tiles), self._stage.receptive_field().smallest_tile
        as_small_as_can_be = len(tiles) == 1 and max(tiles[0].shape) <= smallest
        if doubt and (as_small_as_can_be or (self._doubt and pixels <= self._ceiling)):
            raise self._doubt or doubt
        if as_small_as_can_be:
            height, width = tiles[0].shape
            expected = f"memory for a tile of {width}x{height} pixels"
            hint = "Close other programs, or use a smaller model."
            raise bad_input("upscale_model", expected, "too little", hint, OutOfMemory)
        free = fitting_pixels(self._stage.memory_estimate, self._recover()) if self._recover else pixels
        with self._change:
            self._doubt = self._doubt or doubt
            # A plan of one tile was made without asking for the receptive field: until now nothing had to be mixed.
            self.placement = self.placement.with_blend(self._stage.receptive_field().blend)
            safe = self._passed if 0 < self._passed < pixels else min(pixels // 4, free)
            self._ceiling = max(safe, smallest**2)
            self._batch_pixels = min(self._batch_pixels, self._ceiling)
            self._put_back(tiles, tiles)

    def check(self) -> None:
        """End a worker's thread whose results are no longer needed.

        Raises:
            _GivenUp: when the loop has ended.
        """
        if self._ended:
            raise _GivenUp

    def give_up(self) -> None:
        """Return no more tiles, whatever still fails."""
        with self._change:
            self._ended = True
            self._change.notify_all()

    def _put_back(self, taken: Sequence[Tile], tiles: Sequence[Tile]) -> None:
        self._taken -= len(taken)
        self._tiles.extendleft(reversed(tiles))
        self._change.notify_all()

    def _fits(self, tiles: list[Tile]) -> bool:
        """Return whether the next tile can go with these."""
        if not self._tiles or _pixels(tiles) + math.prod(tiles[0].shape) > self._batch_pixels:
            return False
        one, other = tiles[0], self._tiles[0]
        return one.shape == other.shape and one.fp32_fallback == other.fp32_fallback


def _pixels(tiles: Sequence[Tile]) -> int:
    return len(tiles) * math.prod(tiles[0].shape)


# Tiles, what each writes, whether that holds NaN.
_Call: TypeAlias = tuple[list[Tile], list[Tensor], list[bool]]
_Started: TypeAlias = Callable[[Check], _Call]

LOOK = 0.1  # seconds after which the host is asked again whether to go on


def _calls(
    pictures: Tensor, workers: Sequence[Worker], waiting: _Waiting, device: torch.device, check: Check
) -> Generator[_Call, None, None]:
    """Yield every finished call with its tiles' results, on `device`."""
    if len(workers) > 1:
        yield from _calls_in_threads(pictures, workers, waiting, device, check)
        return
    [worker] = workers
    flying: _Started | None = None
    while len(waiting):
        tiles = waiting.take()
        started = _start(pictures, worker, tiles, device, waiting) if tiles else None
        # The next call is queued before the one before it is waited for.
        if worker.runs_ahead:
            started, flying = flying, started
        if started:
            yield started(check)


def _calls_in_threads(
    pictures: Tensor, workers: Sequence[Worker], waiting: _Waiting, device: torch.device, check: Check
) -> Generator[_Call, None, None]:
    """The same with a thread for each of several devices; each takes the next call as soon as it is free."""
    done: queue.Queue[_Call | BaseException] = queue.Queue()

    def work(worker: Worker) -> None:
        try:
            with torch.inference_mode():  # a thread does not inherit it
                while tiles := waiting.take(wait=True):
                    if started := _start(pictures, worker, tiles, device, waiting):
                        done.put(started(waiting.check))
        except BaseException as error:
            done.put(error)

    threads = [threading.Thread(target=work, args=(worker,), daemon=True) for worker in workers]
    for thread in threads:
        thread.start()
    try:
        while len(waiting):
            yield _next(done, check)
    finally:
        waiting.give_up()
        for thread in threads:
            thread.join()


def _next(done: queue.Queue[_Call | BaseException], check: Check) -> _Call:
    while True:
        try:
            call = done.get(timeout=LOOK)
        except queue.Empty:
            check()
            continue
        if isinstance(call, BaseException):
            raise call
        return call


def _start(
    pictures: Tensor, worker: Worker, tiles: list[Tile], device: torch.device, waiting: _Waiting
) -> _Started | None:
    """Start a call; return a function that waits for it,
    or None if memory ran out and its tiles are waiting again.
    """
    placement, doubt = waiting.placement, None
    try:
        for tile in tiles:
            placement.prepare(tile.row, tile.column, worker.device)
        seen = [tile.of(pictures) for tile in tiles]
        enlarged = worker(seen[0] if len(seen) == 1 else torch.cat(seen), tiles[0].fp32_fallback)
        parts = [placement.fit(enlarged[at : at + 1], tile.row, tile.column) for at, tile in enumerate(tiles)]
        # Where they were computed, because a sum over a large image takes the host as long as the network.
        spoiled = deliver(torch.stack([part.sum(dtype=torch.float32).isnan() for part in parts]), device)
        deliveries = [deliver(part, device) for part in parts]
        return lambda check: (tiles, [wait(check) for wait in deliveries], list(map(bool, spoiled(check))))
    except Exception as error:
        if not is_out_of_memory(error):
            if not may_be_out_of_memory(error):
                raise
            doubt = error.with_traceback(None)
    # Outside the handler: the error's traceback would keep the tensors of the failed call alive.
    waiting.failed(tiles, doubt)
    return None
