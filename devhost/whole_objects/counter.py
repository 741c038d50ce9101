"""Counts in an image: large objects, small pieces, and the share of the background that is texture.

For images of a model that was trained on one object in front of a smooth background. The background is a
quadratic function of the position in each channel, fitted so that objects do not influence it; an object is
what differs from it. No property of the object is used, so the same counter works for every model.

Pictures are (H, W, 3) in [0, 1]. Areas are shares of the square of the shorter side, so that an object that
fills the frame is as large in a wide picture as in a square one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

Floats = NDArray[np.floating[Any]]
Flags = NDArray[np.bool_]

COUNTED_SIDE = 160
"""Shorter side to which an image is reduced before counting, so that its size does not change the count."""
CONTRAST = 0.08
"""Least difference from the background, in one channel."""
LEAST_OBJECT, LEAST_PIECE = 0.03, 0.0006
"""Least areas of a large object and of a piece."""
FIT_ROUNDS, NOISE_FLOOR = 10, 0.015
EDGE = 0.05
"""Of the shorter side: how far the edge reaches in, where the background is looked for first."""
LATENT_PIXEL = 8
TEXTURE_CONTRAST = 0.03
"""Minimum difference of a background pixel from the latent pixel around it that counts as texture."""
STEEPEST_SHARE = 0.02
"""Of the pixels, whose gradient is the sharpness."""


@dataclass(frozen=True)
class Count:
    """The counts of an image.

    Attributes:
        objects: large ones.
        pieces: small ones.
        covered: share of the picture that stands out.
        texture: share of the background that is not smooth.
        sharpness: mean gradient of the steepest pixels, a pixel.
    """

    objects: int
    pieces: int
    covered: float
    texture: float
    sharpness: float

    @property
    def one_whole(self) -> bool:
        """Return whether there is exactly one large object and no piece."""
        return self.objects == 1 and self.pieces == 0


def count(picture: Floats) -> Count:
    """Count the objects in an image (H, W, 3)."""
    reduced = _reduced(picture)
    standing_out = _filled(np.abs(reduced - smooth_background(reduced)).max(-1) > CONTRAST)
    labels, areas = _components(standing_out)
    large = np.isin(labels, np.flatnonzero(areas > LEAST_OBJECT) + 1)
    return Count(
        objects=int((areas > LEAST_OBJECT).sum()),
        pieces=int(((areas > LEAST_PIECE) & (areas <= LEAST_OBJECT)).sum()),
        covered=float(standing_out.mean()),
        texture=_texture(picture, large),
        sharpness=_sharpness(picture),
    )


def smooth_background(picture: Floats) -> Floats:
    """Return the quadratic function (H, W, 3) that fits the background of an image, however much of it an
    object covers.

    Least squares with decreasing weights for outliers: first of the pixels at the image's edge, which an
    object seldom covers, then of all pixels.
    """
    height, width, _ = picture.shape
    y, x = np.mgrid[0:height, 0:width]
    x, y = x / width - 0.5, y / height - 0.5
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], -1).reshape(-1, 6)
    values = picture.reshape(-1, 3)
    margin = EDGE * min(height, width) / np.array([height, width])
    at_edge = ((np.abs(y) > 0.5 - margin[0]) | (np.abs(x) > 0.5 - margin[1])).ravel().astype(float)
    weights = at_edge
    fitted = values
    for number in range(2 * FIT_ROUNDS):
        fitted = _least_squares(terms, values, weights)
        error = np.abs(values - fitted).max(1)
        of_edge = number < FIT_ROUNDS - 1
        spread = 1.5 * max(NOISE_FLOOR, float(np.percentile(error[at_edge > 0], 30)))
        weights = (1 + (error / spread) ** 4) ** -0.5 * (at_edge if of_edge else 1.0)
    return fitted.reshape(picture.shape)


def _least_squares(terms: Floats, values: Floats, weights: Floats) -> Floats:
    weighted = terms * weights[:, None]
    return terms @ np.linalg.lstsq(weighted.T @ terms, weighted.T @ values, rcond=None)[0]


def _reduced(picture: Floats) -> Floats:
    height, width = picture.shape[:2]
    scale = COUNTED_SIDE / min(height, width)
    image = Image.fromarray((255 * picture).round().astype(np.uint8))
    small = image.resize((round(width * scale), round(height * scale)), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float64) / 255


def _filled(flags: Flags) -> Flags:
    """Close gaps of a few pixels and fill holes."""
    closed = ndimage.binary_closing(np.pad(flags, 4), iterations=3)[4:-4, 4:-4]
    return np.asarray(ndimage.binary_fill_holes(closed), dtype=np.bool_)


def _components(flags: Flags) -> tuple[NDArray[np.int32], Floats]:
    """Return labels (H, W) from 1 on, and the area of each."""
    labels = np.zeros(flags.shape, dtype=np.int32)
    ndimage.label(flags, output=labels)
    return labels, np.bincount(labels.ravel())[1:] / min(flags.shape) ** 2


def _texture(picture: Floats, objects: Flags) -> float:
    """Return the share of the pixels away from `objects` (of the reduced picture) that
    differ from their surroundings.
    """
    height, width = picture.shape[:2]
    detail = picture - ndimage.gaussian_filter(picture, (LATENT_PIXEL, LATENT_PIXEL, 0))
    mask = np.asarray(Image.fromarray(objects).resize((width, height), Image.Resampling.NEAREST))
    near = np.asarray(ndimage.binary_dilation(mask, iterations=3 * LATENT_PIXEL), dtype=np.bool_)
    background = ~near
    if not background.any():
        return 0.0
    return float((np.abs(detail).max(-1) > TEXTURE_CONTRAST)[background].mean())


def _sharpness(picture: Floats) -> float:
    across = np.abs(np.diff(picture, axis=1)).mean(-1)[:-1, :]
    down = np.abs(np.diff(picture, axis=0)).mean(-1)[:, :-1]
    gradient = np.sort(np.hypot(across, down), axis=None)
    return float(gradient[-max(8, int(STEEPEST_SHARE * gradient.size)) :].mean())
