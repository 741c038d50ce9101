from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from megapixel.scaling.deep_shrink import automatic_factor, faded_factor, low_passed, shrunk_size


@pytest.mark.parametrize("size", [(64, 48), (63, 47), (1, 9)])
def test_factor_one_is_the_identity(size):
    assert shrunk_size(size, 1.0) == size


@pytest.mark.parametrize(
    ("size", "factor", "shrunk"),
    [
        ((64, 48), 2.0, (32, 24)),
        ((37, 29), 2.0, (18, 14)),
        ((10, 20), 0.5, (20, 40)),
        ((3, 90), 9.0, (1, 10)),
    ],
)
def test_shrunk_size(size, factor, shrunk):
    assert shrunk_size(size, factor) == shrunk


def test_transposing_the_size_transposes_the_result():
    for height in range(1, 80, 7):
        for width in range(1, 80, 5):
            for factor in (0.7, 1.01, 1.5, 3.3, 9.0):
                assert shrunk_size((height, width), factor) == shrunk_size((width, height), factor)[::-1]


@pytest.mark.parametrize("factor", [0.1, 1.0, 2.0, 2.1, 8.999])
def test_fade_goes_from_the_factor_to_one(factor):
    assert faded_factor(factor, 1.0) == factor
    assert faded_factor(factor, 0.0) == 1.0
    assert faded_factor(factor, 0.5) == pytest.approx((factor + 1) / 2)


@pytest.mark.parametrize(
    ("latent", "ratio"),
    [
        ((128, 128), 2.0),
        ((64, 64), None),
        ((32, 48), None),
        ((72, 72), None),
        ((79, 79), None),
        ((80, 80), 1.25),
        ((96, 96), 1.5),
        ((64, 128), 2**0.5),
        ((64, 256), 2.0),
        ((32, 256), 2**0.5),
        ((32, 128), None),
        ((128, 192), 6**0.5),
        ((128, 256), 8**0.5),
        ((128, 512), 4.0),
        ((192, 192), 3.0),
    ],
)
def test_automatic_factor_brings_the_features_a_little_below_the_trained_area(latent, ratio):
    assert automatic_factor(latent, 64) == (1.0 if ratio is None else round(ratio * 16 / 15, 3))
    assert automatic_factor(latent[::-1], 64) == automatic_factor(latent, 64)


@pytest.mark.parametrize("side", [80, 128, 192, 256, 512])
def test_features_have_fifteen_sixteenths_of_the_trained_side(side):
    size = (side, side)
    assert shrunk_size(size, automatic_factor(size, 64)) == (60, 60)


def test_automatic_factor_has_no_jumps():
    factors = [automatic_factor((60 + i / 8, 400 - i / 8), 64) for i in range(1200)]
    assert max(abs(a - b) for a, b in pairwise(factors)) < 0.02


def test_low_passed_keeps_what_the_grid_can_show_and_no_more():
    rows, columns = torch.meshgrid(torch.arange(48.0), torch.arange(36.0), indexing="ij")
    wave = torch.cos(2 * math.pi * rows / 24) + torch.sin(2 * math.pi * columns / 18)
    checkers = (-1.0) ** (rows + columns)
    kept, lost = low_passed(wave[None, None], 2.133), low_passed(checkers[None, None], 2.0)
    assert (kept - wave)[..., 2:-2, 2:-2].abs().max() < 0.1  # 0.17 by an enlargement alone
    assert lost.abs().max() < 1e-6
    assert low_passed(torch.full((2, 4, 31, 17), 0.3), 1.7).sub(0.3).abs().max() < 1e-6


def test_low_passed_again_changes_little_more():
    noise = torch.randn(1, 4, 48, 32, generator=torch.Generator().manual_seed(1))
    once = low_passed(noise, 2.0)
    assert (low_passed(once, 2.0) - once).std() < 0.05 * once.std()  # 0.22 by an enlargement alone
