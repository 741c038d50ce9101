"""Schedule: when an effect is on and how strongly, whatever the sampler.

A user says it in percent, timesteps, sigmas or shares of the executed steps. It is resolved against the model's
sampling and the run's sigmas into a window of sigmas, because the noise level is the one thing that every sampler
passes to every model call: samplers that call the model twice a step, or once for each half of the guidance, need no
counting.
"""

from __future__ import annotations

import math
import operator
import weakref
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.utils.weak import WeakIdKeyDictionary

Unit = Literal["percent", "timestep", "sigma", "steps"]

NEVER_ON = "no block, or a start_time behind its end_time"  # why an effect is idle
BEFORE_THE_START = 999999999.9

_FADE_POINTS = 33
_MARGIN = 1e-5  # relative; sigmas of one schedule step differ by far more, float32 noise by far less


@dataclass(frozen=True)
class SigmaWindow:
    """Full strength from `high` down to `low`, both included, then along `fade` to zero.

    `fade` holds the sigmas at which the strength has fallen by equal amounts, from `low` to its end; empty is a
    hard stop.
    """

    high: float
    low: float
    fade: tuple[float, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether it is at full strength at any noise level; the host gives this sigma for the very start."""
        return self.high >= BEFORE_THE_START and self.low <= 0.0

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
        """Return the least strength at the noise levels in a batch; a window that is whole does not read them.

        The entries of a batch are changed together, and one past the window must not be changed.
        """
        return 1.0 if self.is_whole else min(self.strength(sigma) for sigma in sigmas)


NEVER = SigmaWindow(high=-math.inf, low=math.inf)


@dataclass(frozen=True)
class Schedule:
    """From `start` to `end`, both included, then fading out over `fade` more of the same unit.

    percent: 0 is the start of sampling and 1 its end, converted by the model's own `percent_to_sigma`.
    timestep, sigma: fall from `start` to `end`.
    steps: shares of the steps that this run executes; step i of n is on if int(start * n) <= i < int(end * n).
    """

    start: float = 0.0
    end: float = 1.0
    unit: Unit = "percent"
    fade: float = 0.0

    @property
    def is_ordered(self) -> bool:
        """Whether `end` is not before `start`."""
        rising = self.unit in ("percent", "steps")
        return self.start <= self.end if rising else self.start >= self.end

    def resolve(self, sampling: Any, sample_sigmas: torch.Tensor | None) -> SigmaWindow:
        """Return the window of sigmas for one run.

        Args:
            sampling: the host's `model_sampling` of the model that runs.
            sample_sigmas: the falling sigmas of the run, (steps + 1,); only the unit "steps" needs them.

        Raises:
            ValueError: the unit is "steps" and the sampler did not say which steps it takes.
        """
        if self.unit == "steps":
            if sample_sigmas is None:
                raise ValueError(
                    "unit: expected a sampler that publishes its sigmas for a schedule in steps, got none. "
                    "Use percent instead."
                )
            return _resolve_steps(self, _as_tuple(sample_sigmas))
        windows = _WINDOWS.setdefault(sampling, {})
        if self not in windows:
            windows[self] = _resolve(self, _sigma_at(self.unit, sampling))
        return windows[self]


def step_of(sigma: float, sample_sigmas: torch.Tensor | None) -> int:
    """Return which step of a run a noise level belongs to, from 0: the last one that begins at it or above it.

    The second evaluation of a two-evaluation sampler, where it is at the next step's noise level, counts as that step.
    """
    if sample_sigmas is None:
        return 0
    sigmas = _as_tuple(sample_sigmas)
    begun = bisect_right(sigmas, -sigma * (1 - _MARGIN), key=operator.neg)
    return min(max(begun - 1, 0), max(len(sigmas) - 2, 0))


# The host replaces a model_sampling object to change it, it never changes one: what is resolved stays true.
_WINDOWS: weakref.WeakKeyDictionary[Any, dict[Schedule, SigmaWindow]] = weakref.WeakKeyDictionary()
_SIGMAS = WeakIdKeyDictionary()


def _as_tuple(sample_sigmas: torch.Tensor) -> tuple[float, ...]:
    # One copy from the device for a run, not one for a call.
    if sample_sigmas not in _SIGMAS:
        _SIGMAS[sample_sigmas] = tuple(sample_sigmas.tolist())
    return _SIGMAS[sample_sigmas]


def _sigma_at(unit: Unit, sampling: Any) -> Callable[[float], float]:
    if unit == "percent":
        return sampling.percent_to_sigma
    if unit == "timestep":
        return lambda timestep: float(sampling.sigma(torch.tensor(float(timestep))))
    return float


def _resolve(schedule: Schedule, sigma_at: Callable[[float], float]) -> SigmaWindow:
    low = sigma_at(schedule.end)
    fade: tuple[float, ...] = ()
    if schedule.fade:
        span = min(schedule.fade, 1.0 - schedule.end) if schedule.unit == "percent" else -schedule.fade
        fade = _falling(sigma_at(schedule.end + span * i / (_FADE_POINTS - 1)) for i in range(_FADE_POINTS))
    return SigmaWindow(sigma_at(schedule.start), low, fade)


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
        fade = _falling(sigmas[stop - 1 : stop + faded + 1])
    return SigmaWindow(high, low, fade)


def _falling(sigmas: Iterable[float]) -> tuple[float, ...]:
    points = list(dict.fromkeys(sigmas))
    return tuple(points) if len(points) > 1 else ()
