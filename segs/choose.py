"""Selecting and sorting segments, and dividing them between workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..record import record
from ..scaling.box import Box
from .confidence import confidence_of
from .segment import SEG, Slice, box_of, read_mask, whole_of

TOUCHING = 256  # pixels between segments that may still touch when small ones have grown

Measure = Callable[[SEG, int], float]  # of a segment and its number in the list


def _found(segment: SEG, number: int) -> Box:
    return box_of(segment.bbox, "bbox", number)


def _crop(segment: SEG, number: int) -> Box:
    return box_of(segment.crop_region, "crop_region", number)


def _mask_area(segment: SEG, number: int) -> float:
    return float(read_mask(segment.cropped_mask, number).mean()) * _crop(segment, number).area


MEASURES: dict[str, Measure] = {
    "area": lambda segment, number: _found(segment, number).area,
    "mask area": _mask_area,
    "confidence": confidence_of,
    "left to right": lambda segment, number: -(_found(segment, number).left + _found(segment, number).right),
    "top to bottom": lambda segment, number: -(_found(segment, number).top + _found(segment, number).bottom),
    "width": lambda segment, number: _found(segment, number).size[1],
    "height": lambda segment, number: _found(segment, number).size[0],
}


@record
class Choice:
    """Which segments to select, and their order.

    Attributes:
        labels: allowed labels; all if empty.
        order: a name in MEASURES, greatest first, or "as found".
        reverse: reverses the order.
        confidence: the minimum.
        least, most: limits of the bbox's shorter side in pixels; 0 for `most` is no limit.
        first, count: range after sorting; 0 for `count` is all.
    """

    labels: frozenset[str] = frozenset()
    order: str = "as found"
    reverse: bool = False
    confidence: float = 0.0
    least: int = 0
    most: int = 0
    first: int = 0
    count: int = 0


def choose_segments(segments: list[SEG], choice: Choice) -> tuple[list[SEG], list[SEG]]:
    """Return the selected segments in their order, and the others in their original order.

    In a worker's slice, the segments of all workers are selected and sorted, so that the result equals that
    of a single worker.
    """
    whole = whole_of(segments)
    numbers = [number for number, segment in enumerate(whole) if _fits(segment, number, choice)]
    if choice.order != "as found":
        measure = MEASURES[choice.order]
        numbers.sort(key=lambda number: measure(whole[number], number), reverse=True)
    if choice.reverse:
        numbers.reverse()
    chosen = numbers[choice.first : choice.first + choice.count if choice.count else None]
    others = sorted(set(range(len(whole))) - set(chosen))
    return _those(segments, chosen), _those(segments, others)


def join_segments(first: list[SEG], second: list[SEG]) -> list[SEG]:
    """Return both lists joined; other workers' segments in a slice stay theirs."""
    if not isinstance(first, Slice) and not isinstance(second, Slice):
        return [*first, *second]
    before, after = whole_of(first), whole_of(second)
    positions = [*_positions(first), *(len(before) + position for position in _positions(second))]
    sliced = first if isinstance(first, Slice) else second
    assert isinstance(sliced, Slice)
    return Slice([*before, *after], positions, sliced.slice_index, sliced.slice_count)


def _those(segments: list[SEG], numbers: list[int]) -> list[SEG]:
    """Return the segments with these numbers in the whole list; for a slice as a slice."""
    whole = whole_of(segments)
    if not isinstance(segments, Slice):
        return [whole[number] for number in numbers]
    mine = set(segments.positions)
    own = [place for place, number in enumerate(numbers) if number in mine]
    return Slice([whole[number] for number in numbers], own, segments.slice_index, segments.slice_count)


def _positions(segments: list[SEG]) -> Sequence[int]:
    return segments.positions if isinstance(segments, Slice) else range(len(segments))


def _fits(segment: SEG, number: int, choice: Choice) -> bool:
    if choice.labels and str(segment.label).strip() not in choice.labels:
        return False
    if confidence_of(segment, number) < choice.confidence:
        return False
    if not (choice.least or choice.most):
        return True
    shorter = min(_found(segment, number).size)
    return shorter >= choice.least and (not choice.most or shorter <= choice.most)


def slice_segments(segments: Sequence[SEG], index: int, count: int, together: bool = False) -> Slice:
    """Return the share of worker `index` of `count`: every segment is in exactly one.

    The largest are assigned first, each to the worker with the least work so far. `together` keeps touching
    segments in one share.
    """
    groups = _touching(segments) if together else [[number] for number in range(len(segments))]
    areas = [_crop(segment, number).area for number, segment in enumerate(segments)]
    work = [0] * count
    share: list[int] = []
    for group in sorted(groups, key=lambda group: (-sum(areas[number] for number in group), group)):
        worker = work.index(min(work))
        work[worker] += sum(areas[number] for number in group)
        if worker == index:
            share += group
    if isinstance(segments, Slice):  # a share of a share
        own = (segments.positions[number] for number in sorted(share))
        return Slice(segments.whole, own, segments.slice_index * count + index, segments.slice_count * count)
    return Slice(segments, sorted(share), index, count)


def _touching(segments: Sequence[SEG]) -> list[list[int]]:
    """Return groups of the numbers of segments; segments of different groups do not touch."""
    boxes = [_crop(segment, number) for number, segment in enumerate(segments)]
    near = [
        Box(box.top - TOUCHING, box.left - TOUCHING, box.bottom + TOUCHING, box.right + TOUCHING)
        for box in boxes
    ]
    groups: list[list[int]] = []
    for number, box in enumerate(boxes):
        joined = [group for group in groups if any(near[other].overlaps(box) for other in group)]
        groups = [group for group in groups if group not in joined]
        groups.append(sorted([number, *(other for group in joined for other in group)]))
    return groups
