"""Makers of segments: connected parts of a mask, tiles, boxes."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import numpy as np
import pytest
import torch
from megapixel.scaling.box import Box
from megapixel.segs.find import box_segment, mask_segments, tile_segments

SIZE = 60, 91


def flood(present):
    """Return the sets of pixels that hang together over sides and corners, found one by one."""
    left = {(int(y), int(x)) for y, x in zip(*np.nonzero(present), strict=True)}
    parts = []
    while left:
        part, edge = set(), [left.pop()]
        while edge:
            y, x = edge.pop()
            part.add((y, x))
            for near in [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]:
                if near in left:
                    left.remove(near)
                    edge.append(near)
        parts.append(part)
    return parts


def over_picture(segment, size):
    """Return (H, W) with the segment's mask at its place."""
    x1, y1, x2, y2 = segment.crop_region
    assert 0 <= x1 < x2 <= size[1]
    assert 0 <= y1 < y2 <= size[0]
    assert segment.cropped_mask.shape == (y2 - y1, x2 - x1)
    canvas = np.zeros(size, dtype=np.float32)
    canvas[y1:y2, x1:x2] = segment.cropped_mask
    return canvas


def random_mask(noise, seed, size=SIZE):
    """Return a soft mask of many parts, some at the borders and some that touch at corners alone."""
    coarse = (noise(size[0] // 6 + 1, size[1] // 6 + 1, seed=seed) > 0.72).float()
    fine = coarse.repeat_interleave(6, 0).repeat_interleave(6, 1)[: size[0], : size[1]]
    return fine * (0.2 + 0.8 * noise(*size, seed=seed + 1000))


@pytest.mark.parametrize("crop_factor", [1.0, 1.5, 3.0])
def test_each_connected_part_becomes_a_segment_with_its_own_soft_pixels(noise, crop_factor):
    for seed in range(25):
        mask = random_mask(noise, seed)
        parts = flood(mask.numpy() > 0)
        made = mask_segments(mask, crop_factor=crop_factor, drop_size=1)
        assert len(made) == len(parts)
        found = {}
        for segment in made:
            canvas = over_picture(segment, SIZE)
            pixels = frozenset(zip(*(axis.tolist() for axis in np.nonzero(canvas)), strict=True))
            found[pixels] = segment
            assert all(canvas[pixel] == mask[pixel] for pixel in pixels), "soft edges stay soft"
            rows, columns = zip(*pixels, strict=True)
            assert segment.bbox == (min(columns), min(rows), max(columns) + 1, max(rows) + 1)
            x1, y1, x2, y2 = segment.bbox
            assert segment.crop_region[2] - segment.crop_region[0] == min(
                SIZE[1], round((x2 - x1) * crop_factor)
            )
            assert segment.crop_region[3] - segment.crop_region[1] == min(
                SIZE[0], round((y2 - y1) * crop_factor)
            )
        assert set(found) == {frozenset(part) for part in parts}
        sums = [float(segment.cropped_mask.sum()) for segment in made]
        assert sums == sorted(sums, reverse=True), "largest first"


def test_parts_that_touch_at_a_corner_are_one():
    mask = torch.zeros(SIZE)
    mask[10:20, 10:20] = 1
    mask[20:30, 20:30] = 0.5
    assert [segment.bbox for segment in mask_segments(mask)] == [(10, 10, 30, 30)]
    mask[20:30, 20:30] = 0
    mask[20:30, 21:31] = 0.5
    assert [segment.bbox for segment in mask_segments(mask)] == [(10, 10, 20, 20), (21, 20, 31, 30)]


def test_parts_with_a_side_shorter_than_drop_size_are_left_out():
    mask = torch.zeros(SIZE)
    mask[0:40, 0:9] = 1
    mask[0:10, 20:30] = 1
    mask[0:9, 40:80] = 1
    assert [segment.bbox for segment in mask_segments(mask, drop_size=10)] == [(20, 0, 30, 10)]
    assert len(mask_segments(mask, drop_size=9)) == 3


def test_combined_makes_one_segment_of_all_parts(noise):
    mask = random_mask(noise, 3)
    (segment,) = mask_segments(mask, combined=True)
    assert np.array_equal(over_picture(segment, SIZE), mask.numpy())
    rows, columns = np.nonzero(mask.numpy())
    assert segment.bbox == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_bbox_fill_takes_the_whole_box_of_a_part_and_nothing_else(noise):
    mask = random_mask(noise, 4)
    made = mask_segments(mask, bbox_fill=True, drop_size=1)
    assert len(made) == len(mask_segments(mask, drop_size=1))
    for segment in made:
        expected = np.zeros(SIZE, dtype=np.float32)
        x1, y1, x2, y2 = segment.bbox
        expected[y1:y2, x1:x2] = 1
        assert np.array_equal(over_picture(segment, SIZE), expected)


def test_contour_fill_fills_holes_and_leaves_what_was_there():
    mask = torch.zeros(SIZE)
    mask[5:30, 10:40] = 0.5
    mask[10:20, 15:25] = 0
    mask[14, 19] = 0.3  # in the hole
    mask[5:30, 39] = 0.7
    plain = mask_segments(mask, drop_size=5)
    (filled,) = mask_segments(mask, drop_size=5, contour_fill=True)
    expected = mask.clone()
    expected[10:20, 15:25] = 1
    expected[14, 19] = 0.3
    assert np.array_equal(over_picture(filled, SIZE), expected.numpy())
    assert over_picture(plain[0], SIZE)[12, 17] == 0
    open_ring = mask.clone()
    open_ring[5:20, 18] = 0  # a way out
    assert over_picture(mask_segments(open_ring, contour_fill=True)[0], SIZE)[12, 17] == 0


@pytest.mark.parametrize("combined", [False, True])
def test_an_empty_mask_makes_no_segment(combined):
    assert mask_segments(torch.zeros(SIZE), combined=combined) == []


def test_a_mask_that_covers_everything_makes_one_segment_of_everything():
    (segment,) = mask_segments(torch.ones(SIZE), crop_factor=3.0, label="all")
    assert segment.crop_region == segment.bbox == (0, 0, 91, 60)
    assert segment.cropped_mask.all()
    assert (segment.label, segment.confidence, segment.cropped_image) == ("all", 1.0, None)


def test_making_segments_leaves_the_mask_and_changing_them_does_too(noise):
    mask = random_mask(noise, 5)
    before = mask.clone()
    for segment in [*mask_segments(mask), *tile_segments(SIZE, 32, 8, mask)]:
        segment.cropped_mask.fill(9)
    assert torch.equal(mask, before)


def test_making_segments_of_the_transposed_mask_transposes_them(noise):
    mask = random_mask(noise, 6)
    boxes = {segment.bbox for segment in mask_segments(mask, drop_size=1)}
    turned = {segment.bbox for segment in mask_segments(mask.T.contiguous(), drop_size=1)}
    assert {(y1, x1, y2, x2) for x1, y1, x2, y2 in turned} == boxes


TILED = [
    pytest.param((512, 512), 512, 64, id="one tile"),
    pytest.param((513, 1), 512, 64, id="one pixel more, one pixel wide"),
    pytest.param((1080, 1920), 512, 64, id="a film's frame"),
    pytest.param((300, 2000), 512, 128, id="lower than a tile"),
    pytest.param((61, 74), 32, 31, id="all but one pixel overlaps"),
    pytest.param((1001, 743), 256, 0, id="nothing overlaps"),
    pytest.param((7, 9), 2, 1, id="tiny"),
]


def assert_lawful_tiles(size, tile, overlap):
    made = tile_segments(size, tile, overlap)
    sides = min(tile, size[0]), min(tile, size[1])
    assert all(segment.bbox == segment.crop_region for segment in made)
    assert {segment.cropped_mask.shape for segment in made} == {sides}, "equal tiles"
    assert all(segment.cropped_mask.all() for segment in made)
    tops = sorted({segment.bbox[1] for segment in made})
    lefts = sorted({segment.bbox[0] for segment in made})
    assert [segment.bbox for segment in made] == [
        (left, top, left + sides[1], top + sides[0]) for top in tops for left in lefts
    ], "row by row"
    for starts, length, side in zip((tops, lefts), size, sides, strict=True):
        assert (starts[0], starts[-1] + side) == (0, length), "every pixel, and none outside"
        assert all(before + side - after >= overlap for before, after in pairwise(starts))
        gaps = [after - before for before, after in pairwise(starts)]
        assert not gaps or max(gaps) - min(gaps) <= 1, "evenly"
        if len(starts) > 1:
            fewer = (len(starts) - 2) * (side - overlap) + side
            assert fewer < length, "no more than needed"


@pytest.mark.parametrize(("size", "tile", "overlap"), TILED)
def test_tiles_are_equal_overlap_and_cover_every_pixel(size, tile, overlap):
    assert_lawful_tiles(size, tile, overlap)


def test_tiles_of_random_sizes_are_lawful():
    random = Random(1)
    for _ in range(300):
        tile = random.randint(2, 200)
        overlap = random.randint(0, tile * 2 // 3)
        most = tile + 8 * (tile - overlap)
        assert_lawful_tiles((random.randint(1, most), random.randint(1, most)), tile, overlap)


def test_only_tiles_that_a_mask_touches_are_made_each_with_its_part(noise):
    mask = torch.zeros(SIZE)
    mask[0:10, 0:10] = noise(10, 10)
    mask[55:60, 80:91] = 0.5
    made = tile_segments(SIZE, 32, 4, mask)
    everything = tile_segments(SIZE, 32, 4)
    assert 0 < len(made) < len(everything)
    boxes = {segment.bbox for segment in made}
    for x1, y1, x2, y2 in (segment.bbox for segment in everything):
        assert bool(mask[y1:y2, x1:x2].any()) == ((x1, y1, x2, y2) in boxes)
    for segment in made:
        x1, y1, x2, y2 = segment.bbox
        assert np.array_equal(segment.cropped_mask, mask[y1:y2, x1:x2].numpy())
    assert tile_segments(SIZE, 32, 4, torch.zeros(SIZE)) == []


def test_a_mask_of_another_size_lies_over_the_whole_picture(noise, plain):
    mask = noise(20, 50)
    whole = plain.resize(mask.double().numpy(), SIZE)
    for segment in tile_segments(SIZE, 32, 4, mask[None]):
        x1, y1, x2, y2 = segment.bbox
        assert np.abs(segment.cropped_mask - whole[y1:y2, x1:x2]).max() < 1e-6


def test_a_box_becomes_a_segment_whose_mask_is_the_box():
    segment = box_segment(Box(10, 20, 30, 61), SIZE, 2.0, None, "face", 0.75)
    expected = np.zeros(SIZE, dtype=np.float32)
    expected[10:30, 20:61] = 1
    assert np.array_equal(over_picture(segment, SIZE), expected)
    assert segment.crop_region == (0, 0, 82, 40)
    assert (segment.bbox, segment.label, segment.confidence) == ((20, 10, 61, 30), "face", 0.75)


@pytest.mark.parametrize("crop_factor", [1.0, 1.5, 3.0])
@pytest.mark.parametrize(
    "box",
    [
        pytest.param(Box(-5, -7, 10, 12), id="before the start"),
        pytest.param(Box(50, 80, 70, 100), id="after the end"),
        pytest.param(Box(-3, -2, 65, 95), id="larger than the picture"),
    ],
)
def test_a_box_that_reaches_outside_has_a_mask_where_it_lies_inside(box, crop_factor):
    expected = np.zeros(SIZE, dtype=np.float32)
    expected[max(0, box.top) : box.bottom, max(0, box.left) : box.right] = 1
    assert np.array_equal(over_picture(box_segment(box, SIZE, crop_factor), SIZE), expected)
