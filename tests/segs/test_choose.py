"""Choosing and ordering segments, and shares for several workers."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
import torch
from megapixel.scaling.box import Box
from megapixel.segs.choose import MEASURES, TOUCHING, Choice, choose_segments, join_segments, slice_segments
from megapixel.segs.segment import Slice


@pytest.fixture(scope="module")
def five(segment):
    """Five segments that every measure puts in another order."""
    mask = np.zeros((40, 20), dtype=np.float32)
    mask[:10] = 1
    return [
        segment((50, 60, 70, 100), mask, label="hand", confidence=np.array([0.9])),
        segment((0, 10, 30, 35), np.ones((3, 3), dtype=np.float32), label=" face ", confidence=0.5),
        segment((10, 80, 90, 90), label="face", confidence=torch.tensor(0.75)),
        segment((20, 0, 29, 50), label="foot", confidence=None),
        segment((100, 30, 101, 31), label=7, confidence=np.float32(0.1)),
    ]


def numbers(chosen, segments):
    return [next(place for place, other in enumerate(segments) if other is one) for one in chosen]


ORDERS = [
    pytest.param("as found", [0, 1, 2, 3, 4], id="as found"),
    pytest.param("area", [0, 2, 1, 3, 4], id="area"),  # 800 750 800 450 1
    pytest.param("mask area", [2, 1, 3, 0, 4], id="mask area"),  # 200 750 800 450 1
    pytest.param("confidence", [3, 0, 2, 1, 4], id="confidence"),
    pytest.param("left to right", [1, 3, 2, 0, 4], id="left to right"),  # centres 60 15 50 24.5 100.5
    pytest.param("top to bottom", [1, 3, 4, 0, 2], id="top to bottom"),  # centres 80 22.5 85 25 30.5
    pytest.param("width", [2, 1, 0, 3, 4], id="width"),
    pytest.param("height", [3, 0, 1, 2, 4], id="height"),
]


@pytest.mark.parametrize(("order", "expected"), ORDERS)
@pytest.mark.parametrize("reverse", [False, True])
def test_segments_are_ordered_by_the_measure(five, order, expected, reverse):
    chosen, left = choose_segments(five, Choice(order=order, reverse=reverse))
    assert numbers(chosen, five) == (expected[::-1] if reverse else expected)
    assert left == []


def test_every_measure_is_in_the_table():
    assert {param.values[0] for param in ORDERS} == {"as found", *MEASURES}


CHOICES = [
    pytest.param(Choice(labels=frozenset({"face"})), [1, 2], id="a label, spaces beside it"),
    pytest.param(Choice(labels=frozenset({"face", "7"})), [1, 2, 4], id="labels, one a number"),
    pytest.param(Choice(confidence=0.75), [0, 2, 3], id="confidence, at the bound and where there is none"),
    pytest.param(Choice(least=10), [0, 1, 2], id="least side"),
    pytest.param(Choice(most=10), [2, 3, 4], id="greatest side"),
    pytest.param(Choice(least=9, most=10), [2, 3], id="both"),
    pytest.param(Choice(first=1, count=2), [1, 2], id="two from the second on"),
    pytest.param(Choice(first=3), [3, 4], id="all from the fourth on"),
    pytest.param(Choice(count=1), [0], id="the first"),
    pytest.param(Choice(first=9, count=2), [], id="beyond the end"),
    pytest.param(Choice(order="height", first=1, count=2), [0, 1], id="counted after sorting"),
    pytest.param(
        Choice(labels=frozenset({"face"}), order="confidence", count=1), [2], id="the surest of a label"
    ),
    pytest.param(Choice(labels=frozenset({"cat"})), [], id="none"),
]


@pytest.mark.parametrize(("choice", "expected"), CHOICES)
def test_what_fits_is_chosen_and_the_rest_left_as_it_was(five, choice, expected):
    chosen, left = choose_segments(five, choice)
    assert numbers(chosen, five) == expected
    assert numbers(left, five) == [number for number in range(5) if number not in expected]


def test_equal_ones_keep_the_order_in_which_they_were_found(segment):
    found = [segment((x, 0, x + 10, 10)) for x in (50, 0, 30)]
    chosen, _ = choose_segments(found, Choice(order="area"))
    assert numbers(chosen, found) == [0, 1, 2]


def test_a_segment_that_is_there_twice_counts_twice(segment):
    twice = segment((0, 0, 9, 9))
    chosen, left = choose_segments([twice, twice], Choice(count=1))
    assert (len(chosen), len(left)) == (1, 1)


def area(segment):
    x1, y1, x2, y2 = segment.crop_region
    return (x2 - x1) * (y2 - y1)


def touch(first, second, gap):
    """Tell whether the pixels of two boxes lie less than `gap` apart on both axes."""
    one, other = first.crop_region, second.crop_region
    return all(one[axis] - gap < other[axis + 2] and other[axis] < one[axis + 2] + gap for axis in (0, 1))


@pytest.mark.parametrize("together", [False, True])
def test_slices_are_a_partition_in_the_order_of_the_whole(random_boxes, segment, together):
    random = Random(1)
    for _ in range(60):
        found = [segment(box) for box in random_boxes(random, (900, 1300), random.randint(0, 20), 200)]
        workers = random.randint(1, 6)
        shares = [slice_segments(found, worker, workers, together) for worker in range(workers)]
        assert sorted(place for share in shares for place in share.positions) == list(range(len(found)))
        for share in shares:
            assert share.positions == sorted(share.positions)
            assert share.whole == found
            assert numbers(share, found) == share.positions


def test_slices_have_balanced_areas(random_boxes, segment):
    random = Random(2)
    for _ in range(60):
        found = [segment(box) for box in random_boxes(random, (900, 1300), random.randint(1, 30), 300)]
        workers = random.randint(2, 6)
        work = [sum(map(area, slice_segments(found, worker, workers))) for worker in range(workers)]
        assert max(work) - min(work) <= max(map(area, found)), "by no more than one segment"


def test_the_largest_go_first_so_that_small_ones_even_it_out(segment):
    found = [segment((0, 0, side, 10)) for side in (10, 10, 20, 40)]
    assert sorted(slice_segments(found, worker, 2).positions for worker in range(2)) == [[0, 1, 2], [3]]


def test_equal_segments_are_dealt_out_evenly(segment):
    found = [segment((x, 0, x + 10, 10)) for x in range(0, 130, 10)]
    assert sorted(len(slice_segments(found, worker, 4)) for worker in range(4)) == [3, 3, 3, 4]


def test_together_keeps_those_that_touch_in_one_slice_over_any_chain(random_boxes, segment):
    random, apart, joined = Random(3), 0, 0
    for _ in range(60):
        found = [segment(box) for box in random_boxes(random, (1500, 2100), random.randint(2, 25), 200)]
        owner = {}
        for worker in range(5):
            owner.update(dict.fromkeys(slice_segments(found, worker, 5, together=True).positions, worker))
        for one in range(len(found)):
            for other in range(one):
                if touch(found[one], found[other], TOUCHING):
                    joined += 1
                    assert owner[one] == owner[other]
                else:
                    apart += owner[one] != owner[other]
    assert joined > 100
    assert apart > 100, "what does not touch is shared out"


def test_together_joins_a_chain_whose_ends_come_first(segment):
    found = [segment((0, 0, 100, 50)), segment((400, 0, 500, 50)), segment((100, 0, 400, 50))]
    shares = [slice_segments(found, worker, 2, together=True).positions for worker in range(2)]
    assert sorted(shares) == [[], [0, 1, 2]]


def test_more_workers_than_segments_leaves_some_with_nothing(segment):
    found = [segment((0, 0, 9, 9))]
    shares = [slice_segments(found, worker, 3) for worker in range(3)]
    assert [len(share) for share in shares] == [1, 0, 0]
    assert all(share.whole == found for share in shares)


def test_a_box_with_nothing_in_it_is_refused_by_an_error_message(segment):
    with pytest.raises(ValueError, match=r"^segs: expected bbox .*, got .*\. Check the node"):
        choose_segments([segment((0, 0, 9, 9), bbox=(5, 5, 5, 9))], Choice(least=1))


def test_a_box_that_is_empty_has_no_area():
    assert Box(5, 5, 3, 9).area == 0


CHOICES = [
    Choice(labels=frozenset({"a"})),
    Choice(order="area", reverse=True),
    Choice(order="left to right", first=2, count=7),
    Choice(count=1),
]


@pytest.mark.parametrize("choice", CHOICES)
def test_a_worker_s_slice_is_chosen_from_as_one_worker_would_choose(random_boxes, segment, choice):
    found = [
        segment(corners, label="ab"[n % 2]) for n, corners in enumerate(random_boxes(Random(3), (60, 90), 20))
    ]
    expected = choose_segments(found, choice)
    shares = [choose_segments(slice_segments(found, worker, 3), choice) for worker in range(3)]
    for side in (0, 1):
        parts = [share[side] for share in shares]
        assert all(isinstance(part, Slice) and part.whole == expected[side] for part in parts)
        assert sorted(place for part in parts for place in part.positions) == list(range(len(expected[side])))
        assert all(list(part) == [expected[side][place] for place in part.positions] for part in parts)


def test_joined_slices_know_whose_work_is_whose(segment):
    found = [segment((x, 0, x + 20, 20)) for x in (0, 30, 60, 90)]
    first, second = Slice(found[:2], [1]), Slice(found[2:], [0])
    both = join_segments(first, second)
    assert isinstance(both, Slice)
    assert (both.whole, both.positions) == (found, [1, 2])
    with_all = join_segments(first, found[2:])
    assert isinstance(with_all, Slice)
    assert with_all.positions == [1, 2, 3]
    assert type(join_segments(found[:1], found[1:])) is list
