"""Faces in the host's images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from torch import Tensor

from ..faces.choose import choose_face, order_faces
from ..faces.draw import draw_boxes, draw_keypoints
from ..faces.face import Face
from ..faces.find import SIDES, Picture, find_faces
from .face_models import RECOGNITION, TASKS
from .log import log

ALL = "all"
PASS_THROUGH, ERROR = "pass through", "error"


def faces_in(analysis: Any, image: Tensor, socket: str = "faceanalysis") -> list[list[Face]]:
    """Return the faces in each picture of an IMAGE (B, H, W, C), the largest first.

    `socket` is the one that `analysis` came through.

    Raises:
        ValueError: no FaceAnalysis, or no pictures; one sentence.
    """
    _check_analysis(analysis, socket)
    _check_image(image)
    progress = comfy.utils.ProgressBar(len(image))
    faces: list[list[Face]] = []
    for picture in image:
        comfy.model_management.throw_exception_if_processing_interrupted()
        faces.append(find_faces(analysis, to_bytes(picture)))
        progress.update(1)
    return faces


def choose_faces(
    found: Sequence[list[Face]],
    size: tuple[int, int],
    which_face: str,
    face_index: int,
    on_no_face: str,
    otherwise: str,
) -> list[list[Face]]:
    """Return the faces that are asked for in each picture of `size` (height, width): one, none, or all.

    The log tells which pictures have none, and what happens `otherwise`.

    Raises:
        ValueError: a picture has none, and `on_no_face` says error; one sentence.
    """
    chosen = [_chosen(faces, size, which_face, face_index) for faces in found]
    missing = [
        f"picture {number} of {len(found)} ({len(faces)} found)"
        for number, (faces, taken) in enumerate(zip(found, chosen, strict=True), start=1)
        if not taken
    ]
    if missing:
        told = f"image: expected the face that is asked for, got none in {', '.join(missing)}."
        if on_no_face == ERROR:
            raise ValueError(
                f"{told} Looked for at {SIDES[0]} to {SIDES[-1]} pixels, then in a margin. "
                f"Take another picture or face_index, or set on_no_face to {PASS_THROUGH}."
            )
        log.warning("%s %s", told, otherwise)
    return chosen


def draw_faces(
    analysis: Any, image: Tensor, which_face: str, face_index: int, on_no_face: str
) -> tuple[Tensor, Tensor]:
    """Return the keypoints pictures and the pictures with numbered boxes of an IMAGE, both (B, H, W, 3).

    Raises:
        ValueError: see `faces_in` and `choose_faces`.
    """
    found = faces_in(analysis, image)
    size = image.shape[1], image.shape[2]
    chosen = choose_faces(found, size, which_face, face_index, on_no_face, "The result is black there.")
    keypoints = [draw_keypoints(faces, size) for faces in chosen]
    boxes = [
        draw_boxes(to_bytes(picture), order_faces(faces, size, which_face))
        for picture, faces in zip(image, found, strict=True)
    ]
    device = comfy.model_management.intermediate_device()
    return torch.stack(keypoints).to(device), torch.stack(boxes).to(device)


def to_bytes(picture: Tensor) -> Picture:
    """Return (H, W, C) from 0 to 1 as RGB bytes (H, W, 3); grey is repeated, transparency is left out."""
    colours = picture[..., :3] if picture.shape[-1] >= 3 else picture[..., :1].expand(-1, -1, 3)
    return colours.float().nan_to_num(nan=0.0).clamp(0, 1).mul(255).round().to(torch.uint8).cpu().numpy()


def _chosen(faces: list[Face], size: tuple[int, int], which_face: str, face_index: int) -> list[Face]:
    if which_face == ALL:
        return faces
    face = choose_face(faces, size, which_face, face_index)
    return [] if face is None else [face]


def _check_analysis(analysis: Any, socket: str) -> None:
    models = getattr(analysis, "models", None)
    if not isinstance(models, dict):
        raise ValueError(
            f"{socket}: expected insightface's FaceAnalysis, got {type(analysis).__name__}. "
            "Connect Face Analysis (Megapixel)."
        )
    if missing := [task for task in TASKS if task not in models]:
        raise ValueError(
            f"{socket}: expected networks for {' and '.join(TASKS)}, got none for {' and '.join(missing)}. "
            "Connect Face Analysis (Megapixel)."
        )
    if not getattr(models["detection"], "use_kps", True):
        raise ValueError(
            f"{socket}: expected a detector that gives the five points of a face, got one for boxes only. "
            "Connect Face Analysis (Megapixel)."
        )
    name = Path(str(getattr(models["recognition"], "model_file", RECOGNITION))).name
    if name != RECOGNITION:
        log.warning(
            "%s: expected %s of antelopev2, got %s: InstantID will make somebody else.",
            socket,
            RECOGNITION,
            name,
        )


def _check_image(image: Tensor) -> None:
    if image.dim() != 4 or not image.numel():
        shape = "x".join(str(length) for length in image.shape)
        raise ValueError(
            f"image: expected pictures of at least 1x1 pixels, got a tensor of {shape}. Check the node before."
        )
