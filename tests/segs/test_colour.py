"""Colours of the surroundings: slow shifts go, what was drawn stays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from megapixel.segs.colour import CELL, match_colours


def slow_part(field):
    """Return (h, w) averaged over about CELL pixels a side and drawn out again, pixel by pixel."""
    cells = [max(1, round(side / CELL)) for side in field.shape]
    means = np.zeros(cells)
    for y in range(cells[0]):
        for x in range(cells[1]):
            rows = slice(y * field.shape[0] // cells[0], -(-(y + 1) * field.shape[0] // cells[0]))
            columns = slice(x * field.shape[1] // cells[1], -(-(x + 1) * field.shape[1] // cells[1]))
            means[y, x] = field[rows, columns].mean()
    return means


@pytest.mark.parametrize("size", [(64, 64), (130, 200), (37, 301), (8, 8)])
@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_matched_colours_equal_the_oracle_s(noise, plain, size, strength):
    refined, base = noise(*size, 3), noise(*size, 3, seed=1) * 0.5 + 0.2
    matched = match_colours(refined, base, strength)
    shift = (base.double() - refined.double()).numpy()
    for channel in range(3):
        slow = plain.resize(slow_part(shift[..., channel]), size)
        expected = refined[..., channel].double().numpy() + strength * slow
        assert np.abs(matched[..., channel].numpy() - expected).max() < 1e-6


def test_a_shift_of_the_whole_goes_and_what_varies_within_a_cell_stays(noise):
    base = noise(128, 192, 3)
    drawn = torch.zeros(128, 192, 3)
    drawn[::2] = 0.1
    drawn[1::2] = -0.1
    shift = torch.tensor([0.2, -0.1, 0.05])
    matched = match_colours(base + drawn + shift, base, 1.0)
    assert torch.allclose(matched, base + drawn, atol=2e-5), "a mean of 4096 pixels, summed in float32"
    half = match_colours(base + drawn + shift, base, 0.5)
    assert torch.allclose(half, base + drawn + shift / 2, atol=2e-5)


def test_strength_0_returns_it_as_it_is(noise):
    refined = noise(40, 61, 3)
    assert match_colours(refined, noise(40, 61, 3, seed=1), 0.0) is refined


def test_matching_leaves_both(noise):
    refined, base = noise(40, 61, 3), noise(40, 61, 3, seed=1)
    before = refined.clone(), base.clone()
    match_colours(refined, base, 1.0)
    assert torch.equal(refined, before[0])
    assert torch.equal(base, before[1])
