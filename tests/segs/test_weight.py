"""The weights a segment is pasted with: where its mask lies, how it fades, how overlapping ones share."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
import torch
from megapixel.scaling.box import Box
from megapixel.segs.blur import gaussian_weights
from megapixel.segs.weight import feather_mask, place_mask

PLACED = [
    pytest.param((11, 17), Box(6, 9, 17, 26), Box(4, 8, 20, 32), id="a mask of its region's size"),
    pytest.param((5, 40), Box(6, 9, 17, 26), Box(4, 8, 20, 32), id="a mask of another size"),
    pytest.param((11, 17), Box(6, 9, 17, 26), Box(6, 9, 17, 26), id="a crop that is the region"),
    pytest.param(
        (30, 20), Box(-8, -5, 22, 15), Box(0, 0, 24, 16), id="a region that begins before the picture"
    ),
    pytest.param((7, 9), Box(30, 40, 61, 90), Box(24, 40, 40, 56), id="a region that ends after the picture"),
    pytest.param((3, 3), Box(0, 0, 3, 3), Box(8, 8, 16, 16), id="a region elsewhere"),
]


@pytest.mark.parametrize(("size", "region", "crop"), PLACED)
def test_a_mask_covers_its_region_and_nothing_else_of_the_crop(noise, plain, size, region, crop):
    mask = noise(*size)
    corners = region.left, region.top, region.right, region.bottom
    expected = plain.weigh(
        corners, mask.double().numpy(), (crop.top, crop.bottom), (crop.left, crop.right), (99, 99), 0
    )
    placed = place_mask(mask, region, crop)
    assert placed.shape == crop.size
    assert np.abs(placed.numpy() - expected).max() < 1e-6


FEATHERED = [
    pytest.param(Box(8, 16, 48, 80), id="inside"),
    pytest.param(Box(0, 16, 40, 80), id="top"),
    pytest.param(Box(21, 16, 61, 80), id="bottom"),
    pytest.param(Box(8, 0, 48, 64), id="left"),
    pytest.param(Box(8, 33, 48, 97), id="right"),
    pytest.param(Box(0, 0, 61, 97), id="all"),
    pytest.param(Box(0, 0, 64, 104), id="beyond the end"),
    pytest.param(Box(8, 16, 13, 23), id="shorter than the fade"),
    pytest.param(Box(8, 16, 9, 17), id="one pixel"),
]


@pytest.mark.parametrize("feather", [0, 1, 5, 20])
@pytest.mark.parametrize("crop", FEATHERED)
def test_a_feathered_mask_equals_the_oracle_s(noise, plain, crop, feather):
    mask = (noise(*crop.size) > 0.4).float()
    corners, spans = (
        (crop.left, crop.top, crop.right, crop.bottom),
        ((crop.top, crop.bottom), (crop.left, crop.right)),
    )
    expected = plain.weigh(corners, mask.double().numpy(), *spans, (61, 97), feather)
    weight = feather_mask(mask, crop, (61, 97), feather)
    assert np.abs(weight.numpy() - expected).max() < 1e-6
    assert 0 <= weight.min() <= weight.max() <= 1 + 1e-6


def laid(weight, crop, size):
    """Return (H + 2, W + 2) with a weight at its place and what is outside the picture as its edge."""
    inside = crop.clamped(size)
    part = inside.within(crop)
    canvas = torch.zeros(size)
    canvas[inside.rows, inside.columns] = weight[part.rows, part.columns]
    return canvas


def largest_step(canvas):
    return max(float(canvas.diff(dim=0).abs().max()), float(canvas.diff(dim=1).abs().max()))


@pytest.mark.parametrize("feather", [1, 2, 5, 20, 50])
@pytest.mark.parametrize(
    "crop",
    [
        pytest.param(Box(40, 56, 312, 376), id="inside"),
        pytest.param(Box(0, 56, 272, 376), id="top"),
        pytest.param(Box(129, 56, 401, 376), id="bottom"),
        pytest.param(Box(40, 0, 312, 320), id="left"),
        pytest.param(Box(40, 183, 312, 503), id="right"),
        pytest.param(Box(0, 0, 272, 320), id="corner"),
        pytest.param(Box(0, 0, 401, 503), id="all"),
    ],
)
def test_a_mask_that_fills_its_crop_leaves_no_edge_at_any_border(crop, feather):
    canvas = laid(feather_mask(torch.ones(crop.size), crop, (401, 503), feather), crop, (401, 503))
    assert largest_step(canvas) <= 1.5 / (2 * feather + 1) + 1e-6
    assert canvas.max() > 1 - 1e-6


@pytest.mark.parametrize("feather", [1, 2, 5, 20, 50])
@pytest.mark.parametrize("around", [0, 1, 3, 30])
def test_a_rectangle_in_a_larger_crop_leaves_no_edge(around, feather):
    region = Box(80, 90, 280, 331)
    crop = Box(80 - around, 90 - around, 280 + around, 331 + around)
    mask = place_mask(torch.ones(region.size), region, crop)
    canvas = laid(feather_mask(mask, crop, (401, 503), feather), crop, (401, 503))
    steepest = float(gaussian_weights(feather).max())
    assert largest_step(canvas) <= steepest + 1.5 / (2 * feather + 1)


@pytest.mark.parametrize("feather", [2, 5, 16, 50])
def test_the_fade_begins_and_ends_without_a_kink(feather):
    """The eye sees where a slope begins; a straight fade begins with its whole slope."""
    crop = Box(40, 56, 312, 376)
    profile = laid(feather_mask(torch.ones(crop.size), crop, (401, 503), feather), crop, (401, 503))[176]
    kinks = profile.diff().diff().abs()
    assert float(kinks.max()) <= 6 / (2 * feather + 1) ** 2 + 1e-6


def test_there_is_no_fade_where_the_crop_ends_with_the_picture():
    crop = Box(0, 0, 40, 64)
    weight = feather_mask(torch.ones(crop.size), crop, (61, 97), 5)
    assert torch.allclose(weight[:30, :54], torch.ones(30, 54), atol=1e-6)
    assert weight[-1, -1] < 0.01
    whole = feather_mask(torch.ones(61, 97), Box(0, 0, 61, 97), (61, 97), 20)
    assert torch.allclose(whole, torch.ones(61, 97), atol=1e-6)


def test_two_crops_that_overlap_by_the_fade_s_length_add_up_to_1():
    for feather in (1, 3, 8):
        first, second = Box(0, 0, 40, 60), Box(0, 60 - 2 * feather, 40, 120)
        total = sum(
            laid(feather_mask(torch.ones(box.size), box, (40, 120), feather), box, (40, 120))
            for box in (first, second)
        )
        assert torch.allclose(total, torch.ones(40, 120), atol=1e-6)


def test_the_shares_of_overlapping_tiles_are_a_partition_of_the_picture(pieces_of):
    from megapixel.segs.find import tile_segments

    random = Random(1)
    for _ in range(20):
        feather = random.choice([1, 2, 5])
        size = 8 * random.randint(4, 25), 8 * random.randint(4, 25)
        # Tiles of whole multiples at whole multiples need no growing.
        tile = random.choice([32, 48])
        pieces = pieces_of((size, tile_segments(size, tile, 2 * feather)), size, multiple=1, feather=feather)
        weights = [laid(piece.cut.weight, piece.cut.box, size) for piece in pieces]
        total = sum(weights)
        assert total.min() > 1 - 1e-5, "nowhere does the plain picture show through"
        assert torch.allclose(
            sum(weight / total.clamp(min=1) for weight in weights), torch.ones(size), atol=1e-5
        )


def test_weighing_the_transposed_mask_transposes_the_weights(noise):
    mask = noise(40, 64)
    weight = feather_mask(mask, Box(8, 0, 48, 64), (61, 97), 5)
    turned = feather_mask(mask.T.contiguous(), Box(0, 8, 64, 48), (97, 61), 5)
    assert torch.allclose(turned.T, weight, atol=1e-6)


def test_feather_0_leaves_the_mask_s_bits(noise):
    mask = noise(40, 64)
    assert torch.equal(feather_mask(mask, Box(8, 8, 48, 72), (61, 97), 0), mask)
