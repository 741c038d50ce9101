"""Faces through the real server: a picture in, keypoints and numbered boxes out; a picture without a face is
an error message.
"""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from devhost.server import PromptFailure
from devhost.tiny.faces import Portrait, draw_portraits, save_antelopev2

LEFT, RIGHT = Portrait(1, (90, 120), 90), Portrait(2, (250, 110), 120, 15)


@pytest.fixture(scope="module")
def keypoints(server):
    """A function that runs the node over the portraits and returns (keypoints, boxes) as (H, W, 3) bytes."""
    save_antelopev2(server.base / "models" / "insightface" / "models" / "antelopev2")

    def run(*portraits, **settings):
        Image.fromarray(draw_portraits((241, 360), *portraits)).save(server.base / "input" / "faces.png")
        history = server.run(prompt(**settings))
        return [np.asarray(Image.open(server.images(history, node)[0])) for node in ("4", "5")]

    return run


def prompt(**settings):
    given = {"faceanalysis": ["2", 0], "image": ["1", 0], **settings}
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": "faces.png"}},
        "2": {"class_type": "MegapixelFaceAnalysis", "inputs": {"provider": "CPU"}},
        "3": {"class_type": "MegapixelFaceKeypoints", "inputs": given},
        "4": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "keypoints"}},
        "5": {"class_type": "SaveImage", "inputs": {"images": ["3", 1], "filename_prefix": "boxes"}},
    }


def test_points_lie_where_the_faces_are(keypoints):
    drawn, boxes = keypoints(LEFT, RIGHT, which_face="left to right", face_index=1)
    x, y = RIGHT.points[0].round().astype(int)
    assert tuple(drawn[y, x]) == (255, 0, 0)
    x, y = LEFT.points[0].round().astype(int)
    assert tuple(drawn[y, x]) == (0, 0, 0)
    assert boxes.shape == (241, 360, 3)
    for portrait in (LEFT, RIGHT):
        top, left = (round(edge) for edge in portrait.box[:2])
        assert (boxes[top - 2 : top + 3, left + 40] == 255).all(axis=-1).any()


def test_no_face_is_an_error_message_and_the_queue_goes_on(keypoints):
    with pytest.raises(PromptFailure) as raised:
        keypoints(on_no_face="error")
    [failure] = raised.value.failures
    assert failure.node_type == "MegapixelFaceKeypoints"
    assert failure.message.strip() == (
        "image: expected the chosen face, got none in image 1 of 1 (0 found). "
        "Searched at 640 to 192 pixels, then with a margin. Use another image or face_index, or set on_no_face to pass through."
    )
    drawn, _ = keypoints(on_no_face="pass through")
    assert not drawn.any()
    drawn, _ = keypoints(LEFT)
    assert drawn.any()


def test_the_loader_offers_the_folder_that_is_there(server, keypoints):
    info = server.object_info()["MegapixelFaceAnalysis"]["input"]
    assert "models/antelopev2" in str(info["optional"]["folder"])
    assert list(info["required"]) == ["provider"]
