"""Draw faces: the keypoints picture of InstantID (arXiv 2401.07519), and boxes with numbers for people.

InstantID's ControlNet was trained on the keypoints picture, so its geometry and colours are the published ones: a limb from
the nose to each other point, an ellipse 8 pixels wide at 0.6 of the point's colour; a disc of 10 pixels on each point.

OpenCV comes with insightface, so it is imported only where there is something to draw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .face import Face

COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255))  # as the points of a face
NOSE = 2
LIMBS = (0, 1, 3, 4)  # points that are joined with the nose
HALF_WIDTH = 4
RADIUS = 10
DIMMED = 0.6
WHITE = (255, 255, 255)

Canvas = NDArray[np.uint8]


def draw_keypoints(faces: Sequence[Face], size: tuple[int, int]) -> Tensor:
    """Return the keypoints picture (height, width, 3), 0 to 1, for a picture of `size`; black without faces."""
    canvas = np.zeros((*size, 3), np.uint8)
    for face in faces:
        for point in LIMBS:
            _draw_limb(canvas, face.points[point], face.points[NOSE], COLOURS[point])
    canvas = (canvas * DIMMED).astype(np.uint8)
    for face in faces:
        for point, colour in zip(face.points, COLOURS, strict=True):
            _draw_disc(canvas, point, RADIUS, colour)
    return torch.as_tensor(canvas).float() / 255


def draw_boxes(picture: Canvas, faces: Sequence[Face]) -> Tensor:
    """Return the RGB picture (H, W, 3), 0 to 1, with each face's box, its number from 0 and its five points."""
    canvas = np.array(picture, order="C")
    unit = max(1, round(max(canvas.shape[:2]) / 500))  # lines stay visible in large pictures
    for number, face in enumerate(faces):
        _draw_box(canvas, face, str(number), unit)
        for point, colour in zip(face.points, COLOURS, strict=True):
            _draw_disc(canvas, point, 2 * unit, colour)
    return torch.as_tensor(canvas).float() / 255


def _draw_limb(
    canvas: Canvas, start: NDArray[np.float32], end: NDArray[np.float32], colour: Sequence[int]
) -> None:
    import cv2

    x, y = ((start + end) / 2).tolist()
    across, down = (start - end).tolist()
    axes = int(math.hypot(across, down) / 2), HALF_WIDTH
    outline = cv2.ellipse2Poly((int(x), int(y)), axes, int(math.degrees(math.atan2(down, across))), 0, 360, 1)
    cv2.fillConvexPoly(canvas, np.array(outline), colour)


def _draw_disc(canvas: Canvas, point: NDArray[np.float32], radius: int, colour: Sequence[int]) -> None:
    import cv2

    x, y = point.tolist()
    cv2.circle(canvas, (int(x), int(y)), radius, colour, -1)


def _draw_box(canvas: Canvas, face: Face, text: str, unit: int) -> None:
    """Draw the box of a face, with its number on black in the corner that is inside the picture."""
    import cv2

    left, top, right, bottom = (round(edge) for edge in face.box)
    cv2.rectangle(canvas, (left, top), (right, bottom), WHITE, unit)
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.5 * unit, unit)
    x, y, gap = max(left, 0), max(top, 0), 3 * unit
    cv2.rectangle(canvas, (x, y), (x + width + 2 * gap, y + height + 2 * gap), (0, 0, 0), -1)
    cv2.putText(
        canvas,
        text,
        (x + gap, y + gap + height),
        cv2.FONT_HERSHEY_SIMPLEX,
        0.5 * unit,
        WHITE,
        unit,
        cv2.LINE_AA,
    )
