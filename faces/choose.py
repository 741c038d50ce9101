"""Choose one of the faces in an image.

largest: the one with the largest box.
most central: the one whose box centre is nearest to the image centre.
left to right: number `index` from the left, by the centre of its box; 0 is the leftmost.
index: number `index` by size; 0 is the largest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..scaling.size import Size
from .face import Face

WHICH = ("largest", "most central", "left to right", "index")
NUMBERED = ("left to right", "index")


def choose_face(faces: Sequence[Face], size: Size, which: str, index: int = 0) -> Face | None:
    """Return the chosen face in an image of `size` (height, width), or None if there is no such face."""
    number = index if which in NUMBERED else 0
    ordered = order_faces(faces, size, which)
    return ordered[number] if number < len(ordered) else None


def order_faces(faces: Sequence[Face], size: Size, which: str) -> list[Face]:
    """Return the faces in the order of their numbers, from 0; equal ones keep their order."""
    if which == "most central":
        middle = size[0] / 2, size[1] / 2
        return sorted(faces, key=lambda face: math.dist(face.centre, middle))
    if which == "left to right":
        return sorted(faces, key=lambda face: face.centre[1])
    return sorted(faces, key=lambda face: face.area, reverse=True)
