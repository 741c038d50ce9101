"""Which segments a run left as they were, beside a count of pixels one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from megapixel.segs.segment import SEG, FrameSEG, Slice, read_segments
from megapixel.segs.share import contents_of, unchanged_numbers

SIZE = (40, 60)


def entry(box, mask=None):
    x1, y1, x2, y2 = box
    mask = np.ones((y2 - y1, x2 - x1), np.float32) if mask is None else mask
    return SEG(None, mask, 1.0, box, box, "thing", None)


def picture(frames=1, size=SIZE):
    return torch.rand(frames, *size, 3, generator=torch.Generator().manual_seed(1))


def refined(image, entries, numbers, scale=1):
    result = image.clone()
    for number in numbers:
        x1, y1, x2, y2 = (scale * side for side in entries[number].crop_region)
        result[:, y1:y2, x1:x2] += 0.1
    return result


@pytest.mark.parametrize("done", [(), (0,), (1, 3), (0, 1, 2, 3)], ids=str)
@pytest.mark.parametrize("scale", [1, 2])
def test_overlapping_tiles_that_were_left_are_found(done, scale):
    entries = [entry(box) for box in [(0, 0, 34, 24), (26, 0, 60, 24), (0, 16, 34, 40), (26, 16, 60, 40)]]
    image = picture(size=(40 * scale, 60 * scale))
    found = unchanged_numbers(*read_segments((SIZE, entries)), image, refined(image, entries, done, scale))
    assert found == set(range(4)) - set(done)


def test_a_feather_that_reaches_into_a_neighbour_does_not_refine_it():
    entries = [entry((0, 0, 30, 40)), entry((30, 0, 60, 40))]
    image = picture()
    result = image.clone()
    result[:, :, :36] += 0.1
    assert unchanged_numbers(*read_segments((SIZE, entries)), image, result) == {1}


def test_a_mask_counts_and_not_its_box_and_a_black_one_does_not():
    mask = np.zeros((40, 60), np.float32)
    mask[10:14, 10:14] = 0.6
    entries = [entry((0, 0, 60, 40), mask), entry((0, 0, 60, 40), mask * 0)]
    image = picture()
    result = image.clone()
    result[:, 10:14, 10:14] += 0.1
    assert unchanged_numbers(*read_segments((SIZE, entries)), image, result) == set()
    assert unchanged_numbers(*read_segments((SIZE, entries)), image, image) == {0}


def test_where_all_pixels_are_shared_nothing_is_known():
    entries = [entry((0, 0, 30, 30)), entry((0, 0, 30, 30))]
    image = picture()
    assert unchanged_numbers(*read_segments((SIZE, entries)), image, image) == set()


def test_one_frame_of_several_that_was_left_is_enough():
    entries = [entry((0, 0, 30, 30)), FrameSEG.of(entry((30, 0, 60, 30)), 1)]
    image = picture(frames=2)
    result = image.clone()
    result[:1, :, :30] += 0.1
    result[1:, :, 30:] += 0.1
    assert unchanged_numbers(*read_segments((SIZE, entries), 2), image, result) == {0}


def test_segments_of_other_workers_are_not_mine_to_refine():
    entries = [entry((0, 0, 30, 40)), entry((30, 0, 60, 40))]
    mine = Slice(entries, [1], 1, 2)
    image = picture()
    left = unchanged_numbers(*read_segments((SIZE, mine)), image, image)
    assert left == {1}
    assert contents_of(SIZE, mine, left).numbers == ()
    assert contents_of(SIZE, mine).numbers == (1,)
