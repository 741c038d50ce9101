"""Which conditioning each part of a batch belongs to, read from the conditionings themselves.

The host numbers the conditionings of a call as each guider likes: 0 is the positive one for the KSampler and the negative
one for DualCFG. So every conditioning of a run is given a mark beside what the host encodes for the model. Wherever the
host cuts, batches or copies conditionings, the marks are cut and copied too, and arrive with the model call in the order of the batch.

Some packs cut a model call into tiles, and put several into one batch. They cut what has the size of the latent, and repeat the
rest; so a grid of places goes along as a tensor, and arrives as that of the tiles.

N rows of a batch, h and w of the latent in a call.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from ..attention.view import VIEW, Part, View
from ..scaling.box import Box
from ..scaling.size import Size

MARK, PLACES = "megapixel_conditions", "megapixel_places"  # among the host's `model_conds`


@dataclass(frozen=True)
class Condition:
    """One conditioning's share of a batch.

    Attributes:
        name: its name in the guider.
        part: of the latent that it is for; None is all.
        view: what the pictures show of a larger one that masks were made for; None is all.
        whole: the size of the latent that is sampled; None where the run is not known.
    """

    name: str
    part: Part | None = None
    view: View | None = None
    whole: Size | None = None

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


class _Places:
    """A grid that goes along as the latent does: for each row (3, h, w) the number of its conditioning, and y and x in the whole."""

    def __init__(self, size: Size, rows: Tensor | None = None) -> None:
        self._size, self._rows = size, rows

    def process_cond(self, batch_size: int, area: Sequence[int] | None = None, **_: Any) -> _Places:
        height, width, top, left = area or (*self._size, 0, 0)
        y, x = torch.arange(top, top + height)[:, None], torch.arange(left, left + width)
        grid = torch.stack(
            [torch.zeros(height, width, dtype=torch.long), y.expand(-1, width), x.expand(height, -1)]
        )
        return _Places(self._size, grid.expand(batch_size, -1, -1, -1))

    def can_concat(self, other: _Places) -> bool:
        return True

    def concat(self, others: Iterable[_Places]) -> Tensor:
        rows = [each._rows.clone() for each in (self, *others) if each._rows is not None]
        for number, each in enumerate(rows):
            each[:, 0] = number
        return torch.cat(rows)

    def size(self) -> list[int]:
        return [1]


def mark_conditions(conditions: Mapping[str, Iterable[dict[str, Any]]], latent_size: Size) -> None:
    """Mark a run's own conditionings, by their names in its guider. What they share with other runs is not changed."""
    for name, entries in conditions.items():
        for entry in entries:
            mark = _Mark((Condition(name, None, entry.get(VIEW), latent_size),), latent_size)
            entry["model_conds"] = {**entry.get("model_conds", {}), MARK: mark, PLACES: _Places(latent_size)}


def conditions_of(
    marks: Mapping[str, Any], numbers: Sequence[int] | None, size: Size
) -> tuple[Condition, ...]:
    """Return the conditions of a model call, in the order of its batch, each for as many pictures as the others.

    Args:
        marks: what arrived under MARK and PLACES; nothing where a pack calls the model with conditionings of its own making.
        numbers: the host's `cond_or_uncond`, which then decides: 0 is positive, as it is for the KSampler.
        size: of the latent in this call.
    """
    conditions: tuple[Condition, ...] | None = marks.get(MARK)
    if conditions is None:
        return tuple(Condition("negative" if number else "positive") for number in numbers or (0,))
    places: Tensor | None = marks.get(PLACES)
    if places is None or tuple(places.shape[-2:]) != size:
        return conditions
    rows = [
        (number, Box(top, left, bottom + 1, right + 1))
        for number, top, left, bottom, right in _corners(places)
    ]
    if not all(box.size == size for _, box in rows):  # a pack has moved the places themselves
        return conditions
    runs = [(row, len(list(same))) for row, same in groupby(rows)]
    if len({count for _, count in runs}) == 1:
        rows = [row for row, _ in runs]
    return tuple(_at(conditions[number], box) for number, box in rows)


def _corners(places: Tensor) -> list[list[int]]:
    """Return for each row its number, its first y and x, and its last y and x."""
    return torch.cat([places[:, :, 0, 0], places[:, 1:, -1, -1]], dim=1).tolist()


def _at(condition: Condition, box: Box) -> Condition:
    if condition.whole in (None, box.size):
        return condition
    return replace(condition, part=Part(box, condition.whole))
