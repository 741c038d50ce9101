"""Choosing among segments: which, in which order, and which of several workers' share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .box import Box
from .segment import SEG, Slice, box_of, confidence_of, read_mask

TOUCHING = 64  # pixels between segments that may still touch when they have grown to fit

Measure = Callable[[SEG], float]


def _box(segment: SEG) -> Box:
    return box_of(segment.bbox, "bbox", 0)


MEASURES: dict[str, Measure] = {
    "area": lambda segment: _box(segment).area,
    "mask area": lambda segment: float(read_mask(segment.cropped_mask, 0).mean())
    * _box_of_crop(segment).area,
    "confidence": confidence_of,
    "left to right": lambda segment: -(_box(segment).left + _box(segment).right),
    "top to bottom": lambda segment: -(_box(segment).top + _box(segment).bottom),
    "width": lambda segment: _box(segment).size[1],
    "height": lambda segment: _box(segment).size[0],
}


def _box_of_crop(segment: SEG) -> Box:
    return box_of(segment.crop_region, "crop_region", 0)


@dataclass(frozen=True)
class Choice:
    """Which segments, and in which order.

    Attributes:
        labels: only those; all where empty.
        order: a name in MEASURES, greatest first, or "as found".
        reverse: turns the order round.
        confidence: the least.
        least, most: shorter side of the bbox in pixels; 0 for `most` is no limit.
        first, count: after sorting, so many from there on; 0 for `count` is all.
    """

    labels: frozenset[str] = frozenset()
    order: str = "as found"
    reverse: bool = False
    confidence: float = 0.0
    least: int = 0
    most: int = 0
    first: int = 0
    count: int = 0


def choose_segments(segments: Sequence[SEG], choice: Choice) -> tuple[list[SEG], list[SEG]]:
    """Return the chosen segments in their order, and those left out as they were."""
    fitting = [segment for segment in segments if _fits(segment, choice)]
    if choice.order != "as found":
        fitting.sort(key=MEASURES[choice.order], reverse=True)
    if choice.reverse:
        fitting.reverse()
    end = choice.first + choice.count if choice.count else None
    chosen = fitting[choice.first : end]
    kept = {id(segment) for segment in chosen}
    return chosen, [segment for segment in segments if id(segment) not in kept]


def _fits(segment: SEG, choice: Choice) -> bool:
    shorter = min(_box(segment).size)
    return (
        (not choice.labels or str(segment.label).strip() in choice.labels)
        and confidence_of(segment) >= choice.confidence
        and shorter >= choice.least
        and (not choice.most or shorter <= choice.most)
    )


def slice_segments(segments: Sequence[SEG], index: int, count: int, together: bool = False) -> Slice:
    """Return the share of worker `index` of `count`: every segment is in exactly one.

    The largest go first, each to the worker with the least so far. `together` keeps those that touch in one share.
    """
    groups = _touching(segments) if together else [[number] for number in range(len(segments))]
    areas = [_box_of_crop(segment).area for segment in segments]
    work = [0] * count
    share: list[int] = []
    for group in sorted(groups, key=lambda group: (-sum(areas[number] for number in group), group)):
        worker = work.index(min(work))
        work[worker] += sum(areas[number] for number in group)
        if worker == index:
            share += group
    return Slice(segments, sorted(share))


def _touching(segments: Sequence[SEG]) -> list[list[int]]:
    """Return the numbers of segments in groups that are apart from each other."""
    boxes = [_box_of_crop(segment) for segment in segments]
    near = [
        Box(box.top - TOUCHING, box.left - TOUCHING, box.bottom + TOUCHING, box.right + TOUCHING)
        for box in boxes
    ]
    groups: list[list[int]] = []
    for number, box in enumerate(boxes):
        joined = [group for group in groups if any(near[other].shared(box).area for other in group)]
        groups = [group for group in groups if group not in joined]
        groups.append(sorted([number, *(other for group in joined for other in group)]))
    return groups
