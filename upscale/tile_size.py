"""Choosing the tile size: large enough to waste little, small enough for the memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

from .budget import BudgetSpent
from .memory import MemoryEstimate
from .tiles import ReceptiveField, Span, TilePlan, cut_axis, cut_evenly, plan_tiles, single_tile

LEAST = 64  # side of the smallest tiles that are tried
RESERVE = 0.8  # of the free memory; the rest is for what is not counted
# Values of a tensor from which on many kernels cannot index it, and cuDNN finds none that can.
INDEXED = 2**31

WASTE = 1.2  # pixels computed divided by pixels needed that is accepted for the sake of small tensors

# On the CPU a call that holds more than about 56 MiB gets fresh pages for its tensors every time: glibc gives memory back
# to the system above 64 MiB at the heap's end, and never keeps a block above 32 MiB. Filling in pages takes as long as
# a third to a half of the network's own work.
CPU_HELD, CPU_PENALTY = 56 * 2**20, 1.4


def fitting_pixels(estimate: MemoryEstimate, free: float) -> int:
    """Return the maximum number of input pixels of a call with `free` bytes."""
    return int(min(RESERVE * free / max(estimate.peak, 1.0), (INDEXED - 1) / max(estimate.largest, 1.0)))


def choose_plan(
    height: int,
    width: int,
    receptive_field: Callable[[], ReceptiveField],
    estimate: MemoryEstimate,
    free: float,
    on_cpu: bool,
) -> TilePlan:
    """Return the tiles with the least work that fit `free` bytes; the smallest possible ones if none fit.

    On a GPU, and for a network that looks at the whole image, the image is processed in one piece if that
    fits. `receptive_field` is called only if one piece may not be best; if it raises `BudgetSpent`, one piece
    is used.
    """
    pixels = fitting_pixels(estimate, free)
    whole = single_tile(height, width)
    fits = height * width <= pixels
    if fits and not (on_cpu and estimate.peak * height * width > CPU_HELD):
        return whole
    try:
        field = receptive_field()
    except BudgetSpent:
        return whole
    if fits and field.blend:
        return whole
    held = CPU_HELD / max(estimate.peak, 1.0) if on_cpu else math.inf
    best, least = None, (True, math.inf, 0)
    for rows, columns in product(_cuts(height, field), _cuts(width, field)):
        tiles, area = len(rows) * len(columns), rows[0].size * columns[0].size
        waste = tiles * area / (height * width)
        work = waste > WASTE, waste * (CPU_PENALTY if area > held else 1.0), tiles
        if area <= pixels and work < least:
            best, least = TilePlan(height, width, rows, columns), work
    return best or plan_tiles(height, width, field, LEAST)


def _cuts(length: int, field: ReceptiveField) -> list[tuple[Span, ...]]:
    """Return all ways to cut an axis into tiles of one size, from one tile to the smallest tiles."""
    most = len(cut_axis(length, field, LEAST))
    return [cut_evenly(length, field, 0, length, count) for count in range(1, most + 1)]
