"""What is known of one face."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Box = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class Face:
    """A face in a picture, in that picture's pixels; parts of it may lie outside.

    box: left, top, right, bottom.
    points: (5, 2) float32, x and y of left eye, right eye, nose, left and right corner of the mouth; left and right as
        one sees them in the picture.
    score: how sure the detector is, 0 to 1.
    embedding: (512,) float32, who it is; its length is not 1.
    """

    box: Box
    points: NDArray[np.float32]
    score: float
    embedding: NDArray[np.float32]

    @property
    def area(self) -> float:
        """Return the area of the box in pixels."""
        left, top, right, bottom = self.box
        return (right - left) * (bottom - top)

    @property
    def centre(self) -> tuple[float, float]:
        """Return (y, x) of the middle of the box."""
        left, top, right, bottom = self.box
        return (top + bottom) / 2, (left + right) / 2
