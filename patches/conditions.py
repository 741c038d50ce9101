"""Which conditioning each part of a batch belongs to, read from the conditionings themselves.

The host numbers the conditionings of a call differently for each guider: 0 is the positive one for the
KSampler and the negative one for DualCFG. So every conditioning of a run gets a mark in addition to the
values that the host encodes for the model. Wherever the host cuts, batches or copies conditionings, the marks
are cut and copied too, and arrive with the model call in the order of the batch.

Some packs split a model call into tiles, several in one batch, and repeat the data of each row; so the number
of each row's conditioning is passed as a tensor, and arrives in the order of the tiles.

N rows of a batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from ..attention.view import VIEW, Part, View
from ..record import record
from ..scaling.box import Box
from ..scaling.size import Size

MARK, ROWS = "megapixel_conditions", "megapixel_rows"  # among the host's `model_conds`


@record
class Condition:
    """One conditioning's share of a batch.

    Attributes:
        name: its name in the guider.
        part: of the latent that it is for; None is all.
        view: the part of a larger image, for which masks were made, that the images show; None is all.
        whole: the size of the latent that is sampled; None if the run is unknown.
    """

    name: str
    part: Part | None = None
    view: View | None = None
    whole: Size | None = None

    @property
    def is_negative(self) -> bool:
        """Whether guidance moves the image away from it;
        the empty prompt of Perp-Neg counts too, by its name.
        """
        return "negative" in self.name


@record
class _Mark:
    """An entry of `model_conds` without a tensor, which the host passes on and batches with any other."""

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


class _InOrder(Tensor):
    """Rows as the host put them together: what comes of any operation on them is an ordinary tensor."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore[reportAssignmentType]


class _Rows:
    """The number of each row's conditioning in a call: a tensor (N, 1), which is repeated with the rows."""

    def __init__(self, count: int = 0) -> None:
        self._count = count

    def process_cond(self, batch_size: int, **_: Any) -> _Rows:
        return _Rows(batch_size)

    def can_concat(self, other: _Rows) -> bool:
        return True

    def concat(self, others: Iterable[_Rows]) -> Tensor:
        counts = [each._count for each in (self, *others)]
        numbers = [[number] for number, count in enumerate(counts) for _ in range(count)]
        return torch.tensor(numbers).as_subclass(_InOrder if len(set(counts)) == 1 else Tensor)

    def size(self) -> list[int]:
        return [1]


def mark_conditions(conditions: Mapping[str, Iterable[dict[str, Any]]], latent_size: Size) -> None:
    """Mark a run's own conditionings, by their names in its guider.

    Objects shared with other runs are not changed.
    """
    for name, entries in conditions.items():
        for entry in entries:
            mark = _Mark((Condition(name, None, entry.get(VIEW), latent_size),), latent_size)
            entry["model_conds"] = {**entry.get("model_conds", {}), MARK: mark, ROWS: _Rows()}


def conditions_of(marks: Mapping[str, Any], numbers: Sequence[int] | None) -> tuple[Condition, ...]:
    """Return the conditions of a model call, in the order of its batch, each for the same number of images.

    Args:
        marks: the values under MARK and ROWS; empty if a pack calls the model with its own conditionings.
        numbers: the host's `cond_or_uncond`, used in that case: 0 is positive, as for the KSampler.
    """
    conditions: tuple[Condition, ...] | None = marks.get(MARK)
    if conditions is None:
        return tuple(Condition("negative" if number else "positive") for number in numbers or (0,))
    rows: Tensor | None = marks.get(ROWS)
    if rows is None or isinstance(rows, _InOrder):
        return conditions
    each = rows[:, 0].tolist()
    runs = [(number, len(list(same))) for number, same in groupby(each)]
    if len({count for _, count in runs}) == 1:
        each = [number for number, _ in runs]
    return tuple(conditions[number] for number in each)
