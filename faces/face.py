"""A detected face."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..record import record

Edges = tuple[float, float, float, float]  # top, left, bottom and right between pixels, in the order of `Box`


@record(eq=False)
class Face:
    """A face in an image, in that image's pixels; parts of it may lie outside.

    box: top, left, bottom, right.
    points: (5, 2) float32, x and y of left eye, right eye, nose, left and right mouth corner;
            left and right as seen in the image.
    score: confidence of the detector, 0 to 1.
    embedding: (512,) float32, the identity; not normalised.
    """

    box: Edges
    points: NDArray[np.float32]
    score: float
    embedding: NDArray[np.float32]

    @property
    def area(self) -> float:
        """Area of the box in pixels."""
        top, left, bottom, right = self.box
        return (right - left) * (bottom - top)

    @property
    def centre(self) -> tuple[float, float]:
        """(y, x) of the box centre."""
        top, left, bottom, right = self.box
        return (top + bottom) / 2, (left + right) / 2
