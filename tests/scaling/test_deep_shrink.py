from __future__ import annotations

from itertools import pairwise

import pytest
from megapixel.scaling.deep_shrink import automatic_factor, faded_factor, shrunk_size


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
def test_automatic_factor_brings_the_features_to_the_trained_area(latent, ratio):
    assert automatic_factor(latent, 64) == (1.0 if ratio is None else round(ratio, 3))
    assert automatic_factor(latent[::-1], 64) == automatic_factor(latent, 64)


@pytest.mark.parametrize("side", [80, 128, 192, 256, 512])
def test_features_have_the_trained_side(side):
    size = (side, side)
    assert shrunk_size(size, automatic_factor(size, 64)) == (64, 64)


def test_automatic_factor_has_no_jumps():
    factors = [automatic_factor((60 + i / 8, 400 - i / 8), 64) for i in range(1200)]
    assert max(abs(a - b) for a, b in pairwise(factors)) < 0.02
