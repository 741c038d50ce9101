"""Which conditioning each part of a batch belongs to, read from the conditionings themselves.

The host numbers the conditionings of a call as each guider likes: 0 is the positive one for the KSampler and the negative
one for DualCFG. So every conditioning of a run is given a mark beside what the host encodes for the model. Wherever the
host cuts, batches or copies conditionings, the marks are cut and copied too, and arrive with the model call in the order of the batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..attention.view import VIEW, Part, View
from ..scaling.box import Box
from ..scaling.size import Size

MARK = "megapixel_conditions"  # among the host's `model_conds`


@dataclass(frozen=True)
class Condition:
    """One conditioning's share of a batch.

    Attributes:
        name: its name in the guider.
        part: of the latent that it is for; None is all.
        view: what the pictures show of a larger one that masks were made for; None is all.
    """

    name: str
    part: Part | None = None
    view: View | None = None

    @property
    def is_negative(self) -> bool:
        """Whether the picture is led away from it; the empty prompt of Perp-Neg counts, it is named so."""
        return "negative" in self.name


@dataclass(frozen=True)
class _Mark:
    """What the host passes around: an entry of `model_conds` that carries no tensor and goes along with any other."""

    conditions: tuple[Condition, ...]
    latent_size: Size

    def process_cond(self, batch_size: int, area: Sequence[int] | None = None, **_: Any) -> _Mark:
        if area is None:
            return self
        height, width, top, left = area
        part = Part(Box(top, left, top + height, left + width), self.latent_size)
        return replace(self, conditions=tuple(replace(each, part=part) for each in self.conditions))

    def can_concat(self, other: _Mark) -> bool:
        return True

    def concat(self, others: Iterable[_Mark]) -> tuple[Condition, ...]:
        return sum((other.conditions for other in others), self.conditions)

    def size(self) -> list[int]:
        return [1]


def mark_conditions(conditions: Mapping[str, Iterable[dict[str, Any]]], latent_size: Size) -> None:
    """Mark a run's own conditionings, by their names in its guider. What they share with other runs is not changed."""
    for name, entries in conditions.items():
        for entry in entries:
            mark = _Mark((Condition(name, view=entry.get(VIEW)),), latent_size)
            entry["model_conds"] = {**entry.get("model_conds", {}), MARK: mark}


def conditions_of(marks: Any, numbers: Sequence[int] | None) -> tuple[Condition, ...]:
    """Return the conditions of a model call, in the order of its batch.

    Args:
        marks: what arrived under MARK; None where a pack calls the model with conditionings of its own making.
        numbers: the host's `cond_or_uncond`, which then decides: 0 is positive, as it is for the KSampler.
    """
    if marks is not None:
        return marks
    return tuple(Condition("negative" if number else "positive") for number in numbers or (0,))
