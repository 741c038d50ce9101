"""The interface of an effect. Nothing else in the pack refers to an effect by name.

`add_effect` in wrapper.py adds an effect to a model; a class with a missing part cannot be defined.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

from comfy.model_patcher import ModelPatcher

from ..record import record
from ..scaling.size import Size
from .model_call import ModelCall
from .plan import Plan, feature_sizes

NO_STEP = "no step of this run is between its start and end, or no block needs a change"

Colour = tuple[int, int, int]


@record
class Run:
    """The objects that an effect may change when a sampling run begins. All of them belong to this run only.

    `conditions` are the guider's conditionings by name, `patches` the lists of the patches inside the UNet by
    kind.
    """

    conditions: Mapping[str, Iterable[dict[str, Any]]]
    patches: dict[str, list[Any]]
    latent_size: Size


class Effect(ABC):
    """An effect on a model. Immutable, because clones of a model share it.

    `name` is the key of its plans, `label` its name in the log and in Plan Preview, `colour` the (red, green,
    blue) of its bars in Plan Preview, on white; `resizes` says whether it changes the features' size.
    """

    name: ClassVar[str]
    label: ClassVar[str]
    colour: ClassVar[Colour]
    resizes: ClassVar[bool]

    def __init_subclass__(cls) -> None:
        if missing := [part for part in ("name", "label", "colour", "resizes") if not hasattr(cls, part)]:
            raise TypeError(f"{cls.__name__}: an effect without {' and '.join(missing)}")

    @abstractmethod
    def stacked(self, effects: Effects) -> Stacked:
        """Return the name under which it is added to the `effects` of a model,
        and the combined effect for that name.

        See the three functions below for usual choices.
        """

    @abstractmethod
    def install(self, model: ModelPatcher, name: str, earlier: Effect | None) -> None:
        """Add its hooks to a fresh clone.

        Args:
            name: the key of its plans.
            earlier: the earlier effect with this name, whose hooks are already on the model, or None.
        """

    @abstractmethod
    def idle(self, call: ModelCall) -> str | None:
        """Return why it does nothing in the run that begins with `call`, or None if it acts."""

    @abstractmethod
    def describe(self, call: ModelCall) -> str:
        """Return the chosen settings for a run's log line. Called only if it is not idle."""

    @abstractmethod
    def plan(self, call: ModelCall) -> Plan | None:
        """Return the plan for this call, or None to do nothing."""

    def begin(self, run: Run) -> None:  # noqa: B027 - the one part that most effects do without
        """Prepare a run: mark its conditionings, or put the effect's patches in order.

        Most effects need nothing.
        """

    def remark(self, call: ModelCall) -> str:
        """Return a further remark for the log line of a run in which it should act, or an empty text."""
        return ""

    def log_line(self, call: ModelCall, reason: str | None) -> str:
        """Return the log line for the start of a run and for Plan Preview; `reason` is its `why_idle`."""
        if reason is None:
            return f"{self.label}: {self.describe(call)}{self.remark(call)}"
        height, width = call.latent_size
        remark = self.remark(call) if reason == NO_STEP else ""
        return f"{self.label} at latent {height}x{width}: {nothing_to_do(reason)}{remark}"

    def why_idle(self, call: ModelCall) -> str | None:
        """Return why it changes nothing in the run that begins with `call`, or None if it acts.

        It plans every step.
        """
        return self.idle(call) or (None if self._has_a_step(call) else NO_STEP)

    def _has_a_step(self, call: ModelCall) -> bool:
        if call.sample_sigmas is None:
            return True
        for sigma in call.sample_sigmas[:-1]:
            plan = self.plan(replace(call, sigmas=(sigma,)))
            if plan is not None and plan.marks(feature_sizes(call.topology, call.latent_size, [plan])):
                return True
        return False


def nothing_to_do(reason: str) -> str:
    """Return the part of a log line for an effect that does nothing."""
    return f"nothing to do ({reason})"


def idle_together(reasons: Iterable[str | None]) -> str | None:
    """Return why several effects of one kind do nothing, or None if one of them acts."""
    reasons = list(reasons)
    return None if None in reasons else "; ".join(dict.fromkeys(filter(None, reasons)))


Effects = Mapping[str, Effect]
Stacked = tuple[str, Effect]
AnEffect = TypeVar("AnEffect", bound=Effect)


def merge_with_earlier(effect: AnEffect, effects: Effects, merged: Callable[[AnEffect], AnEffect]) -> Stacked:
    """Stack by merging both into one with `merged(earlier)`."""
    earlier = effects.get(effect.name)
    return effect.name, merged(earlier) if isinstance(earlier, type(effect)) else effect


def replace_earlier(effect: Effect, effects: Effects) -> Stacked:
    """Stack by replacing the earlier one."""
    return effect.name, effect


def stand_beside(effect: Effect, effects: Effects) -> Stacked:
    """Stack under a free name: "name", "name 2", "name 3"."""
    number = 1 + sum(isinstance(other, type(effect)) for other in effects.values())
    return (effect.name if number == 1 else f"{effect.name} {number}"), effect
