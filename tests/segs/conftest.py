"""What the segments' code is held against: the same arithmetic in NumPy, in float64, pixel by pixel."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from megapixel.scaling.box import Box
from megapixel.scaling.grow import grow_box
from megapixel.segs.refine import Fit, cut_pieces
from megapixel.segs.segment import SEG, read_segments


def scale_corners(corners, source, target):
    """Return (x1, y1, x2, y2) of a picture of `source` (h, w) in one of `target`, rounded outward."""
    x1, y1, x2, y2 = corners
    (old_h, old_w), (new_h, new_w) = source, target
    return (
        math.floor(x1 * new_w / old_w),
        math.floor(y1 * new_h / old_h),
        math.ceil(x2 * new_w / old_w),
        math.ceil(y2 * new_h / old_h),
    )


def resize_matrix(source, target):
    """Return (target, source) weights of bilinear resizing; edges are repeated."""
    weights = np.zeros((target, source))
    for row in range(target):
        centre = min(max((row + 0.5) * source / target - 0.5, 0), source - 1)
        first = math.floor(centre)
        weights[row, first] += 1 - (centre - first)
        weights[row, min(first + 1, source - 1)] += centre - first
    return weights


def resize(mask, size):
    """Return (h, w) as (*size)."""
    return resize_matrix(mask.shape[0], size[0]) @ mask @ resize_matrix(mask.shape[1], size[1]).T


def blur(mask, radius):
    """Return (h, w) under a Gaussian in two dimensions at once, as OpenCV takes it; edges are repeated."""
    if radius == 0:
        return mask
    sigma = 0.3 * ((2 * radius + 1 - 1) * 0.5 - 1) + 0.8
    offsets = range(-radius, radius + 1)
    kernel = np.array([[math.exp(-(dy * dy + dx * dx) / (2 * sigma**2)) for dx in offsets] for dy in offsets])
    kernel /= kernel.sum()
    padded = np.pad(mask, radius, mode="edge")
    height, width = mask.shape
    result = np.zeros(mask.shape)
    for y in range(2 * radius + 1):
        for x in range(2 * radius + 1):
            result += kernel[y, x] * padded[y : y + height, x : x + width]
    return result


def fade(length, extent, at_start, at_end):
    """Return weights that rise from the start and fall to the end, where asked, over `extent` pixels."""
    extent = min(extent, length // 2)
    weights = np.ones(length)
    for place in range(length):
        if at_start:
            weights[place] = min(weights[place], (place + 1) / (extent + 1))
        if at_end:
            weights[place] = min(weights[place], (length - place) / (extent + 1))
    return np.array([3 * share**2 - 2 * share**3 for share in weights])


def cut(picture, rows, columns):
    """Return the pixels at rows and columns; beyond the picture the nearest one."""
    rows = np.clip(np.arange(*rows), 0, picture.shape[0] - 1)
    columns = np.clip(np.arange(*columns), 0, picture.shape[1] - 1)
    return picture[rows][:, columns]


def weigh(corners, mask, rows, columns, size, feather):
    """Return the weights (h, w) over rows and columns of a mask that lies over corners."""
    x1, y1, x2, y2 = corners
    over = resize(mask, (y2 - y1, x2 - x1))
    placed = np.zeros((rows[1] - rows[0], columns[1] - columns[0]))
    for y in range(max(rows[0], y1), min(rows[1], y2)):
        for x in range(max(columns[0], x1), min(columns[1], x2)):
            placed[y - rows[0], x - columns[0]] = over[y - y1, x - x1]
    if feather == 0:
        return placed
    down = fade(len(placed), 2 * feather, rows[0] > 0, rows[1] < size[0])
    across = fade(placed.shape[1], 2 * feather, columns[0] > 0, columns[1] < size[1])
    return blur(placed, feather) * down[:, None] * across[None, :]


def refine(picture, found_in, segments, change, *, multiple=8, least=1, feather=5):
    """Return (H, W, C) with all segments ((x1, y1, x2, y2), mask) refined from it as it is,
    and all weights (H, W).
    """
    picture = np.asarray(picture, dtype=np.float64)
    size = picture.shape[:2]
    parts, total = [], np.zeros(size)
    for number, (corners, mask) in enumerate(segments):
        x1, y1, x2, y2 = corners = scale_corners(corners, found_in, size)
        inner = max(x1, 0), max(y1, 0), min(x2, size[1]), min(y2, size[0])
        if inner[0] >= inner[2] or inner[1] >= inner[3] or not (mask > 0).any():
            continue
        box = Box(inner[1], inner[0], inner[3], inner[2])
        rows, columns = grow_box(box, size, multiple, least).spans
        weight = weigh(corners, mask, rows, columns, size, feather)
        base = cut(picture, rows, columns)
        parts.append((rows, columns, weight, change(number, base) - base))
        total += lay(weight, rows, columns, size)
    result = picture.copy()
    for rows, columns, weight, difference in parts:
        share = lay(weight, rows, columns, size) / np.maximum(1, total)
        result += share[..., None] * lay(difference, rows, columns, size)
    return result, total


def lay(values, rows, columns, size):
    """Return (H, W, …) with values (h, w, …) at rows and columns and 0 elsewhere."""
    canvas = np.zeros((*size, *values.shape[2:]))
    height, width = min(rows[1], size[0]) - rows[0], min(columns[1], size[1]) - columns[0]
    canvas[rows[0] : rows[0] + height, columns[0] : columns[0] + width] = values[:height, :width]
    return canvas


@pytest.fixture(scope="session")
def plain():
    """The functions of this file that end in a result of NumPy."""
    return SimpleNamespace(
        scale_corners=scale_corners,
        resize=resize,
        blur=blur,
        fade=fade,
        cut=cut,
        weigh=weigh,
        refine=refine,
        lay=lay,
    )


def change_crop(number, crop):
    """Refine (h, w, C): another result for each number, pixel and place, from 0 to 1;
    arrays and tensors alike.
    """
    turned = crop[::-1] if isinstance(crop, np.ndarray) else crop.flip(0)
    return (crop * 0.5 + turned * 0.25 + 0.25) * (0.25 + 0.75 / (1 + number % 7))


class Refiner:
    """Stands where the models stand: gives pieces back last to first, and remembers what it was given."""

    def __init__(self):
        self.given = []

    def __call__(self, pieces, crops):
        self.given.append([piece.cut.segment.number for piece in pieces])
        for place in reversed(range(len(pieces))):
            yield place, change_crop(pieces[place].cut.segment.number, crops[place])


@pytest.fixture
def refiner():
    """A callable that refines deterministically."""
    return Refiner()


@pytest.fixture(scope="session")
def change():
    """The function (number, crop) that `refiner` refines with."""
    return change_crop


def make_segment(corners, mask=None, **fields):
    """Return a SEG whose mask covers corners (x1, y1, x2, y2)."""
    x1, y1, x2, y2 = corners
    if mask is None:
        mask = np.ones((math.ceil(y2 - y1), math.ceil(x2 - x1)), dtype=np.float32)
    return SEG(
        fields.get("image"),
        mask,
        fields.get("confidence", 1.0),
        corners,
        fields.get("bbox", corners),
        fields.get("label", "part"),
        fields.get("control"),
    )


@pytest.fixture(scope="session")
def segment():
    """A function (corners, mask=None, **fields) that makes a SEG."""
    return make_segment


@pytest.fixture(scope="session")
def pieces_of():
    """A function (segs, size, frames=1, **fit) that reads SEGS and fits them to a picture."""

    def read(segs, size, frames=1, **fit):
        found_in, segments = read_segments(segs)
        return cut_pieces(segments, found_in, frames, Fit(size, **fit))

    return read


@pytest.fixture(scope="session")
def noise():
    """A function (*shape, seed=0) that draws float32 from 0 to 1."""
    return lambda *shape, seed=0: torch.rand(shape, generator=torch.Generator().manual_seed(seed))
