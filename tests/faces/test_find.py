"""Faces found by the real insightface and onnxruntime, on networks that know drawn faces."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from megapixel.faces.find import SIDES, find_faces

from devhost.tiny.faces import Portrait, draw_portraits

spec = importlib.util.spec_from_file_location(
    "known_detection", Path(__file__).with_name("known_detection.py")
)
known = importlib.util.module_from_spec(spec)
spec.loader.exec_module(known)

PICTURES = {
    "one": ((300, 401), [Portrait(1, (200.3, 140.7), 90)]),
    "small in a large picture": ((1100, 903), [Portrait(2, (771, 950), 60, -20)]),
    "three": (
        (512, 700),
        [Portrait(1, (150, 200), 160, 10), Portrait(2, (480, 250), 100, -15), Portrait(3, (320, 430), 70)],
    ),
    "at the edge": ((240, 320), [Portrait(4, (280, 40), 110)]),
    "a close-up": ((201, 160), [Portrait(5, (78, 102), 150)]),
    "nobody": ((97, 130), []),
}
CROWD = PICTURES["three"]


@pytest.fixture
def sides(face_analysis, monkeypatch):
    """The squares that the detector looks at, in order."""
    detector, seen = face_analysis.models["detection"], []
    forward = detector.forward

    def note(square, threshold):
        seen.append(square.shape[0])
        return forward(square, threshold)

    monkeypatch.setattr(detector, "forward", note)
    return seen


def settings(detector):
    """All that the detector was set to; what it remembers of sizes that it has seen is none of it."""
    return {
        name: value
        for name, value in vars(detector).items()
        if isinstance(value, (int, float, str, tuple, list))
    }


def alike(one, other):
    return one @ other / np.linalg.norm(one) / np.linalg.norm(other)


@pytest.mark.parametrize("name", PICTURES)
def test_faces_are_those_of_0_7_3_in_the_known_sequence(name, face_analysis):
    size, portraits = PICTURES[name]
    picture = draw_portraits(size, *portraits)
    sessions = [face_analysis.models[task].session for task in ("detection", "recognition")]
    expected = known.known_faces(*sessions, picture)
    faces = find_faces(face_analysis, picture)
    assert len(faces) == len(expected) == len(portraits)
    for face, (box, points, score, embedding) in zip(faces, expected, strict=True):
        np.testing.assert_allclose(face.box, box[[1, 0, 3, 2]], atol=1e-3)
        np.testing.assert_allclose(face.points, points, atol=1e-3)
        assert face.score == pytest.approx(score)
        assert (face.embedding.shape, face.embedding.dtype) == ((512,), np.float32)
        np.testing.assert_allclose(face.embedding, embedding, atol=1e-4 * np.abs(embedding).max())


@pytest.mark.parametrize("name", PICTURES)
def test_boxes_and_points_are_where_the_faces_were_drawn(name, face_analysis):
    size, portraits = PICTURES[name]
    faces = find_faces(face_analysis, draw_portraits(size, *portraits))
    assert len(faces) == len(portraits)
    for face, portrait in zip(faces, sorted(portraits, key=lambda one: -one.width), strict=True):
        np.testing.assert_allclose(face.points, portrait.points, atol=0.025 * portrait.width)
        np.testing.assert_allclose(face.box, portrait.box, atol=0.04 * portrait.width)


def test_the_picture_is_read_as_rgb(face_analysis):
    picture = draw_portraits((200, 301), Portrait(1, (150, 100), 80))
    assert len(find_faces(face_analysis, picture)) == 1
    assert not find_faces(face_analysis, picture[..., ::-1])  # red and blue dots have changed places


def test_the_embedding_tells_people_apart_wherever_they_are(face_analysis):
    def embedding(person, *place):
        [face] = find_faces(face_analysis, draw_portraits((401, 500), Portrait(person, *place)))
        return face.embedding

    here = [embedding(person, (200, 180), 120) for person in range(4)]
    there = [embedding(person, (290.5, 200.2), 171, 25) for person in range(4)]
    for person, one in enumerate(here):
        for other, two in enumerate(there):
            assert (alike(one, two) > 0.95) if person == other else (alike(one, two) < 0.7)


@pytest.mark.parametrize(
    ("size", "portrait", "expected"),
    [
        ((640, 480), Portrait(1, (240, 300), 200), [640]),
        ((640, 481), Portrait(1, (240, 300), 300), [640, 576, 512]),
        ((400, 401), Portrait(1, (200, 200), 600), [*SIDES, 640, 576, 512, 448, 384, 320]),
        ((400, 401), Portrait(1, (200, 200), 10), [*SIDES, *SIDES]),
    ],
    ids=["at once", "smaller", "in a margin", "never"],
)
def test_squares_go_from_640_down_and_then_down_in_a_margin(size, portrait, expected, face_analysis, sides):
    faces = find_faces(face_analysis, draw_portraits(size, portrait))
    assert sides == expected
    assert list(SIDES) == [640, 576, 512, 448, 384, 320, 256, 192]
    assert len(faces) == (portrait.width > 24)


@pytest.mark.parametrize("size", [(160, 171), (171, 160)], ids=str)
def test_a_face_larger_than_the_picture_lies_in_that_pictures_pixels(size, face_analysis, sides):
    portrait = Portrait(3, (size[1] / 2 - 1, size[0] / 2 + 2), 240, 5)
    picture = draw_portraits(size, portrait)
    [face] = find_faces(face_analysis, picture)
    assert len(sides) > len(SIDES)  # it was found in the margin
    np.testing.assert_allclose(face.points, portrait.points, atol=2)
    np.testing.assert_allclose(face.box, portrait.box, atol=6)
    assert face.score == pytest.approx(0.9)
    session = face_analysis.models["recognition"].session
    expected = known.recognise(session, picture, face.points)
    np.testing.assert_allclose(face.embedding, expected, atol=1e-4 * np.abs(expected).max())


def test_in_the_margin_faces_are_those_of_the_picture_with_half_its_longer_side_around(face_analysis):
    picture = draw_portraits((171, 140), Portrait(3, (70, 80), 245))
    sessions = [face_analysis.models[task].session for task in ("detection", "recognition")]
    assert known.known_faces(*sessions, picture) == []
    [(box, points, score, _)] = known.known_faces(*sessions, np.pad(picture, ((85, 85), (85, 85), (0, 0))))
    [face] = find_faces(face_analysis, picture)
    np.testing.assert_allclose(face.box, box[[1, 0, 3, 2]] - 85, atol=1e-3)
    np.testing.assert_allclose(face.points, points - 85, atol=1e-3)
    assert face.score == pytest.approx(score)


def test_another_packs_settings_of_the_detector_change_nothing_and_stay(face_analysis, monkeypatch):
    detector = face_analysis.models["detection"]
    picture = draw_portraits((480, 641), Portrait(1, (300, 240), 250), Portrait(2, (60, 60), 30))
    expected = find_faces(face_analysis, picture)
    assert len(expected) == 2
    monkeypatch.setattr(detector, "input_size", (256, 256))
    monkeypatch.setattr(detector, "input_sizes", [(256, 256)], raising=False)
    before = settings(detector)
    faces = find_faces(face_analysis, picture)
    assert settings(detector) == before
    assert [face.box for face in faces] == [face.box for face in expected]


def test_an_exception_inside_leaves_the_detector_as_it_was(face_analysis, monkeypatch):
    detector = face_analysis.models["detection"]

    def fail(*arguments):
        raise RuntimeError("out of memory")

    before = settings(detector)
    with monkeypatch.context() as patch:
        patch.setattr(detector, "forward", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            find_faces(face_analysis, draw_portraits((64, 65)))
    assert settings(detector) == before


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (1, 193), (200, 1), (3, 570)], ids=str)
def test_pictures_too_small_for_a_face_have_none(size, face_analysis):
    assert find_faces(face_analysis, draw_portraits(size)) == []


def test_a_16_pixel_picture_can_hold_a_face(face_analysis):
    [face] = find_faces(face_analysis, draw_portraits((16, 17), Portrait(1, (8, 8), 24)))
    np.testing.assert_allclose(face.points, Portrait(1, (8, 8), 24).points, atol=1)


def test_twice_gives_the_same_bits_and_the_picture_stays(face_analysis):
    size, portraits = CROWD
    picture = draw_portraits(size, *portraits)
    kept, state = picture.copy(), np.random.get_state()[1].copy()
    one, two = (find_faces(face_analysis, picture) for _ in range(2))
    assert np.array_equal(picture, kept)
    assert np.array_equal(np.random.get_state()[1], state)
    assert [face.box for face in one] == [face.box for face in two]
    assert all(np.array_equal(a.embedding, b.embedding) for a, b in zip(one, two, strict=True))


def test_the_networks_have_the_inputs_and_outputs_of_the_real_ones(face_analysis):
    detection, recognition = (face_analysis.models[task].session for task in ("detection", "recognition"))
    [given] = detection.get_inputs()
    assert (given.name, given.shape[:2]) == ("input.1", [1, 3])
    side = 96
    outputs = detection.run(None, {"input.1": np.zeros((1, 3, side, side), np.float32)})
    rows = [2 * (side // stride) ** 2 for stride in (8, 16, 32)]
    assert [output.shape for output in outputs] == [
        (count, values) for values in (1, 4, 10) for count in rows
    ]
    names = " ".join(one.name for one in detection.get_outputs())
    assert names == "448 471 494 451 474 497 454 477 500"
    [given], [made] = recognition.get_inputs(), recognition.get_outputs()
    assert (given.name, given.shape[1:], made.shape[1:]) == ("input.1", [3, 112, 112], [512])
