"""Time several variants of one thing in one process, interleaved, so that changes of the machine's speed
affect all of them equally.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


def interleave(variants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the CPU seconds of each variant in each round, after one warm-up round.

    The order rotates by one each round, so that no variant always runs after the same other one.
    """
    names = list(variants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-1, rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            before = time.process_time()
            variants[name]()
            if number >= 0:
                seconds[name].append(time.process_time() - before)
    return seconds


def ratios(seconds: Mapping[str, list[float]], base: str) -> dict[str, tuple[float, float, float]]:
    """Return the median, lowest and highest quartile of each variant's ratio to `base`, pair by pair."""
    result: dict[str, tuple[float, float, float]] = {}
    for name, values in seconds.items():
        pairs = [value / other for value, other in zip(values, seconds[base], strict=True)]
        low, median, high = statistics.quantiles(pairs, n=4)
        result[name] = (median, low, high)
    return result
