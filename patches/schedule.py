"""Schedule: when an effect is on and how strongly, for every sampler.

A user sets it in percent, timesteps, sigmas or shares of the executed steps. It is converted with the model's
sampling and the run's sigmas to a window of sigmas, because the noise level is the only value that every
sampler passes to every model call: so samplers that call the model twice a step, or once for each
conditioning, need no counting.
"""

from __future__ import annotations

import operator
import weakref
from bisect import bisect_right
from collections.abc import Callable, Iterable
from typing import Any, Literal

from ..record import record

Unit = Literal["percent", "timestep", "sigma", "steps"]

NEVER_ON = "no block is set, or start_time is after end_time"  # why an effect is idle
BEFORE_THE_START = 999999999.9
LAST_TIMESTEP = 999.0  # of all models with UNets, and of the host's percent

_FADE_POINTS = 33


@record
class SigmaWindow:
    """Full strength from `high` down to `low`, both included, then along `fade` to zero.

    `fade` has the sigmas at which the strength has fallen by equal amounts, from `low` to its end; if empty,
    the strength falls to 0 at once.
    """

    high: float
    low: float
    fade: tuple[float, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether it has full strength at every noise level; the host uses this sigma for the start."""
        return self.high >= BEFORE_THE_START and self.low <= 0.0

    def meets(self, highest: float, lowest: float) -> bool:
        """Return whether it is on, at any strength, somewhere between two noise levels, both included."""
        return lowest <= self.high and highest >= (self.fade[-1] if self.fade else self.low)

    def strength(self, sigma: float) -> float:
        """Return 0 (off) to 1 (full) at a noise level."""
        if sigma > self.high:
            return 0.0
        if sigma >= self.low:
            return 1.0
        if not self.fade or sigma <= self.fade[-1]:
            return 0.0
        after = bisect_right(self.fade, -sigma, key=operator.neg)
        left, right = self.fade[after - 1], self.fade[after]
        position = after - 1 + (left - sigma) / (left - right)
        return 1.0 - position / (len(self.fade) - 1)

    def weakest(self, sigmas: Iterable[float]) -> float:
        """Return the lowest strength at the noise levels in a batch; if `is_whole`, they are not read.

        The entries of a batch are changed together, and one after the window must not be changed.
        """
        return 1.0 if self.is_whole else min(self.strength(sigma) for sigma in sigmas)


@record
class Schedule:
    """From `start` to `end`, both included, then fading out over `fade` more of the same unit.

    percent: 0 is the start of sampling and 1 its end, converted by the model's own `percent_to_sigma`.
    timestep, sigma: fall from `start` to `end`.
    steps: see executed_steps.py, which makes schedules of any unit.

    `decimals` rounds the sigma of a percent or timestep, as some original nodes do; None does not.
    """

    start: float = 0.0
    end: float = 1.0
    unit: Unit = "percent"
    fade: float = 0.0
    decimals: int | None = None

    @property
    def is_ordered(self) -> bool:
        """Whether `end` is not before `start`."""
        rising = self.unit in ("percent", "steps")
        return self.start <= self.end if rising else self.start >= self.end

    def resolve(self, sampling: Any, sample_sigmas: tuple[float, ...] | None) -> SigmaWindow:
        """Return the window of sigmas for one run.

        Args:
            sampling: the host's `model_sampling` of the model that runs.
            sample_sigmas: the falling sigmas of the run, steps + 1, where the sampler publishes them.
        """
        windows = _WINDOWS.setdefault(sampling, {})
        if self not in windows:
            windows[self] = _resolve(self, _sigma_at(self, sampling))
        return windows[self]


# The host replaces a model_sampling object to change it, it never changes one: what is resolved stays true.
_WINDOWS: weakref.WeakKeyDictionary[Any, dict[Schedule, SigmaWindow]] = weakref.WeakKeyDictionary()


def _sigma_at(schedule: Schedule, sampling: Any) -> Callable[[float], float]:
    def sigma_at(time: float) -> float:
        if schedule.unit == "sigma":
            return float(time)
        percent = 1.0 - time / LAST_TIMESTEP if schedule.unit == "timestep" else time
        sigma = float(sampling.percent_to_sigma(percent))  # some of the host's give a tensor
        return sigma if schedule.decimals is None else round(sigma, schedule.decimals)

    return sigma_at


def _resolve(schedule: Schedule, sigma_at: Callable[[float], float]) -> SigmaWindow:
    low = sigma_at(schedule.end)
    fade: tuple[float, ...] = ()
    if schedule.fade:
        span = min(schedule.fade, 1.0 - schedule.end) if schedule.unit == "percent" else -schedule.fade
        fade = falling(sigma_at(schedule.end + span * i / (_FADE_POINTS - 1)) for i in range(_FADE_POINTS))
    return SigmaWindow(sigma_at(schedule.start), low, fade)


def falling(sigmas: Iterable[float]) -> tuple[float, ...]:
    """Return the points of a fade, each noise level once; empty if there is nothing between them."""
    points = list(dict.fromkeys(sigmas))
    return tuple(points) if len(points) > 1 else ()
