"""The feather's Gaussian, against one in two dimensions at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from megapixel.segs.blur import blur_mask, gaussian_weights

SIZES = [
    pytest.param((37, 53), 5, id="one block"),
    pytest.param((70, 131), 5, id="several blocks, odd"),
    pytest.param((64, 128), 3, id="whole blocks"),
    pytest.param((65, 63), 1, id="one more and one less than a block"),
    pytest.param((9, 200), 20, id="lower than the radius"),
    pytest.param((1, 1), 4, id="one pixel"),
    pytest.param((2, 70), 50, id="far wider than the mask"),
]


@pytest.mark.parametrize(("size", "radius"), SIZES)
def test_a_blurred_mask_equals_the_two_dimensional_gaussian(noise, plain, size, radius):
    mask = noise(*size)
    blurred = blur_mask(mask, radius)
    assert blurred.shape == mask.shape
    assert np.abs(blurred.numpy() - plain.blur(mask.double().numpy(), radius)).max() < 1e-6


def test_a_point_is_spread_over_the_radius_and_no_further():
    mask = torch.zeros(61, 90)
    mask[30, 40] = 1
    blurred = blur_mask(mask, 7)
    assert blurred[23:38, 33:48].min() > 0
    assert abs(float(blurred.sum()) - 1) < 1e-6
    blurred[23:38, 33:48] = 0
    assert not blurred.any()


@pytest.mark.parametrize("radius", [1, 5, 20, 100])
def test_the_weights_are_those_of_opencv_and_sum_to_1(radius):
    weights = gaussian_weights(radius)
    sigma = 0.3 * (radius - 1) + 0.8
    assert len(weights) == 2 * radius + 1
    assert abs(float(weights.sum()) - 1) < 1e-12
    assert torch.equal(weights, weights.flip(0))
    assert float(weights[radius + 1] / weights[radius]) == pytest.approx(np.exp(-0.5 / sigma**2), rel=1e-12)


def test_radius_0_returns_the_mask_and_a_flat_mask_stays_flat(noise):
    mask = noise(20, 31)
    assert torch.equal(blur_mask(mask, 0), mask)
    flat = torch.full((70, 131), 0.7)
    assert torch.allclose(blur_mask(flat, 20), flat, atol=1e-6)


def test_blurring_the_transposed_mask_transposes_it_and_leaves_the_mask(noise):
    mask = noise(70, 131)
    before = mask.clone()
    assert torch.allclose(blur_mask(mask.T, 9).T, blur_mask(mask, 9), atol=1e-6)
    assert torch.equal(mask, before)


def test_one_axis_leaves_the_other(noise):
    row, column = noise(1, 131), noise(70, 1)
    assert torch.allclose(blur_mask(row.repeat(90, 1), 6), blur_mask(row, 6).expand(90, -1), atol=1e-6)
    assert torch.allclose(blur_mask(column.repeat(1, 90), 6), blur_mask(column, 6).expand(-1, 90), atol=1e-6)
