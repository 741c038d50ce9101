"""Sockets of the nodes that work on faces."""

from __future__ import annotations

from comfy_api.latest import io

from ..faces.choose import WHICH

FaceAnalysis = io.Custom("FACEANALYSIS")


def which_face_socket(*more: str) -> io.Combo.Input:
    """Return the choice of a face, with further options after the common ones."""
    return io.Combo.Input(
        "which_face",
        options=[*WHICH, *more],
        optional=True,
        tooltip="Which face to use if there are several. largest: the largest one. most central: the one "
        "nearest to the centre of the image. left to right: the one with number face_index, counted from the "
        "left. index: the one with number face_index, counted from the largest."
        + (" all: every face." if more else ""),
    )


def face_index_socket() -> io.Int.Input:
    """Return the number of a face."""
    return io.Int.Input(
        "face_index",
        default=0,
        min=0,
        max=999,
        optional=True,
        advanced=True,
        tooltip="Number of the face for left to right and index, as shown in the boxes of Face Keypoints. 0 "
        "is the leftmost, or the largest. Ignored by the other choices.",
    )
