"""Rectangles of whole pixels: one `Box`, and its arithmetic one axis at a time."""

from __future__ import annotations

from ..record import record
from .size import Size

Span = tuple[int, int]  # first, and the one after the last


@record
class Box:
    """Rows `top` to `bottom` and columns `left` to `right`, ends excluded. May extend beyond an image."""

    top: int
    left: int
    bottom: int
    right: int

    @classmethod
    def of_spans(cls, rows: Span, columns: Span) -> Box:
        """Return the box of these rows and columns: the inverse of `spans`."""
        return cls(rows[0], columns[0], rows[1], columns[1])

    @property
    def spans(self) -> tuple[Span, Span]:
        """Rows and columns, for code that treats both axes equally."""
        return (self.top, self.bottom), (self.left, self.right)

    @property
    def size(self) -> Size:
        """(height, width)"""
        return self.bottom - self.top, self.right - self.left

    @property
    def area(self) -> int:
        """Number of pixels; 0 if an end is before its start."""
        return max(0, self.bottom - self.top) * max(0, self.right - self.left)

    @property
    def rows(self) -> slice:
        """For indexing."""
        return slice(self.top, self.bottom)

    @property
    def columns(self) -> slice:
        """For indexing."""
        return slice(self.left, self.right)

    def scaled(self, source: Size, target: Size) -> Box:
        """Return the box in an image of `target` size that contains all of this box in
        an image of `source` size.
        """
        axes = zip(self.spans, source, target, strict=True)
        return Box.of_spans(*((low * new // old, -(-high * new // old)) for (low, high), old, new in axes))

    def moved(self, down: int, right: int) -> Box:
        """Return the box shifted."""
        return Box(self.top + down, self.left + right, self.bottom + down, self.right + right)

    def grown(self, margin: int) -> Box:
        """Return the box extended by a margin on all four sides."""
        return Box(self.top - margin, self.left - margin, self.bottom + margin, self.right + margin)

    def within(self, other: Box) -> Box:
        """Return this box in the coordinates of `other`."""
        return self.moved(-other.top, -other.left)

    def shared(self, other: Box) -> Box:
        """Return the intersection; its area is 0 if the boxes do not overlap."""
        top, left = max(self.top, other.top), max(self.left, other.left)
        bottom, right = min(self.bottom, other.bottom), min(self.right, other.right)
        return Box(top, left, max(top, bottom), max(left, right))

    def overlaps(self, other: Box) -> bool:
        """Return whether both have a pixel in common."""
        high = max(self.top, other.top) < min(self.bottom, other.bottom)
        return high and max(self.left, other.left) < min(self.right, other.right)

    def union(self, other: Box) -> Box:
        """Return the smallest box that contains both."""
        top, left = min(self.top, other.top), min(self.left, other.left)
        return Box(top, left, max(self.bottom, other.bottom), max(self.right, other.right))

    def clamped(self, size: Size) -> Box:
        """Return the part inside an image; its area is 0 if there is none."""
        return self.shared(Box(0, 0, *size))
