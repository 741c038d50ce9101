"""Schedules in shares of the steps that a run executes, as the reference code of HiDiffusion counts."""

from __future__ import annotations

import math
import operator
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from ..errors import bad_input
from ..record import record
from .model_call import ModelCall
from .schedule import Schedule, SigmaWindow, Unit, falling

_MARGIN = 1e-5  # relative; sigmas of one schedule step differ by far more, float32 noise by far less

_WHOLE = 0.9  # of the highest noise level: some schedulers begin a whole sampling a little below it

NEVER = SigmaWindow(high=-math.inf, low=math.inf)


def schedule_in(
    unit: Unit, start: float, end: float, fade: float = 0.0, decimals: int | None = None
) -> Schedule:
    """Return the schedule from `start` to `end` in any unit; `decimals` as for `Schedule`."""
    return (ExecutedSteps if unit == "steps" else Schedule)(start, end, unit, fade, decimals)


@record
class ExecutedSteps(Schedule):
    """Step i of the n that a run executes is on if int(start * n) <= i < int(end * n)."""

    unit: Unit = "steps"

    def resolve(self, sampling: Any, sample_sigmas: tuple[float, ...] | None) -> SigmaWindow:
        """Return the window of sigmas for one run.

        Raises:
            ValueError: when the sampler does not publish its steps.
        """
        if sample_sigmas is None:
            publishing = "a unit other than steps, because this sampler does not publish its sigmas"
            raise bad_input("time_mode", publishing, "steps", "Use percent instead.")
        return _resolve_steps(self, sample_sigmas)


def begun_at(sigma: float, sample_sigmas: Sequence[float] | None) -> float:
    """Return the noise level at the start of the step that `sigma` belongs to.

    The second evaluation of a two-evaluation sampler, where it is at the next step's noise level, counts as
    that step.
    """
    if not sample_sigmas:
        return sigma
    begun = bisect_right(sample_sigmas, -sigma * (1 - _MARGIN), key=operator.neg)
    return sample_sigmas[max(begun - 1, 0)]


def counted_steps(call: ModelCall) -> str:
    """Return the remark for a schedule in shares of steps, if the run is only a part of a longer sampling."""
    sigmas = call.sample_sigmas
    if not sigmas or (sigmas[-1] == 0.0 and sigmas[0] >= _WHOLE * float(call.sampling.sigma_max)):
        return ""
    steps = f"{len(sigmas) - 1} steps" if len(sigmas) > 2 else "one step"
    return f" (shares of the {steps} of this run only, which is part of a longer sampling)"


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
