"""Read, compute and write at the same time, with a bounded number of frames in flight.

The computing stays in the caller's thread: `read_ahead` reads the next frames in a thread, `WriteBehind` writes those
that are done in another.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

Item = TypeVar("Item")
AHEAD = 3  # frames that wait on either side


@dataclass(frozen=True)
class _End:
    """The last thing in a queue; with the error that ended it."""

    error: BaseException | None = None


@contextmanager
def read_ahead(items: Iterator[Item], ahead: int = AHEAD) -> Generator[Iterator[Item], None, None]:
    """Give an iterator over `items`, which a thread takes up to `ahead` early; an error there is raised here."""
    waiting: queue.Queue[Item | _End] = queue.Queue(ahead)
    stopped = threading.Event()

    def put(item: Item | _End) -> None:
        while not stopped.is_set():
            try:
                return waiting.put(item, timeout=0.1)
            except queue.Full:
                continue

    def read() -> None:
        error = None
        try:
            for item in items:
                put(item)
                if stopped.is_set():
                    break
        except BaseException as caught:
            error = caught
        put(_End(error))

    def taken() -> Iterator[Item]:
        while True:
            item = waiting.get()
            if isinstance(item, _End):
                if item.error:
                    raise item.error
                return
            yield item

    thread = threading.Thread(target=read, name="read ahead", daemon=True)
    thread.start()
    try:
        yield taken()
    finally:
        stopped.set()
        thread.join()


class WriteBehind(Generic[Item]):
    """Calls `write` for every item in a thread of its own; `put` waits while `ahead` items are not written yet.

    As a context it waits for the last item, also when its body raises: what was put is written.
    """

    def __init__(self, write: Callable[[Item], None], ahead: int = AHEAD) -> None:
        self._write = write
        self._waiting: queue.Queue[Item | _End] = queue.Queue(ahead)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="write behind", daemon=True)

    def put(self, item: Item) -> None:
        """Hand on an item.

        Raises:
            Exception: what writing an earlier one has raised.
        """
        if self._error:
            raise self._error
        self._waiting.put(item)

    def __enter__(self) -> WriteBehind[Item]:
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._waiting.put(_End())
        self._thread.join()
        if self._error and error is None:
            raise self._error

    def _run(self) -> None:
        with torch.inference_mode():  # a thread does not inherit it
            while not isinstance(item := self._waiting.get(), _End):
                if self._error:
                    continue  # drained, so that `put` never blocks
                try:
                    self._write(item)
                except BaseException as error:
                    self._error = error
