"""Reading, computing and writing in parallel, with a bounded number of frames in memory.

The computing stays in the caller's thread: `ReadAhead` reads the next frames in a thread, `WriteBehind`
writes finished ones in another.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import torch

from ..record import record

Item = TypeVar("Item")
AHEAD = 3  # frames that wait on either side
PATIENCE = 0.1  # seconds after which a waiting reader asks whether it is still needed


@record
class _End:
    """The last thing in a queue; with the error that ended it."""

    error: BaseException | None = None


class ReadAhead(Generic[Item]):
    """As a context, an iterator over `items`, of which a thread reads up to `ahead` in advance; an error
    there is raised here.
    """

    def __init__(self, items: Iterator[Item], ahead: int = AHEAD) -> None:
        self._items = items
        self._waiting: queue.Queue[Item | _End] = queue.Queue(ahead)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="read ahead", daemon=True)

    def __enter__(self) -> Iterator[Item]:
        self._thread.start()
        return self._taken()

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _taken(self) -> Iterator[Item]:
        while not isinstance(item := self._waiting.get(), _End):
            yield item
        if item.error:
            raise item.error

    def _run(self) -> None:
        error = None
        try:
            for item in self._items:
                if not self._put(item):
                    break
            if close := getattr(self._items, "close", None):
                close()  # a generator, here and now: it may hold a file open
        except BaseException as caught:
            error = caught
        self._put(_End(error))

    def _put(self, item: Item | _End) -> bool:
        """Put an item into the queue; return whether it is still needed."""
        while not self._stopped.is_set():
            try:
                self._waiting.put(item, timeout=PATIENCE)
                return True
            except queue.Full:
                continue
        return False


class WriteBehind(Generic[Item]):
    """Calls `write` for every item in its own thread; `put` waits while `ahead` items are not written yet.

    As a context it waits for the last item, also if its body raises: all items are written.
    """

    def __init__(self, write: Callable[[Item], None], ahead: int = AHEAD) -> None:
        self._write = write
        self._waiting: queue.Queue[Item | _End] = queue.Queue(ahead)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="write behind", daemon=True)

    def put(self, item: Item) -> None:
        """Queue an item.

        Raises:
            Exception: when writing an earlier item raised it.
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
