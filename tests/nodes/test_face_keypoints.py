"""The node that draws keypoints, on the host's images: any channels, any type,
batches with a face missing.
"""

from __future__ import annotations

import comfy.model_management
import comfy.utils
import pytest
import torch
from megapixel.faces.choose import choose_face
from megapixel.faces.draw import draw_keypoints
from megapixel.faces.find import find_faces
from megapixel.host.faces import faces_in
from megapixel.host.log import forget_lines
from megapixel.nodes import MegapixelFaceKeypoints

from devhost.tiny.faces import Portrait, draw_portraits

SIZE = (241, 360)
LEFT, RIGHT = Portrait(1, (90, 120), 90), Portrait(2, (250, 110), 120, 15)
BLACK = torch.zeros(*SIZE, 3)


def image(*pictures):
    """Return an IMAGE with these portraits in each picture."""
    return torch.stack([torch.from_numpy(draw_portraits(SIZE, *each)).float() / 255 for each in pictures])


def keypoints(analysis, image, *settings, **named):
    with torch.inference_mode():  # as the host runs every node
        return MegapixelFaceKeypoints.execute(analysis, image, *settings, **named).args


def expected(analysis, portraits, which="largest", index=0):
    face = choose_face(find_faces(analysis, draw_portraits(SIZE, *portraits)), SIZE, which, index)
    return draw_keypoints([face], SIZE)


@pytest.fixture
def refused(face_analysis):
    """A function that runs the node and returns the error message that it stops with."""

    def run(*arguments, **named):
        with pytest.raises(ValueError, match=r"^\w+: expected ") as raised:
            keypoints(*arguments, **named)
        assert "\n" not in str(raised.value)
        return str(raised.value)

    return run


@pytest.mark.slow
def test_a_batch_gives_one_entry_for_each_picture_and_black_without_a_face(face_analysis, caplog):
    batch = image([LEFT], [], [LEFT, RIGHT], [])
    kept = batch.clone()
    drawn, boxes = keypoints(face_analysis, batch)
    assert torch.equal(batch, kept)
    assert drawn.shape == boxes.shape == (4, *SIZE, 3)
    assert drawn.dtype == boxes.dtype == torch.float32
    assert torch.equal(drawn[0], expected(face_analysis, [LEFT]))
    assert torch.equal(drawn[2], expected(face_analysis, [LEFT, RIGHT]))
    assert torch.equal(drawn[[1, 3]], torch.stack([BLACK, BLACK]))
    assert torch.equal(boxes[[1, 3]], kept[[1, 3]])
    assert not torch.equal(boxes[0], kept[0])


@pytest.mark.parametrize(
    ("settings", "chosen"),
    [
        ({}, [RIGHT]),
        ({"which_face": "largest", "face_index": 1}, [RIGHT]),
        ({"which_face": "most central"}, [RIGHT]),
        ({"which_face": "left to right"}, [LEFT]),
        ({"which_face": "left to right", "face_index": 1}, [RIGHT]),
        ({"which_face": "index", "face_index": 0}, [RIGHT]),
        ({"which_face": "index", "face_index": 1}, [LEFT]),
        ({"which_face": "all"}, [RIGHT, LEFT]),
    ],
    ids=str,
)
def test_the_choice_of_a_face(settings, chosen, face_analysis):
    [drawn], _ = keypoints(face_analysis, image([LEFT, RIGHT]), **settings)
    faces = find_faces(face_analysis, draw_portraits(SIZE, LEFT, RIGHT))
    by_place = {RIGHT: faces[0], LEFT: faces[1]}
    assert torch.equal(drawn, draw_keypoints([by_place[one] for one in chosen], SIZE))


def test_the_boxes_are_numbered_as_the_choice_counts(face_analysis):
    pictures = image([LEFT, RIGHT])
    _, by_size = keypoints(face_analysis, pictures)
    _, from_left = keypoints(face_analysis, pictures, which_face="left to right")
    changed = (by_size != from_left).any(-1)[0].nonzero()
    assert len(changed)
    for y, x in changed.tolist():  # only the two numbers have changed places
        assert any(
            0 <= x - portrait.box[1] < 20 and 0 <= y - portrait.box[0] < 24 for portrait in (LEFT, RIGHT)
        )


def test_an_error_names_every_picture_without_the_face(face_analysis, refused):
    batch = image([LEFT], [], [LEFT, RIGHT])
    assert refused(face_analysis, batch, on_no_face="error") == (
        "image: expected the chosen face, got none in image 2 of 3 (0 found). "
        "Searched at 640 to 192 pixels, then with a margin. Use another image or face_index, or set on_no_face to pass through."
    )
    told = refused(face_analysis, batch, which_face="index", face_index=1, on_no_face="error")
    assert "image 1 of 3 (1 found), image 2 of 3 (0 found)." in told
    drawn, _ = keypoints(face_analysis, batch[[0, 2]], on_no_face="error")
    assert len(drawn) == 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_images_of_another_type_give_the_same_points(dtype, face_analysis):
    drawn, boxes = keypoints(face_analysis, image([LEFT]).to(dtype))
    assert drawn.dtype == boxes.dtype == torch.float32
    [face] = faces_in(face_analysis, image([LEFT]).to(dtype))[0]
    [exact] = faces_in(face_analysis, image([LEFT]))[0]
    assert torch.allclose(torch.tensor(face.points), torch.tensor(exact.points), atol=0.2)


def test_transparency_is_left_out(face_analysis):
    colours = image([LEFT, RIGHT])
    alpha = torch.zeros(1, *SIZE, 1)
    for ours, theirs in zip(
        keypoints(face_analysis, torch.cat([colours, alpha], dim=-1)),
        keypoints(face_analysis, colours),
        strict=True,
    ):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("channels", [1, 2])
def test_grey_is_seen_as_grey(channels, face_analysis):
    grey = image([LEFT])[..., :channels]
    drawn, boxes = keypoints(face_analysis, grey)  # its dots have no colour, so it shows no face
    assert torch.equal(drawn[0], BLACK)
    assert torch.equal(boxes, grey[..., :1].expand(-1, -1, -1, 3))


def test_values_outside_the_range_and_none_at_all_do_no_harm(face_analysis):
    picture = image([LEFT]) * 1.2 - 0.1
    [face] = faces_in(face_analysis, picture)[0]
    broken = image([LEFT])
    broken[0, :3, :3] = torch.tensor([float("nan"), float("inf"), -float("inf")])
    [other] = faces_in(face_analysis, broken)[0]
    for one in (face, other):
        assert torch.allclose(torch.tensor(one.points), torch.tensor(LEFT.points).float(), atol=2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_bytes_come_back_as_the_picture_had_them(dtype, face_analysis):
    every = (torch.arange(256).float() / 255).to(dtype)
    _, boxes = keypoints(face_analysis, every.reshape(1, 16, 16, 1).expand(1, 16, 16, 3))
    expected = every.double().mul(255).round()
    assert torch.equal(boxes[0, ..., 0].flatten(), expected.float() / 255)
    if dtype != torch.bfloat16:  # which has fewer values than a byte
        assert torch.equal(expected, torch.arange(256).double())


@pytest.mark.parametrize("size", [(16, 16), (1, 1), (16, 33)], ids=str)
def test_a_picture_of_16_pixels_is_black(size, face_analysis):
    drawn, boxes = keypoints(
        face_analysis, torch.rand(2, *size, 3, generator=torch.Generator().manual_seed(0))
    )
    assert drawn.shape == boxes.shape == (2, *size, 3)
    assert not drawn.any()


def test_what_is_no_face_analysis_is_refused(face_analysis, refused):
    assert refused(None, image([LEFT])) == (
        "faceanalysis: expected insightface's FaceAnalysis, got NoneType. Connect Face Analysis (Megapixel)."
    )
    with pytest.raises(ValueError, match=r"^insightface: expected"):
        faces_in("a text", image([LEFT]), "insightface")


def test_an_analysis_that_does_not_recognise_is_refused(antelopev2, refused):
    from insightface.app import FaceAnalysis

    analysis = FaceAnalysis(
        name="antelopev2", root=str(antelopev2.parent.parent), allowed_modules=["detection"],
        providers=["CPUExecutionProvider"],
    )  # fmt: skip
    assert "got none for recognition" in refused(analysis, image([LEFT]))


def test_a_detector_without_points_is_refused(face_analysis, refused, monkeypatch):
    monkeypatch.setattr(face_analysis.models["detection"], "use_kps", False)
    assert "got one for boxes only. " in refused(face_analysis, image([LEFT]))


def test_another_recognition_network_gets_a_warning(face_analysis, caplog, monkeypatch):
    forget_lines()
    monkeypatch.setattr(face_analysis.models["recognition"], "model_file", "/models/buffalo_l/w600k_r50.onnx")
    faces_in(face_analysis, image([LEFT]), "insightface")
    assert caplog.messages == [
        "insightface: expected glintr100.onnx of antelopev2, got w600k_r50.onnx. InstantID will draw another person."
    ]


@pytest.mark.parametrize("shape", [(0, 8, 9, 3), (1, 0, 9, 3), (8, 9, 3), (1, 2, 8, 9, 3)], ids=str)
def test_an_image_without_pictures_is_refused(shape, face_analysis, refused):
    told = refused(face_analysis, torch.zeros(shape))
    assert told.startswith(
        f"image: expected images of at least 1x1 pixels, got a tensor of {'x'.join(map(str, shape))}."
    )


def test_progress_and_cancel_go_by_pictures(face_analysis, monkeypatch):
    seen = []
    monkeypatch.setattr(
        comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, *rest, **more: seen.append((value, total))
    )
    keypoints(face_analysis, image([LEFT], [RIGHT], [LEFT]))
    assert seen[0] == (1, 3)  # the host leaves some out that come soon after another
    assert seen[-1] == (3, 3)

    def cancel(value, total, *rest, **more):
        seen.append((value, total))
        comfy.model_management.interrupt_current_processing(True)

    seen.clear()
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", cancel)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        keypoints(face_analysis, image([LEFT], [RIGHT], [LEFT]))
    assert seen == [(1, 3)]
