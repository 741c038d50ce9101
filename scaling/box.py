"""Where a segment lies: integer boxes, scaled, grown and clamped one axis at a time.

All sizes are (height, width).
"""

from __future__ import annotations

from dataclasses import dataclass

Size = tuple[int, int]


@dataclass(frozen=True)
class Box:
    """Rows `top` to `bottom` and columns `left` to `right`; the ends are not in it. May reach beyond a picture."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def size(self) -> Size:
        """(height, width)"""
        return self.bottom - self.top, self.right - self.left

    @property
    def area(self) -> int:
        """Pixels in it; 0 where it is inside out."""
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
        """Return the box in a picture of `target` size that holds all of this one in a picture of `source` size."""
        (top, bottom), (left, right) = (
            (low * new // old, -(-high * new // old))
            for low, high, old, new in zip(
                (self.top, self.left), (self.bottom, self.right), source, target, strict=True
            )
        )
        return Box(top, left, bottom, right)

    def clamped(self, size: Size) -> Box:
        """Return the part inside a picture; without area where there is none."""
        height, width = size
        top, left = min(max(self.top, 0), height), min(max(self.left, 0), width)
        return Box(top, left, max(top, min(self.bottom, height)), max(left, min(self.right, width)))

    def grown(self, size: Size, multiple: int, least: int = 1) -> Box:
        """Return a box around this one whose sides are multiples of `multiple` and at least `least`.

        It takes in what lies around, on both sides alike, and stays inside the picture where that is large enough;
        else it begins at 0 and reaches beyond the end by less than a multiple.
        """
        (top, bottom), (left, right) = (
            _grow(low, high, length, multiple, least)
            for low, high, length in zip((self.top, self.left), (self.bottom, self.right), size, strict=True)
        )
        return Box(top, left, bottom, right)

    def padded(self, factor: float, size: Size) -> Box:
        """Return the box around the same centre with sides `factor` times as long, moved and cut to fit a picture."""
        (top, bottom), (left, right) = (
            _pad(low, high, length, factor)
            for low, high, length in zip((self.top, self.left), (self.bottom, self.right), size, strict=True)
        )
        return Box(top, left, bottom, right)

    def enlarged(self, factor: float) -> Box:
        """Return the box around the same centre with sides `factor` times as long, at least 1; it may reach anywhere."""
        height, width = (max(1, round(side * factor)) for side in self.size)
        top, left = (self.top + self.bottom - height) // 2, (self.left + self.right - width) // 2
        return Box(top, left, top + height, left + width)

    def within(self, other: Box) -> Box:
        """Return this box in the coordinates of `other`."""
        return self.moved(-other.top, -other.left)

    def moved(self, down: int, right: int) -> Box:
        """Return the box elsewhere."""
        return Box(self.top + down, self.left + right, self.bottom + down, self.right + right)

    def shared(self, other: Box) -> Box:
        """Return what lies in both; without area where nothing does."""
        top, left = max(self.top, other.top), max(self.left, other.left)
        return Box(
            top, left, max(top, min(self.bottom, other.bottom)), max(left, min(self.right, other.right))
        )


def _grow(low: int, high: int, length: int, multiple: int, least: int) -> tuple[int, int]:
    side = max(high - low, min(least, length))
    side = -(-side // multiple) * multiple
    start = low - (side - (high - low)) // 2
    start = max(0, min(start, length - side))
    return start, start + side


def _pad(low: int, high: int, length: int, factor: float) -> tuple[int, int]:
    side = min(length, max(1, round((high - low) * factor)))
    start = max(0, min(low + (high - low - side) // 2, length - side))
    return start, start + side
