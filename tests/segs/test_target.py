"""The size at which a segment is sampled, and where that lies in a picture enlarged with it."""

from __future__ import annotations

from random import Random

import pytest
from megapixel.scaling.box import Box
from megapixel.segs.target import Target, enlarge_canvas, sampled_size

SIZES = [
    pytest.param((64, 64), Target(0, 1536), (64, 64), id="as it is"),
    pytest.param((64, 64), Target(512, 1536), (512, 512), id="a small face"),
    pytest.param((64, 96), Target(512, 1536), (512, 768), id="its shape stays"),
    pytest.param((64, 256), Target(512, 1024), (256, 1024), id="not above the limit"),
    pytest.param((512, 640), Target(512, 1536), (512, 640), id="large enough"),
    pytest.param((128, 1600), Target(512, 1536), (128, 1600), id="above the limit already"),
    pytest.param((72, 104), Target(104, 1536), (104, 152), id="to the nearest multiple"),
]


@pytest.mark.parametrize(("crop", "target", "expected"), SIZES)
def test_a_crop_is_sampled_at_its_target(crop, target, expected):
    assert sampled_size(crop, target, 8) == expected


def test_a_crop_lies_in_the_enlarged_picture_where_it_lay_in_the_picture(random_boxes):
    random = Random(1)
    for _ in range(200):
        size = random.randint(60, 400), random.randint(60, 400)
        left, top, right, bottom = random_boxes(random, size, 1)[0]
        crop = Box(top, left, bottom, right)
        assert enlarge_canvas(size, crop, crop.size) == (size, crop)
        sampled = tuple(side * random.randint(1, 5) + random.randint(0, 7) for side in crop.size)
        canvas, box = enlarge_canvas(size, crop, sampled)
        assert box.size == sampled
        for length, side, new, (low, high), start in zip(
            size, crop.size, sampled, crop.spans, (box.top, box.left), strict=True
        ):
            assert abs(start - low * new / side) <= 0.5
            assert abs(canvas[size.index(length)] - length * new / side) <= 0.5 or size[0] == size[1]
            assert high > low
