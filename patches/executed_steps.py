"""Schedules in shares of the steps that a run executes, as the reference code of HiDiffusion counts."""

from __future__ import annotations

import math
import operator
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.weak import WeakIdKeyDictionary

from ..errors import bad_input
from .schedule import Schedule, SigmaWindow, Unit, falling

_MARGIN = 1e-5  # relative; sigmas of one schedule step differ by far more, float32 noise by far less

NEVER = SigmaWindow(high=-math.inf, low=math.inf)


def schedule_in(
    unit: Unit, start: float, end: float, fade: float = 0.0, decimals: int | None = None
) -> Schedule:
    """Return the schedule from `start` to `end` in any unit; `decimals` as for `Schedule`."""
    return (ExecutedSteps if unit == "steps" else Schedule)(start, end, unit, fade, decimals)


@dataclass(frozen=True)
class ExecutedSteps(Schedule):
    """Step i of the n that a run executes is on if int(start * n) <= i < int(end * n)."""

    unit: Unit = "steps"

    def resolve(self, sampling: Any, sample_sigmas: torch.Tensor | None) -> SigmaWindow:
        """Return the window of sigmas for one run.

        Raises:
            ValueError: the sampler does not publish which steps it takes.
        """
        if sample_sigmas is None:
            publishing = "a sampler that publishes its sigmas for a schedule in steps"
            raise bad_input("time_mode", publishing, "none", "Use percent instead.")
        return _resolve_steps(self, _as_tuple(sample_sigmas))


def step_of(sigma: float, sample_sigmas: torch.Tensor | None) -> int:
    """Return which step of a run a noise level belongs to, from 0: the last one that begins at it or above it.

    The second evaluation of a two-evaluation sampler, where it is at the next step's noise level, counts as that step.
    """
    if sample_sigmas is None:
        return 0
    sigmas = _as_tuple(sample_sigmas)
    begun = bisect_right(sigmas, -sigma * (1 - _MARGIN), key=operator.neg)
    return min(max(begun - 1, 0), max(len(sigmas) - 2, 0))


_SIGMAS = WeakIdKeyDictionary()


def _as_tuple(sample_sigmas: torch.Tensor) -> tuple[float, ...]:
    # One copy from the device for a run, not one for a call.
    if sample_sigmas not in _SIGMAS:
        _SIGMAS[sample_sigmas] = tuple(sample_sigmas.tolist())
    return _SIGMAS[sample_sigmas]


def _resolve_steps(schedule: Schedule, sigmas: Sequence[float]) -> SigmaWindow:
    steps = len(sigmas) - 1
    first, stop = int(schedule.start * steps), int(schedule.end * steps)
    if stop <= first:
        return NEVER
    # The boundary evaluation of a two-evaluation sampler belongs to the step that begins there.
    high = math.inf if first == 0 else sigmas[first] * (1 + _MARGIN)
    low = -math.inf if stop == steps else sigmas[stop] * (1 + _MARGIN)  # a run may stop above zero
    fade: tuple[float, ...] = ()
    if faded := int(schedule.fade * steps):
        # Full at the last full step, zero after the faded ones.
        fade = falling(sigmas[stop - 1 : stop + faded + 1])
    return SigmaWindow(high, low, fade)
