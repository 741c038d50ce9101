"""Detect the faces in an image with an insightface FaceAnalysis, and their identities.

The detector (SCRFD, arXiv 2105.04714) resizes the image to a chosen square and misses a face that is very large in it, so
the squares go from 640 pixels down by 64 until there is a face, as in the original InstantID nodes. If there is
none, the face may fill the image: the same is tried with a black margin.

insightface 0.7.3 and older take that size from an attribute, 1.0 and newer from another one and otherwise from two squares
at once. The argument `input_size` of `detect` means the same in all of them, and leaves the shared object as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .face import Face

DETECTION, RECOGNITION = TASKS = "detection", "recognition"  # names of the networks in a FaceAnalysis
SIDES = range(640, 128, -64)  # of the square that the detector looks at

Picture = NDArray[np.uint8]
Found = tuple[NDArray[np.float32], NDArray[np.float32]]  # (F, 5) boxes with scores, (F, 5, 2) points


class Analysis(Protocol):
    """The part of insightface's FaceAnalysis that is used: its networks by their task."""

    models: Mapping[str, Any]


def find_faces(analysis: Analysis, picture: Picture) -> list[Face]:
    """Return the faces in an RGB image (H, W, 3), the largest first."""
    if max(picture.shape[:2]) > SIDES[-1] * min(picture.shape[:2]):
        return []  # a strip, of which the smallest square keeps less than one pixel
    blue_first = np.ascontiguousarray(picture[..., ::-1])
    boxes, points = _detect(analysis, blue_first)
    if not len(boxes):
        boxes, points = _detect_in_margin(analysis, blue_first)
    faces = [_recognise(analysis, blue_first, *found) for found in zip(boxes, points, strict=True)]
    return sorted(faces, key=lambda face: face.area, reverse=True)


def _detect(analysis: Analysis, picture: Picture) -> Found:
    """Return the faces found at the largest square that has any."""
    found: Found = np.empty((0, 5), np.float32), np.empty((0, 5, 2), np.float32)
    for side in SIDES:
        found = analysis.models[DETECTION].detect(picture, input_size=(side, side))
        if len(found[0]):
            break
    return found


def _detect_in_margin(analysis: Analysis, picture: Picture) -> Found:
    """Return the faces found in the image at half its size, with a black margin."""
    margin = max(picture.shape[:2]) // 2
    boxes, points = _detect(analysis, np.pad(picture, ((margin, margin), (margin, margin), (0, 0))))
    return boxes - np.array([margin] * 4 + [0], np.float32), points - np.float32(margin)


def _recognise(
    analysis: Analysis, picture: Picture, box: NDArray[np.float32], points: NDArray[np.float32]
) -> Face:
    left, top, right, bottom, score = box.tolist()
    embedding = analysis.models[RECOGNITION].get(picture, SimpleNamespace(kps=points))
    return Face((top, left, bottom, right), points, score, embedding)
