"""The keypoints picture as InstantID published it, and the boxes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from megapixel.faces.boxes import draw_boxes
from megapixel.faces.draw import COLOURS, draw_keypoints
from megapixel.faces.face import Face

from devhost.tiny.faces import Portrait

SIZE = (211, 300)


def face(*portrait):
    portrait = Portrait(*portrait)
    return Face(portrait.box, portrait.points.astype(np.float32), 0.9, np.zeros(512, np.float32))


def published(points, size):
    """The drawing of InstantID's published pipeline, step by step."""
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255)]
    picture = np.zeros([*size, 3])
    for first, second in ([0, 2], [1, 2], [3, 2], [4, 2]):
        xs, ys = points[[first, second], 0], points[[first, second], 1]
        length = ((xs[0] - xs[1]) ** 2 + (ys[0] - ys[1]) ** 2) ** 0.5
        angle = np.degrees(np.arctan2(ys[0] - ys[1], xs[0] - xs[1]))
        centre = int(np.mean(xs)), int(np.mean(ys))
        outline = cv2.ellipse2Poly(centre, (int(length / 2), 4), int(angle), 0, 360, 1)
        picture = cv2.fillConvexPoly(picture, outline, colours[first])
    picture = (picture * 0.6).astype(np.uint8)
    for (x, y), colour in zip(points, colours, strict=True):
        picture = cv2.circle(picture, (int(x), int(y)), 10, colour, -1)
    return torch.from_numpy(picture / 255).float()


@pytest.mark.parametrize(
    "portrait",
    [
        (1, (150, 100), 120),
        (1, (150.6, 100.4), 33.3, 25),
        (1, (70, 160), 181, -140),
        (1, (2, 3), 100, 7),
        (1, (299, 230), 300),
        (1, (150, 100), 0.5),
    ],
    ids=["upright", "small", "upside down", "at a corner", "mostly outside", "a speck"],
)
def test_the_keypoints_picture_is_the_published_one(portrait):
    one = face(*portrait)
    drawn = draw_keypoints([one], SIZE)
    assert (drawn.shape, drawn.dtype) == ((*SIZE, 3), torch.float32)
    assert torch.equal(drawn, published(one.points, SIZE))


def test_the_colours_are_known_by_heart():
    drawn = draw_keypoints([face(1, (150, 100), 200)], SIZE)
    expected = [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1)]
    for (x, y), colour in zip(Portrait(1, (150, 100), 200).points.astype(int), expected, strict=True):
        assert tuple(drawn[y, x].tolist()) == colour
    limb = drawn[100 - 23, 150 - 20].tolist()  # halfway from the nose to the left eye
    assert limb == pytest.approx((0.6, 0, 0))


def test_several_faces_are_drawn_side_by_side_and_none_is_black():
    left, right = face(1, (70, 100), 100), face(2, (220, 120), 90, 12)
    both = draw_keypoints([left, right], SIZE)
    assert torch.equal(both, draw_keypoints([left], SIZE) + draw_keypoints([right], SIZE))
    assert torch.equal(draw_keypoints([], SIZE), torch.zeros(*SIZE, 3))


def test_a_disc_is_never_dimmed_by_another_faces_limb():
    below, above = face(1, (150, 100), 120), face(2, (150, 130), 120)
    drawn = draw_keypoints([below, above], SIZE)
    x, y = above.points[0].astype(int)
    assert drawn[y, x].tolist() == [1, 0, 0]
    assert {round(value, 3) for value in drawn.unique().tolist()} == {0, 0.6, 1}


def test_boxes_lie_around_the_faces_and_the_picture_stays():
    picture = np.full((*SIZE, 3), 90, np.uint8)
    one = face(1, (150, 100), 80)
    drawn = draw_boxes(picture, [one])
    assert (picture == 90).all()
    assert (drawn.shape, drawn.dtype) == ((*SIZE, 3), torch.float32)
    top, left, bottom, right = (round(edge) for edge in one.box)
    assert (drawn[top, left + 40 : right + 1] == 1).all()
    assert (drawn[bottom, left : right + 1] == 1).all()
    assert (drawn[top + 40 : bottom + 1, [left, right]] == 1).all()
    outside = torch.ones(SIZE, dtype=torch.bool)
    outside[top : bottom + 1, left : right + 1] = False
    assert torch.allclose(drawn[outside], torch.tensor(90 / 255))
    for (x, y), colour in zip(one.points.astype(int), COLOURS, strict=True):
        assert (drawn[y, x] * 255).tolist() == list(colour)


def test_numbers_start_at_0_and_differ():
    picture = np.zeros((*SIZE, 3), np.uint8)
    corners = []
    for number in range(3):
        boxes = [face(1, (-900, -900), 20)] * number + [face(1, (150, 100), 100)]
        corners.append(draw_boxes(picture, boxes)[36:56, 101:121])
    assert all(corner.max() == 1 and corner.std() > 0.1 for corner in corners)
    assert not any(torch.equal(corners[one], corners[two]) for one, two in ((0, 1), (1, 2), (0, 2)))


@pytest.mark.parametrize("nose", [(-30, 100), (150, -40), (310, 230)], ids=str)
def test_a_number_stays_in_the_picture_where_the_box_begins_outside(nose):
    picture = np.full((*SIZE, 3), 255, np.uint8)
    one = face(1, nose, 160)
    without = Face(one.box, one.points - 5000, 0.9, one.embedding)
    assert (draw_boxes(picture, [without]) == 0).any()  # the black behind the number


def test_lines_are_wider_in_large_pictures_and_nobody_leaves_the_picture():
    small, large = np.zeros((200, 301, 3), np.uint8), np.zeros((2000, 3010, 3), np.uint8)
    assert torch.equal(draw_boxes(small, []), torch.zeros(200, 301, 3))
    one = Face((500, 500, 1500, 1500), np.full((5, 2), -999, np.float32), 0.9, np.zeros(512, np.float32))
    assert (draw_boxes(large, [one])[1000, 480:520].amax(-1) > 0).sum() >= 5
