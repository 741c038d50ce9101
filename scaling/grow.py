"""Enlarging boxes into their surroundings, one axis at a time."""

from __future__ import annotations

import math

from .box import Box, Span
from .size import Size


def box_around(top: float, left: float, bottom: float, right: float) -> Box:
    """Return the smallest box of whole pixels that contains these edges."""
    return Box(math.floor(top), math.floor(left), math.ceil(bottom), math.ceil(right))


def grow_box(box: Box, size: Size, multiple: int, least: int = 1, grid: int = 1) -> Box:
    """Return a box around `box` whose height and width are multiples of `multiple` and at least `least`.

    It grows equally on both sides and stays inside the image if the image is large enough; else it begins at
    0 and extends beyond the end by less than a multiple. Its edges are multiples of `grid`, which divides
    `multiple`; with a grid it may extend beyond the end of the image by less than one grid cell.
    """
    axes = zip(box.spans, size, strict=True)
    return Box.of_spans(*(_grow(low, high, length, multiple, least, grid) for (low, high), length in axes))


def enlarge_box(box: Box, factor: float) -> Box:
    """Return the box around the same centre at `factor` times its size, at least 1;
    it may extend beyond the image.
    """
    return Box.of_spans(*(_enlarge(low, high, factor) for low, high in box.spans))


def fit_box(box: Box, size: Size) -> Box:
    """Return the box moved into an image of `size`, and clipped to it if it is larger."""
    return Box.of_spans(
        *(_fit(low, high, length) for (low, high), length in zip(box.spans, size, strict=True))
    )


def _grow(low: int, high: int, length: int, multiple: int, least: int, grid: int) -> Span:
    low, high, length = low - low % grid, -(-high // grid) * grid, -(-length // grid) * grid
    side = max(high - low, min(least, length))
    side = -(-side // multiple) * multiple
    start = low - (side - (high - low)) // 2
    start = max(0, min(start, length - side))
    start -= start % grid
    return start, start + side


def _enlarge(low: int, high: int, factor: float) -> Span:
    side = max(1, round((high - low) * factor))
    start = (low + high - side) // 2
    return start, start + side


def _fit(low: int, high: int, length: int) -> Span:
    side = min(length, high - low)
    start = max(0, min(low, length - side))
    return start, start + side
