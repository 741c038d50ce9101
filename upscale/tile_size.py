"""Which tile is best: few enough to waste little, small enough for the memory."""

from __future__ import annotations

import math
from collections.abc import Callable

from .memory import Need
from .tiles import Reach, TilePlan, plan_tiles, single_tile

SIDES = (64, 80, 96, 112, 128, 160, 192, 224, 256, 288, 320, 352, 384, 448, 512, 640, 768, 896, 1024, 1280)
LARGE = 1024**2  # pixels of a tile; beyond, a GPU gains nothing and a preview waits
RESERVE = 0.8  # of the free memory; the rest is for what is not counted

WASTE = 1.2  # pixels computed by pixels needed that is accepted for the sake of small tensors

# On the CPU a call that holds more than about 56 MiB gets fresh pages for its tensors every time: glibc gives memory back
# to the system above 64 MiB at the heap's end, and never keeps a block above 32 MiB. Filling in pages takes as long as
# a third to a half of the network's own work.
CPU_HELD, CPU_PENALTY = 56 * 2**20, 1.4


def fitting_pixels(need: Need, free: float) -> int:
    """Return how many input pixels a call may have with `free` bytes."""
    return int(RESERVE * free / max(need.peak, 1.0))


def choose_plan(
    height: int, width: int, reach: Callable[[], Reach], need: Need, free: float, on_cpu: bool
) -> TilePlan:
    """Return the tiles with the least work that fit `free` bytes; the smallest possible where none fits.

    A network that looks at the whole picture is given it in one piece wherever that fits. `reach` is asked only where
    one tile may not be best.
    """
    pixels = fitting_pixels(need, free)
    whole = single_tile(height, width)

    def is_large(plan: TilePlan) -> bool:
        area = math.prod(plan.tile_size)
        return need.peak * area > CPU_HELD if on_cpu else area > LARGE

    fits = height * width <= pixels
    if fits and (not is_large(whole) or reach().blend):
        return whole
    plans = [plan_tiles(height, width, reach(), side) for side in SIDES]
    fitting = [plan for plan in plans if math.prod(plan.tile_size) <= pixels]
    if fits and (on_cpu or not fitting):
        fitting.append(whole)
    sparing = [plan for plan in fitting if plan.redundancy <= WASTE]

    def work(plan: TilePlan) -> tuple[float, int]:
        return plan.redundancy * (CPU_PENALTY if on_cpu and is_large(plan) else 1.0), len(plan.tiles)

    return min(sparing or fitting or plans[:1], key=work)
