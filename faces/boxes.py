"""Draw the boxes of faces with their numbers, for viewing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .draw import COLOURS, Pixels, draw_disc
from .face import Face

WHITE = (255, 255, 255)


def draw_boxes(picture: Pixels, faces: Sequence[Face]) -> Tensor:
    """Return the RGB image (H, W, 3), 0 to 1, with each face's box, its number from 0 and its five points."""
    pixels = np.array(picture, order="C")
    unit = max(1, round(max(pixels.shape[:2]) / 500))  # lines stay visible in large images
    for number, face in enumerate(faces):
        _draw_box(pixels, face, str(number), unit)
        for point, colour in zip(face.points, COLOURS, strict=True):
            draw_disc(pixels, point, 2 * unit, colour)
    return torch.as_tensor(pixels).float() / 255


def _draw_box(pixels: Pixels, face: Face, text: str, unit: int) -> None:
    """Draw the box of a face, with its number on black in the corner that is inside the image."""
    import cv2

    top, left, bottom, right = (round(edge) for edge in face.box)
    cv2.rectangle(pixels, (left, top), (right, bottom), WHITE, unit)
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.5 * unit, unit)
    x, y, gap = max(left, 0), max(top, 0), 3 * unit
    cv2.rectangle(pixels, (x, y), (x + width + 2 * gap, y + height + 2 * gap), (0, 0, 0), -1)
    cv2.putText(
        pixels,
        text,
        (x + gap, y + gap + height),
        cv2.FONT_HERSHEY_SIMPLEX,
        0.5 * unit,
        WHITE,
        unit,
        cv2.LINE_AA,
    )
