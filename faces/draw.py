"""Draw the keypoints image of InstantID (arXiv 2401.07519).

InstantID's ControlNet was trained on the keypoints image, so its geometry and colours are the published ones: a limb from
the nose to each other point, an ellipse 8 pixels wide at 0.6 of the point's colour; a disc of 10 pixels on each point.

OpenCV is installed with insightface, so it is imported only when there is something to draw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..scaling.size import Size
from .face import Face

COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255))  # as the points of a face
NOSE = 2
LIMBS = (0, 1, 3, 4)  # points that are joined with the nose
HALF_WIDTH = 4
RADIUS = 10
DIMMED = 0.6

Pixels = NDArray[np.uint8]  # RGB (H, W, 3)


def draw_keypoints(faces: Sequence[Face], size: Size) -> Tensor:
    """Return the keypoints image (height, width, 3), 0 to 1, for an image of `size`; black without faces."""
    pixels = np.zeros((*size, 3), np.uint8)
    for face in faces:
        for point in LIMBS:
            _draw_limb(pixels, face.points[point], face.points[NOSE], COLOURS[point])
    pixels = (pixels * DIMMED).astype(np.uint8)
    for face in faces:
        for point, colour in zip(face.points, COLOURS, strict=True):
            draw_disc(pixels, point, RADIUS, colour)
    return torch.as_tensor(pixels).float() / 255


def draw_disc(pixels: Pixels, point: NDArray[np.float32], radius: int, colour: Sequence[int]) -> None:
    """Draw a disc around a point (x, y), in place."""
    import cv2

    x, y = point.tolist()
    cv2.circle(pixels, (int(x), int(y)), radius, colour, -1)


def _draw_limb(
    pixels: Pixels, start: NDArray[np.float32], end: NDArray[np.float32], colour: Sequence[int]
) -> None:
    import cv2

    x, y = ((start + end) / 2).tolist()
    across, down = (start - end).tolist()
    axes = int(math.hypot(across, down) / 2), HALF_WIDTH
    outline = cv2.ellipse2Poly((int(x), int(y)), axes, int(math.degrees(math.atan2(down, across))), 0, 360, 1)
    cv2.fillConvexPoly(pixels, np.array(outline), colour)
