"""What insightface 0.7.3 finds at one size, and what the original node does with it,
written down step by step.

0.7.3 has no wheel, so this replaces it; the networks are run by onnxruntime alone.
"""

from __future__ import annotations

import cv2
import numpy as np

STRIDES = (8, 16, 32)
THRESHOLD, OVERLAP = 0.5, 0.4
TEMPLATE = np.array(  # where the five points go in the 112 x 112 pixels that ArcFace sees
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)


def known_faces(detector, recogniser, picture):
    """Return (box, points, score, embedding) of the faces at the first of the known
    sizes that shows one, largest first.
    """
    for side in (640, 576, 512, 448, 384, 320, 256, 192):
        if faces := detect(detector, picture, side):
            faces = [(*face, recognise(recogniser, picture, face[1])) for face in faces]
            return sorted(faces, key=lambda face: -(face[0][2] - face[0][0]) * (face[0][3] - face[0][1]))
    return []


def detect(session, picture, side):
    """Return (box, points, score) of an RGB picture's faces, the surest first."""
    height, width, _ = picture.shape
    if height > width:
        new_height, new_width = side, int(side / (height / width))
    else:
        new_height, new_width = int(side * (height / width)), side
    scale = new_height / height
    square = np.zeros((side, side, 3), np.uint8)
    square[:new_height, :new_width] = cv2.resize(picture, (new_width, new_height))
    given = (square.astype(np.float32).transpose(2, 0, 1)[None] - 127.5) / 128
    outputs = session.run(None, {session.get_inputs()[0].name: given})
    found = []
    for level, stride in enumerate(STRIDES):
        scores, edges, points = outputs[level], outputs[level + 3], outputs[level + 6]
        for row in np.nonzero(scores[:, 0] >= THRESHOLD)[0]:
            place = row // 2  # two anchors in each place
            x, y = place % (side // stride) * stride, place // (side // stride) * stride
            left, top, right, bottom = edges[row] * stride
            box = np.array([x - left, y - top, x + right, y + bottom]) / scale
            five = (points[row].reshape(5, 2) * stride + (x, y)) / scale
            found.append((box, five, float(scores[row, 0])))
    found.sort(key=lambda face: -face[2])
    kept = []
    for face in found:
        if all(overlap(face[0], other[0]) <= OVERLAP for other in kept):
            kept.append(face)
    return kept


def overlap(one, other):
    """Return the shared area of two boxes by their whole one; both ends count, as pixels."""
    width = min(one[2], other[2]) - max(one[0], other[0]) + 1
    height = min(one[3], other[3]) - max(one[1], other[1]) + 1
    shared = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (one, other)]
    return shared / (sum(areas) - shared)


def recognise(session, picture, points):
    """Return the embedding of the face with these points."""
    # Turn, scale and move the points as near to the template as can be: least squares for (a, b, x, y) in
    # u = a px - b py + x, v = b px + a py + y.
    rows = [row for px, py in points for row in ((px, -py, 1, 0), (py, px, 0, 1))]
    a, b, x, y = np.linalg.lstsq(np.array(rows), TEMPLATE.reshape(-1), rcond=None)[0]
    aligned = cv2.warpAffine(picture, np.array([[a, -b, x], [b, a, y]]), (112, 112), borderValue=0.0)
    given = (aligned.astype(np.float32).transpose(2, 0, 1)[None] - 127.5) / 127.5
    return session.run(None, {session.get_inputs()[0].name: given})[0][0]
