"""The statistics of the proof of effect, against slow transcriptions and what is known in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import linalg

from devhost.effect.statistics import (
    Change,
    Gaussian,
    change,
    fit,
    frechet_distance,
    mean_interval,
    principal_axes,
)


def covariance(draw, size, rank=None):
    factor = draw.normal(size=(size, rank or size))
    return factor @ factor.T


@pytest.fixture
def draw():
    return np.random.default_rng(7)


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (5, 5), (9, 2), (2, 9), (43, 13), (93, 13)])
def test_the_probability_is_twice_the_smaller_tail_of_fair_coins(gained, lost):
    n, fewer = gained + lost, min(gained, lost)
    tail = sum(math.comb(n, k) for k in range(fewer + 1)) / 2**n
    assert Change(gained, lost).p == pytest.approx(min(1.0, 2 * tail), rel=1e-9)


def test_a_change_counts_the_discordant_pairs_in_each_direction():
    before = [True, True, False, False, False, True]
    after = [True, False, True, True, False, True]
    assert change(before, after) == Change(gained=2, lost=1)
    assert change(after, before) == Change(gained=1, lost=2)
    with pytest.raises(ValueError, match="argument"):
        change([True], [True, False])


def test_the_interval_of_a_mean_is_students():
    low, high = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    radius = 2.7764451 * math.sqrt(2.5 / 5)  # the quantile as tables have it for four degrees of freedom
    assert (low, high) == pytest.approx((3 - radius, 3 + radius), rel=1e-6)


def test_the_distance_of_normals_on_a_line():
    a, b = (
        Gaussian(np.array([mean]), np.array([[deviation**2]])) for mean, deviation in ((1.0, 2.0), (4.0, 0.5))
    )
    assert frechet_distance(a, b) == pytest.approx(3.0**2 + 1.5**2)


def test_the_distance_is_that_of_the_matrix_root(draw):
    a, b = (Gaussian(draw.normal(size=5), covariance(draw, 5)) for _ in range(2))
    root = linalg.sqrtm(a.covariance @ b.covariance).real
    literal = ((a.mean - b.mean) ** 2).sum() + np.trace(a.covariance + b.covariance - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(literal, rel=1e-6)
    assert frechet_distance(b, a) == pytest.approx(literal, rel=1e-6)


def test_the_distance_holds_where_no_root_is_unique(draw):
    flat = Gaussian(np.zeros(6), covariance(draw, 6, rank=2))
    assert frechet_distance(flat, flat) == pytest.approx(0.0, abs=1e-6)
    point = Gaussian(np.ones(6), np.zeros((6, 6)))
    assert frechet_distance(flat, point) == pytest.approx(6 + np.trace(flat.covariance))


def test_a_fit_finds_the_gaussian_that_samples_are_from(draw):
    mean, spread = np.array([1.0, -2.0]), np.array([[2.0, 0.6], [0.6, 0.5]])
    found = fit(draw.multivariate_normal(mean, spread, size=40_000))
    np.testing.assert_allclose(found.mean, mean, atol=0.03)
    np.testing.assert_allclose(found.covariance, spread, atol=0.05)


def test_principal_axes_are_the_longest_ones_first(draw):
    lengths = np.array([0.1, 5.0, 0.5, 2.0])
    samples = draw.normal(size=(5000, 4)) * lengths + 3.0
    axes = principal_axes(samples, 2)
    np.testing.assert_allclose(np.abs(axes.directions), np.eye(4)[:, [1, 3]], atol=0.05)
    np.testing.assert_allclose(axes.directions.T @ axes.directions, np.eye(2), atol=1e-9)
    projected = axes.project(samples)
    np.testing.assert_allclose(projected.mean(0), 0.0, atol=1e-9)
    np.testing.assert_allclose(projected.std(0), [5.0, 2.0], rtol=0.05)
