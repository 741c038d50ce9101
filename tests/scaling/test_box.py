"""Boxes: scaled one axis at a time, grown with what lies around, kept inside."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest
from megapixel.attention.token_mask import nearest_box
from megapixel.scaling.box import Box
from megapixel.scaling.grow import box_around, enlarge_box, fit_box, grow_box


def grow_by_pixels(low, high, length, multiple, least):
    """Return the ends of a span that is grown pixel by pixel, on both sides in turn, where there is room."""
    target = max(high - low, min(least, length))
    while target % multiple:
        target += 1
    after = True
    while high - low < target:
        if low == 0 or (after and high < length) or high - low >= length:
            high += 1
        else:
            low -= 1
        after = not after
    return low, high


def box_at(x1, y1, x2, y2):
    return Box(y1, x1, y2, x2)


SCALED = [
    pytest.param((400, 100), (400, 800), (0, 10, 40, 90), (0, 10, 320, 90), id="wider, height kept"),
    pytest.param((100, 400), (800, 400), (0, 10, 40, 90), (0, 80, 40, 720), id="the original node's mistake"),
    pytest.param((1216, 832), (2048, 1408), (400, 600, 832, 1216), (676, 1010, 1408, 2048), id="to the end"),
    pytest.param((743, 1001), (1114, 1501), (0, 0, 1001, 743), (0, 0, 1501, 1114), id="all of it, odd"),
    pytest.param((10, 10), (7, 5), (3, 3, 4, 4), (1, 2, 2, 3), id="smaller than a pixel"),
    pytest.param((10, 10), (25, 20), (-3, -1, 12, 11), (-6, -3, 24, 28), id="beyond the picture"),
    pytest.param((97, 61), (97, 61), (5, 6, 60, 97), (5, 6, 60, 97), id="same size"),
]


@pytest.mark.parametrize(("source", "target", "corners", "expected"), SCALED)
def test_a_box_is_scaled_by_the_ratio_of_its_own_axis(source, target, corners, expected):
    assert box_at(*corners).scaled(source, target) == box_at(*expected)


def test_a_scaled_box_is_the_least_that_holds_the_scaled_pixels(random_boxes):
    random = Random(1)
    for _ in range(1000):
        source, target = ((random.randint(1, 90), random.randint(1, 90)) for _ in range(2))
        (corners,) = random_boxes(random, source, 1)
        scaled = box_at(*corners).scaled(source, target)
        spans = zip(
            (corners[1], corners[0]),
            (corners[3], corners[2]),
            (scaled.top, scaled.left),
            (scaled.bottom, scaled.right),
            source,
            target,
            strict=True,
        )
        for low, high, first, last, old, new in spans:
            assert first * old <= low * new < (first + 1) * old
            assert (last - 1) * old < high * new <= last * old
        assert scaled.clamped(target) == scaled, "inside stays inside"


def test_scaling_the_transposed_box_transposes_it():
    box = Box(3, 11, 29, 60).scaled((40, 61), (133, 64))
    assert Box(11, 3, 60, 29).scaled((61, 40), (64, 133)) == Box(box.left, box.top, box.right, box.bottom)


def test_a_grown_box_equals_one_grown_pixel_by_pixel(random_boxes):
    random = Random(2)
    for _ in range(1500):
        size = random.randint(1, 90), random.randint(1, 90)
        multiple, least = random.choice([1, 2, 7, 8, 16, 64]), random.choice([1, 1, 8, 33, 64, 500])
        x1, y1, x2, y2 = random_boxes(random, size, 1)[0]
        rows, columns = (
            grow_by_pixels(y1, y2, size[0], multiple, least),
            grow_by_pixels(x1, x2, size[1], multiple, least),
        )
        assert grow_box(box_at(x1, y1, x2, y2), size, multiple, least) == Box(
            rows[0], columns[0], rows[1], columns[1]
        )


def test_a_grown_box_holds_the_box_and_stays_inside_where_there_is_room(random_boxes):
    random = Random(3)
    outside = 0
    for _ in range(1500):
        size = random.randint(1, 300), random.randint(1, 300)
        multiple, least = random.choice([1, 7, 8, 64]), random.choice([1, 64, 256])
        box = box_at(*random_boxes(random, size, 1, most=300)[0])
        grown = grow_box(box, size, multiple, least)
        assert box.shared(grown) == box
        assert not any(side % multiple for side in grown.size)
        for first, last, length, before in zip(
            (grown.top, grown.left), (grown.bottom, grown.right), size, box.size, strict=True
        ):
            needed = -(-max(before, min(least, length)) // multiple) * multiple
            assert last - first == needed, "no larger than asked for"
            if needed <= length:
                assert 0 <= first < last <= length
            else:
                outside += 1
                assert first == 0
                assert length < last < length + multiple
    assert outside > 100, "the cells must reach both cases"


def test_on_a_grid_a_grown_box_begins_and_ends_on_it_and_holds_the_box(random_boxes):
    random = Random(5)
    for _ in range(1500):
        size = random.randint(1, 300), random.randint(1, 300)
        grid = random.choice([4, 8])
        multiple, least = grid * random.choice([1, 2]), random.choice([1, 64])
        box = box_at(*random_boxes(random, size, 1, most=300)[0])
        grown = grow_box(box, size, multiple, least, grid)
        assert box.shared(grown) == box
        assert not any(side % multiple for side in grown.size)
        assert not any(edge % grid for span in grown.spans for edge in span)
        for (first, last), length in zip(grown.spans, size, strict=True):
            assert first >= 0
            assert last < length + max(grid, multiple if last - first > length else grid)


def test_a_box_that_fits_does_not_grow():
    assert grow_box(Box(8, 3, 24, 43), (60, 50), 8) == Box(8, 3, 24, 43)


PADDED = [
    pytest.param(Box(40, 50, 60, 80), 2.0, Box(30, 35, 70, 95), id="in the middle"),
    pytest.param(Box(0, 50, 20, 80), 2.0, Box(0, 35, 40, 95), id="at the top"),
    pytest.param(Box(40, 0, 60, 31), 2.0, Box(30, 0, 70, 62), id="at the left, odd"),
    pytest.param(Box(81, 50, 101, 80), 2.0, Box(61, 35, 101, 95), id="at the bottom"),
    pytest.param(Box(40, 173, 60, 203), 3.0, Box(20, 113, 80, 203), id="at the right"),
    pytest.param(Box(10, 20, 90, 80), 3.0, Box(0, 0, 101, 180), id="higher than the picture"),
    pytest.param(Box(0, 0, 101, 203), 100.0, Box(0, 0, 101, 203), id="all of it"),
    pytest.param(Box(40, 50, 61, 80), 1.0, Box(40, 50, 61, 80), id="factor 1"),
    pytest.param(Box(40, 50, 41, 51), 1.4, Box(40, 50, 41, 51), id="one pixel"),
]


@pytest.mark.parametrize(("box", "factor", "expected"), PADDED)
def test_a_padded_box_keeps_its_centre_or_moves_inside(box, factor, expected):
    assert fit_box(enlarge_box(box, factor), (101, 203)) == expected


def test_a_padded_box_holds_the_box_and_stays_inside(random_boxes):
    random = Random(4)
    for _ in range(1000):
        size = random.randint(1, 120), random.randint(1, 120)
        box = box_at(*random_boxes(random, size, 1)[0])
        padded = fit_box(enlarge_box(box, random.uniform(1, 5)), size)
        assert box.shared(padded) == box
        assert padded.clamped(size) == padded


def test_shared_clamped_and_within_count_the_same_pixels(random_boxes):
    random = Random(5)

    def pixels(box):
        return {(y, x) for y in range(box.top, box.bottom) for x in range(box.left, box.right)}

    apart = 0
    for _ in range(300):
        boxes = [
            box_at(*corners).moved(random.randint(-9, 9), random.randint(-9, 9))
            for corners in random_boxes(random, (17, 23), 2)
        ]
        first, second = boxes
        both = pixels(first) & pixels(second)
        apart += not both
        assert pixels(first.shared(second)) == both
        assert first.shared(second).area == len(both)
        assert first.overlaps(second) is bool(both)
        inside = first.clamped((17, 23))
        assert pixels(inside) == {(y, x) for y, x in pixels(first) if 0 <= y < 17 and 0 <= x < 23}
        assert inside.area == len(pixels(inside))
        assert pixels(first.within(second)) == {(y - second.top, x - second.left) for y, x in pixels(first)}
    assert 20 < apart < 280, "the cells must reach both cases"


def test_the_smallest_box_around_edges_between_pixels():
    assert box_around(2.9, 1.2, 8.5, 4.1) == Box(2, 1, 9, 5)
    assert box_around(-3.5, 2, 9, 5) == Box(-4, 2, 9, 5)


def test_spans_are_rows_and_columns_and_make_the_box_again():
    box = Box(3, 11, 29, 60)
    assert box.spans == ((3, 29), (11, 60))
    assert Box.of_spans(*box.spans) == box


def test_boxes_side_by_side_stay_so_at_another_resolution():
    for old, new in [(8, 64), (8, 7), (8, 13), (96, 80), (5, 5)]:
        edges = sorted({0, old // 4, old // 2, old - 1, old})
        spans = [
            nearest_box(Box(low, 0, high, 1), (old, 1), (new, 1)).spans[0] for low, high in pairwise(edges)
        ]
        assert [row for low, high in spans for row in range(low, high)] == list(range(new))


def test_a_box_smaller_than_a_pixel_is_one_pixel():
    for corner in (0, 3, 7):
        assert nearest_box(Box(corner, 0, corner + 1, 6), (8, 6), (3, 2)).size == (1, 2)
