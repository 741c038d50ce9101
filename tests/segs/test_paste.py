"""Giving back: sums that do not depend on the order or on who adds,
and pixels outside that keep their bits.
"""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
import torch
from megapixel.scaling.box import Box
from megapixel.segs.merge import merge_results
from megapixel.segs.paste import GRID, add_segment, paste_segment

SIZE = 43, 66
BOXES = [
    pytest.param(Box(8, 16, 32, 56), id="inside"),
    pytest.param(Box(0, 16, 24, 56), id="top"),
    pytest.param(Box(19, 16, 43, 56), id="bottom"),
    pytest.param(Box(8, 0, 32, 40), id="left"),
    pytest.param(Box(8, 26, 32, 66), id="right"),
    pytest.param(Box(0, 0, 43, 66), id="all"),
    pytest.param(Box(0, 0, 48, 72), id="beyond the end"),
    pytest.param(Box(-5, -3, 19, 37), id="before the start"),
    pytest.param(Box(42, 65, 43, 66), id="the last pixel"),
    pytest.param(Box(50, 70, 58, 78), id="elsewhere"),
]


def soft_weight(noise, size, seed=5):
    """Return weights of which about half are 0 and some are 1."""
    return (noise(*size, seed=seed) * 4 - 2).clamp(0, 1)


def expected(picture, box, change, weight):
    """Return the picture with weight * change added pixel by pixel, in float64."""
    result = picture.double().numpy().copy()
    for y in range(max(0, box.top), min(SIZE[0], box.bottom)):
        for x in range(max(0, box.left), min(SIZE[1], box.right)):
            result[y, x] += weight[y - box.top, x - box.left] * change[y - box.top, x - box.left]
    return result


@pytest.mark.parametrize("paste", ["add", "paste"])
@pytest.mark.parametrize("box", BOXES)
def test_a_segment_lies_on_its_pixels_alone(noise, box, paste):
    before = noise(*SIZE, 3)
    picture, refined, base = before.clone(), noise(*box.size, 3, seed=1), noise(*box.size, 3, seed=2)
    weight = soft_weight(noise, box.size)
    if paste == "add":
        total = weight + noise(*box.size, seed=3)
        add_segment(picture, box, refined, base, weight, total)
        weight, change = weight.double() / total.clamp(min=1).double(), refined.double() - base.double()
    else:
        paste_segment(picture, box, refined, weight)
        under = np.zeros((*box.size, 3))
        inside = box.clamped(SIZE)
        part = inside.within(box)
        under[part.rows, part.columns] = before.numpy()[inside.rows, inside.columns]
        change = refined.double().numpy() - under
    result = expected(before, box, np.asarray(change), np.asarray(weight, dtype=np.float64))
    assert np.abs(picture.numpy() - result).max() < 3e-7
    touched = np.zeros(SIZE, dtype=bool)
    inside = box.clamped(SIZE)
    part = inside.within(box)
    touched[inside.rows, inside.columns] = (weight > 0)[part.rows, part.columns]
    assert torch.equal(picture[~touched], before[~touched]), "pixels of weight 0 keep their bits"


@pytest.mark.parametrize("paste", ["add", "paste"])
def test_a_segment_without_weight_changes_nothing(noise, paste):
    before = noise(*SIZE, 3)
    picture, box = before.clone(), Box(8, 16, 32, 56)
    if paste == "add":
        add_segment(
            picture,
            box,
            noise(24, 40, 3, seed=1),
            noise(24, 40, 3, seed=2),
            torch.zeros(24, 40),
            torch.zeros(24, 40),
        )
    else:
        paste_segment(picture, box, noise(24, 40, 3, seed=1), torch.zeros(24, 40))
    assert torch.equal(picture, before)


def test_weight_1_gives_exactly_what_was_refined(noise):
    picture, refined, box = noise(*SIZE, 3), noise(24, 40, 3, seed=1), Box(8, 16, 32, 56)
    base = picture[box.rows, box.columns].clone()
    added = picture.clone()
    add_segment(added, box, refined, base, torch.ones(24, 40), torch.ones(24, 40))
    paste_segment(picture, box, refined, torch.ones(24, 40))
    assert torch.equal(picture[box.rows, box.columns], refined)
    assert (added[box.rows, box.columns] - refined).abs().max() <= 1.5 / GRID


def random_additions(noise, random_boxes, random, count):
    """Return arguments of add_segment for overlapping boxes whose shares add up to at most 1."""
    picture = noise(*SIZE, 3)
    boxes = [Box(y1, x1, y2, x2) for x1, y1, x2, y2 in random_boxes(random, SIZE, count)]
    weights = [soft_weight(noise, box.size, seed=number) for number, box in enumerate(boxes)]
    total = torch.zeros(SIZE)
    for box, weight in zip(boxes, weights, strict=True):
        total[box.rows, box.columns] += weight
    additions = [
        (
            box,
            noise(*box.size, 3, seed=100 + number),
            picture[box.rows, box.columns],
            weight,
            total[box.rows, box.columns],
        )
        for number, (box, weight) in enumerate(zip(boxes, weights, strict=True))
    ]
    return picture, additions


def added(picture, additions):
    picture = picture.clone()
    for addition in additions:
        add_segment(picture, *addition)
    return picture


def test_sums_have_the_same_bits_in_any_order_and_from_any_number_of_workers(noise, random_boxes):
    random = Random(1)
    for _ in range(25):
        picture, additions = random_additions(noise, random_boxes, random, random.randint(2, 12))
        whole = added(picture, additions)
        assert not torch.equal(whole, picture)
        for workers in range(2, 6):
            shares = [[] for _ in range(workers)]
            for addition in random.sample(additions, len(additions)):
                random.choice(shares).append(addition)
            assert torch.equal(added(picture, [addition for share in shares for addition in share]), whole)
            results = [added(picture, share) for share in shares]
            random.shuffle(results)
            assert torch.equal(merge_results(picture, results), whole)


def test_sums_from_0_to_1_are_within_a_step_of_the_exact_ones(noise, random_boxes):
    picture, additions = random_additions(noise, random_boxes, Random(2), 30)
    exact = picture.double().clone()
    for box, refined, base, weight, total in additions:
        share = weight.double() / total.double().clamp(min=1)
        exact[box.rows, box.columns] += share[..., None] * (refined.double() - base.double())
    whole = added(picture, additions)
    assert (whole - exact).abs().max() < 30 * 1.5 / GRID
    assert whole.min() >= 0
    assert whole.max() <= 1 + 30 / GRID


def test_merging_leaves_what_it_is_given_and_without_results_gives_the_picture(noise):
    picture, result = noise(*SIZE, 3), noise(*SIZE, 3, seed=1)
    before = picture.clone(), result.clone()
    assert torch.equal(merge_results(picture, []), picture)
    assert torch.equal(merge_results(picture, [picture.clone()] * 3), picture)
    merged = merge_results(picture, [result])
    assert torch.equal(merged, result), "one worker's pixels are taken as they are"
    assert torch.equal(picture, before[0])
    assert torch.equal(result, before[1])


def eight_bits(picture):
    return (picture * 255).round() / 255


def test_workers_that_send_eight_bits_merge_within_their_steps_and_outside_keeps_its_bits(
    noise, random_boxes
):
    random = Random(3)
    tolerance = 0.51 / 255
    for _ in range(10):
        picture, additions = random_additions(noise, random_boxes, random, 8)
        whole = added(picture, additions)
        for workers in range(2, 6):
            results = [eight_bits(added(picture, additions[worker::workers])) for worker in range(workers)]
            merged = merge_results(picture, results, tolerance)
            touched = torch.zeros(SIZE, dtype=torch.bool)
            for box, _, _, weight, _ in additions:
                touched[box.rows, box.columns] |= weight > 0
            assert (~touched).sum() > 50
            assert torch.equal(merged[~touched], picture[~touched])
            assert (merged - whole).abs().max() < workers * 1.02 / 255
    assert not torch.equal(merge_results(picture, results)[~touched], picture[~touched]), (
        "it takes the tolerance"
    )
