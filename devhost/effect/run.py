"""Distribute units over processes of one thread each, and print the progress."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path

from tqdm import tqdm

from .draw import draw
from .kept import Kept, Record
from .methods import DRAWN
from .plan import Unit

Draw = Callable[[Unit, Path], Record]
DRAWN_WEIGHT = 0.01
"""A scene that is drawn costs a hundredth of one that is sampled."""
FIRST_GUESS = 0.02
"""Share of the work from which on the time that is left is told."""


def run(units: Sequence[Unit], kept: Kept, jobs: int, task: Draw = draw) -> None:
    """Sample all units and save each as soon as it is finished; on an error or Ctrl-C all processes end at
    once.
    """
    began, done, whole = time.monotonic(), 0.0, sum(map(_weight, units))
    for number, record in enumerate(_finished(units, kept.folder, jobs, task), start=1):
        kept.append(record)
        done += _weight(record.unit)
        left = (time.monotonic() - began) * (whole - done) / done
        told = f", {_clock(left)} left" if done >= FIRST_GUESS * whole else ""
        _say(f"{number}/{len(units)}  {_name(record)}  {record.cpu_seconds:.0f} CPU s{told}")


def _finished(units: Sequence[Unit], folder: Path, jobs: int, task: Draw) -> Iterator[Record]:
    """Yield the records in the order in which they come."""
    if jobs == 1 or len(units) == 1:
        yield from (task(unit, folder) for unit in units)
        return
    spawned = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(jobs, mp_context=spawned, initializer=_begin)
    try:
        waiting: set[Future[Record]] = {executor.submit(task, unit, folder) for unit in units}
        while waiting:
            finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in finished)
    except BaseException:
        for child in multiprocessing.active_children():
            child.terminate()
        raise
    finally:
        executor.shutdown(cancel_futures=True)


def _begin() -> None:
    """Start a process: the parent alone says what happens on Ctrl-C,
    and nothing outlives a process that it ends.
    """
    # The usual lock, which the host's progress bars make, is a semaphore of the whole machine.
    tqdm.set_lock(threading.RLock())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.disable(logging.WARNING)


def _weight(unit: Unit) -> float:
    return unit.weight * (DRAWN_WEIGHT if unit.cell.model == DRAWN else 1.0)


def _name(record: Record) -> str:
    cell, pictures = record.unit.cell, record.unit.pictures
    subject = "" if cell.subject == "one" else ", many objects"
    model = "" if cell.model == DRAWN else f"{cell.model} "
    return f"{model}{cell.size} {cell.method}{subject}, pictures {pictures[0]} to {pictures[-1]}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


def _say(message: str) -> None:
    print(f"effect: {message}", file=sys.stderr, flush=True)
