"""RGB to the numbers in a file, against the formulas of H.273 written out pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from megapixel.video.colour import PIXELS, WEIGHTS, Colour, to_planes


def expected_planes(picture, name, colour, left):
    """Return the planes before rounding, from H.273's equations, one pixel at a time."""
    pixels = PIXELS[name]
    kr, kb = WEIGHTS.get(colour.matrix, (0.299, 0.114))
    _, height, width = picture.shape
    down, across = pixels.shrink
    luma = np.zeros((height, width))
    blue, red = (
        np.zeros((-(-height // down), -(-width // across))),
        np.zeros((-(-height // down), -(-width // across))),
    )
    factor = 2 ** (pixels.bits - 8)
    top = 2**pixels.bits - 1
    for y in range(height):
        for x in range(width):
            r, g, b = (float(picture[c, y, x]) for c in range(3))
            e = kr * r + (1 - kr - kb) * g + kb * b
            luma[y, x] = top * e if colour.range == 2 else factor * (219 * e + 16)
    for y in range(blue.shape[0]):
        for x in range(blue.shape[1]):
            found = []
            for row in range(y * down, y * down + down):
                columns = (
                    [x * across - 1, x * across, x * across, x * across + 1]
                    if left
                    else [x * across, x * across + 1]
                )
                for column in columns:
                    r, g, b = (
                        float(picture[c, min(row, height - 1), min(max(column, 0), width - 1)])
                        for c in range(3)
                    )
                    e = kr * r + (1 - kr - kb) * g + kb * b
                    found.append((0.5 * (b - e) / (1 - kb), 0.5 * (r - e) / (1 - kr)))
            cb, cr = np.mean(found, axis=0)
            scale = top if colour.range == 2 else factor * 224
            blue[y, x], red[y, x] = cb * scale + 2 ** (pixels.bits - 1), cr * scale + 2 ** (pixels.bits - 1)
    return [np.clip(plane, 0, top) for plane in (luma, blue, red)]


@pytest.mark.parametrize("matrix", [1, 2, 4, 6, 7, 9])
@pytest.mark.parametrize("full", [1, 2], ids=["limited", "full"])
@pytest.mark.parametrize("name", ["yuv420p", "yuv420p10le", "yuv422p10le"])
@pytest.mark.parametrize("left", [False, True], ids=["middle", "left"])
@pytest.mark.parametrize("size", [(6, 10), (5, 7)], ids=["even", "odd"])
def test_planes_are_those_of_the_standard(draw, matrix, full, name, size, left):
    picture, colour = draw(3, *size), Colour(matrix, full)
    planes = to_planes(picture, PIXELS[name], colour, left)
    expected = expected_planes(picture, name, colour, left)
    assert len(planes) == 3
    for plane, exact in zip(planes, expected, strict=True):
        assert plane.shape == exact.shape
        assert plane.dtype == (np.uint8 if name == "yuv420p" else np.uint16)
        assert np.abs(plane - exact).max() <= 0.5 + 1e-3


def test_black_white_and_grey_lie_where_they_should():
    for full, (black, white) in {1: (64, 940), 2: (0, 1023)}.items():
        for level, number in ((0.0, black), (1.0, white)):
            planes = to_planes(torch.full((3, 4, 4), level), PIXELS["yuv420p10le"], Colour(1, full))
            assert [int(plane.min()) for plane in planes] == [int(plane.max()) for plane in planes]
            assert [int(plane[0, 0]) for plane in planes] == [number, 512, 512]


@pytest.mark.parametrize(("name", "top"), [("bgr0", 255), ("gbrp10le", 1023)])
def test_rgb_keeps_every_number(draw, name, top):
    picture = (draw(3, 5, 7) * top).round() / top
    planes = to_planes(picture, PIXELS[name], Colour(0, 2))
    blue_green_red = (
        planes[0][..., :3] if name == "bgr0" else np.stack([planes[1], planes[0], planes[2]], axis=-1)
    )
    assert np.array_equal(blue_green_red[..., ::-1], (picture.movedim(0, -1) * top).round().numpy())


def test_values_outside_the_range_are_cut():
    planes = to_planes(torch.full((3, 2, 2), 1.5), PIXELS["yuv420p"], Colour(1, 2))
    assert planes[0].max() == 255


@pytest.mark.parametrize(
    ("given", "height", "expected"),
    [
        (Colour(2, 1, 2, 2), 270, Colour(6, 1, 2, 2)),
        (Colour(2, 1, 2, 2), 1080, Colour(2, 1, 2, 2)),
        (Colour(9, 1, 9, 16), 1080, Colour(9, 1, 9, 16)),
        (Colour(0, 2, 2, 2), 270, Colour()),
    ],
    ids=["small untagged", "large untagged", "tagged", "RGB"],
)
def test_a_small_video_without_tags_is_shown_alike_when_it_is_large(given, height, expected):
    assert given.for_result(height) == expected
