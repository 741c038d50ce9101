"""Faces in the host's images."""

from __future__ import annotations

import logging
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
from ..faces.find import Picture, find_faces
from .face_models import FILES, TASKS

log = logging.getLogger("megapixel")

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


def draw_faces(
    analysis: Any, image: Tensor, which_face: str, index: int, on_no_face: str
) -> tuple[Tensor, Tensor]:
    """Return the keypoints pictures and the pictures with numbered boxes of an IMAGE, both (B, H, W, 3).

    Raises:
        ValueError: a picture without the face, where `on_no_face` says error; one sentence.
    """
    found = faces_in(analysis, image)
    height, width = image.shape[1:3]
    size, order = (height, width), "index" if which_face == ALL else which_face
    chosen = [faces if which_face == ALL else _one(faces, size, which_face, index) for faces in found]
    _report_missing(chosen, found, on_no_face)
    keypoints = [draw_keypoints(faces, size) for faces in chosen]
    boxes = [
        draw_boxes(to_bytes(picture), order_faces(faces, size, order))
        for picture, faces in zip(image, found, strict=True)
    ]
    device = comfy.model_management.intermediate_device()
    return torch.stack(keypoints).to(device), torch.stack(boxes).to(device)


def to_bytes(picture: Tensor) -> Picture:
    """Return (H, W, C) from 0 to 1 as RGB bytes (H, W, 3); grey is repeated, transparency is left out."""
    colours = picture[..., :3] if picture.shape[-1] >= 3 else picture[..., :1].expand(-1, -1, 3)
    return colours.float().nan_to_num(nan=0.0).clamp(0, 1).mul(255).round().to(torch.uint8).cpu().numpy()


def _one(faces: Sequence[Face], size: tuple[int, int], which_face: str, index: int) -> list[Face]:
    face = choose_face(faces, size, which_face, index)
    return [] if face is None else [face]


def _report_missing(chosen: Sequence[list[Face]], found: Sequence[list[Face]], on_no_face: str) -> None:
    """Say which pictures, counted from 0, lack the face: in the log, or as an error."""
    missing = [
        f"{number} ({len(found[number]) or 'no'} faces in it)"
        for number, faces in enumerate(chosen)
        if not faces
    ]
    if not missing:
        return
    told = f"image: expected the face in each of {len(chosen)} pictures, got none in {', '.join(missing)}."
    if on_no_face == ERROR:
        raise ValueError(
            f"{told} Tried squares of 640 to 192 pixels, and a margin. Take another picture or index."
        )
    log.warning("%s Their entries are black.", told)


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
    name = Path(str(getattr(models["recognition"], "model_file", FILES[0]))).name
    if name != FILES[0]:
        log.warning(
            "%s: expected %s of antelopev2, got %s: InstantID will make somebody else.",
            socket,
            FILES[0],
            name,
        )


def _check_image(image: Tensor) -> None:
    if image.dim() != 4 or not image.numel():
        shape = "x".join(str(length) for length in image.shape)
        raise ValueError(
            f"image: expected pictures of at least 1x1 pixels, got a tensor of {shape}. Check the node before."
        )
