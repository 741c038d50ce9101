"""Which face: the known choice is the largest."""

from __future__ import annotations

import numpy as np
import pytest
from megapixel.faces.choose import WHICH, choose_face, order_faces
from megapixel.faces.face import Face

SIZE = (100, 300)


def face(left, top, right, bottom):
    return Face((top, left, bottom, right), np.zeros((5, 2), np.float32), 0.9, np.zeros(512, np.float32))


SMALL_RIGHT = face(250, 10, 270, 40)
LARGE_LEFT = face(10, 5, 80, 95)
MIDDLE = face(120, 20, 160, 70)
WIDE_MIDDLE = face(110, 70, 200, 90)  # lower than the middle, and nearer to it from the side
FACES = [SMALL_RIGHT, LARGE_LEFT, MIDDLE, WIDE_MIDDLE]


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        ("largest", [LARGE_LEFT, MIDDLE, WIDE_MIDDLE, SMALL_RIGHT]),
        ("most central", [MIDDLE, WIDE_MIDDLE, LARGE_LEFT, SMALL_RIGHT]),
        ("left to right", [LARGE_LEFT, MIDDLE, WIDE_MIDDLE, SMALL_RIGHT]),
        ("index", [LARGE_LEFT, MIDDLE, WIDE_MIDDLE, SMALL_RIGHT]),
    ],
)
def test_the_order_of_the_numbers(which, expected):
    assert order_faces(FACES, SIZE, which) == expected
    assert order_faces(FACES[::-1], SIZE, which) == expected


def test_the_order_from_the_left_is_that_of_the_middles_and_not_that_of_the_size():
    right, left, middle, wide = (
        face(200, 0, 290, 90),
        face(0, 0, 20, 20),
        face(100, 0, 140, 40),
        face(10, 0, 250, 90),
    )
    faces = [right, left, middle, wide]
    assert order_faces(faces, SIZE, "left to right") == [left, middle, wide, right]
    assert order_faces(faces, SIZE, "index") == [wide, right, middle, left]


def test_central_is_measured_in_height_and_width():
    high, wide = face(0, 0, 20, 20), face(140, 180, 160, 220)
    assert choose_face([high, wide], (300, 20), "most central") is high  # 140 from the middle, not 147
    assert choose_face([high, wide], (20, 300), "most central") is high
    assert choose_face([high, wide], (400, 300), "most central") is wide


@pytest.mark.parametrize("which", ["left to right", "index"])
def test_a_number_counts_in_that_order_and_may_be_too_large(which):
    ordered = order_faces(FACES, SIZE, which)
    assert [choose_face(FACES, SIZE, which, number) for number in range(5)] == [*ordered, None]


@pytest.mark.parametrize(("which", "expected"), [("largest", LARGE_LEFT), ("most central", MIDDLE)])
def test_the_number_does_not_matter_otherwise(which, expected):
    assert choose_face(FACES, SIZE, which) is expected
    assert choose_face(FACES, SIZE, which, 3) is expected


@pytest.mark.parametrize("which", WHICH)
def test_nobody_is_none(which):
    assert choose_face([], SIZE, which) is None
