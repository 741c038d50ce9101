"""Faces in the host's images."""

from __future__ import annotations

from collections.abc import Sequence
from logging import WARNING
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from torch import Tensor

from ..errors import bad_input
from ..faces.choose import choose_face
from ..faces.face import Face
from ..faces.find import DETECTION, RECOGNITION, SIDES, TASKS, Picture, find_faces
from ..scaling.colours import rgb
from ..scaling.size import Size
from .images import check_pixels
from .log import log_once

ALL = "all"
PASS_THROUGH, ERROR = "pass through", "error"
RECOGNITION_FILE = "glintr100.onnx"  # of antelopev2, which InstantID was trained with


def faces_in(analysis: Any, image: Tensor, socket: str = "faceanalysis") -> list[list[Face]]:
    """Return the faces in each image of an IMAGE (B, H, W, C), the largest first.

    `socket` is the input of `analysis`, for messages.

    Raises:
        ValueError: when `analysis` is not a FaceAnalysis, or there are no images.
    """
    _check_analysis(analysis, socket)
    check_pixels(image)
    progress = comfy.utils.ProgressBar(len(image))
    faces: list[list[Face]] = []
    for picture in image:
        comfy.model_management.throw_exception_if_processing_interrupted()
        faces.append(find_faces(analysis, to_bytes(picture)))
        progress.update(1)
    return faces


def choose_faces(
    found: Sequence[list[Face]], size: Size, which_face: str, face_index: int, on_no_face: str
) -> list[list[Face]]:
    """Return the chosen faces in each image of `size` (height, width): one, none, or all.

    Raises:
        ValueError: when an image has no such face and `on_no_face` is ERROR.
    """
    chosen = [_chosen(faces, size, which_face, face_index) for faces in found]
    hint = (
        f"Searched at {SIDES[0]} to {SIDES[-1]} pixels, then with a margin. Use another image or "
        f"face_index, or set on_no_face to {PASS_THROUGH}."
    )
    if on_no_face == ERROR and (texts := without_face(found, chosen, hint)):
        raise ValueError(texts[0])
    return chosen


def without_face(found: Sequence[list[Face]], chosen: Sequence[list[Face]], otherwise: str) -> list[str]:
    """Return a notice that names the images without a chosen face, and `otherwise`: what happens with them;
    none if all have one.
    """
    missing = [
        f"image {number} of {len(found)} ({len(faces)} found)"
        for number, (faces, taken) in enumerate(zip(found, chosen, strict=True), start=1)
        if not taken
    ]
    if not missing:
        return []
    return [str(bad_input("image", "the chosen face", f"none in {', '.join(missing)}", otherwise))]


def to_bytes(picture: Tensor) -> Picture:
    """Return (H, W, C) from 0 to 1 as RGB bytes (H, W, 3)."""
    colours = rgb(picture, -1).float().nan_to_num(nan=0.0)
    return colours.clamp(0, 1).mul(255).round().to(torch.uint8).cpu().numpy()


def _chosen(faces: list[Face], size: Size, which_face: str, face_index: int) -> list[Face]:
    if which_face == ALL:
        return faces
    face = choose_face(faces, size, which_face, face_index)
    return [] if face is None else [face]


def _check_analysis(analysis: Any, socket: str) -> None:
    models = getattr(analysis, "models", None)
    if not isinstance(models, dict):
        raise _no_analysis(socket, "insightface's FaceAnalysis", type(analysis).__name__)
    if missing := [task for task in TASKS if task not in models]:
        raise _no_analysis(socket, f"networks for {' and '.join(TASKS)}", f"none for {' and '.join(missing)}")
    if not getattr(models[DETECTION], "use_kps", True):
        raise _no_analysis(
            socket, "a detector that returns the five keypoints of a face", "one for boxes only"
        )
    name = Path(str(getattr(models[RECOGNITION], "model_file", RECOGNITION_FILE))).name
    if name != RECOGNITION_FILE:
        text = "%s: expected %s of antelopev2, got %s. InstantID will draw another person."
        log_once(text, socket, RECOGNITION_FILE, name, level=WARNING)


def _no_analysis(socket: str, expected: str, got: str) -> ValueError:
    return bad_input(socket, expected, got, "Connect Face Analysis (Megapixel).")
