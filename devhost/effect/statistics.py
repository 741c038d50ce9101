"""The statistics of the comparison: exact tests of pairs, intervals, and Fréchet distances of Gaussians.

Sources: McNemar's test in its exact form (a sign test of the discordant pairs); Student's interval of a mean;
the distance of Dowson and Landau (1982), as in the Fréchet inception distance.

Dimensions: N samples, D features, K principal axes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Change:
    """The number of pairs that became true, of those that became false, and the two-sided probability of this
    if both were equally likely.
    """

    gained: int
    lost: int

    @property
    def p(self) -> float:
        """Return the exact probability; 1 if no pair changed."""
        n = self.gained + self.lost
        return float(stats.binomtest(self.gained, n).pvalue) if n else 1.0


def change(before: Iterable[bool], after: Iterable[bool]) -> Change:
    """Compare pairs, given in the same order."""
    pairs = list(zip(before, after, strict=True))
    return Change(
        gained=sum(now and not then for then, now in pairs), lost=sum(then and not now for then, now in pairs)
    )


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Return Student's interval of the mean of at least two values."""
    deviation = float(np.std(values, ddof=1))
    radius = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1)) * deviation / len(values) ** 0.5
    centre = float(np.mean(values))
    return centre - radius, centre + radius


@dataclass(frozen=True)
class Axes:
    """The K directions in which samples differ most: `origin` (D,), `directions` (D, K) orthonormal."""

    origin: Floats
    directions: Floats

    def project(self, samples: Floats) -> Floats:
        """Return the coordinates (N, K) of samples (N, D)."""
        return (samples - self.origin) @ self.directions


def principal_axes(samples: Floats, count: int) -> Axes:
    """Return the axes of largest variance of samples (N, D), largest first."""
    origin = samples.mean(0)
    _, vectors = np.linalg.eigh(np.cov(samples, rowvar=False))  # rising
    return Axes(origin, vectors[:, ::-1][:, :count])


@dataclass(frozen=True)
class Gaussian:
    """A normal distribution: `mean` (K,), `covariance` (K, K)."""

    mean: Floats
    covariance: Floats


def fit(samples: Floats) -> Gaussian:
    """Fit a Gaussian to samples (N, K)."""
    return Gaussian(samples.mean(0), np.atleast_2d(np.cov(samples, rowvar=False)))


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """Return the squared distance |m - m'|^2 + tr(C + C' - 2 (C C')^1/2), at least 0,
    and 0 for equal Gaussians.

    The root's trace is that of (C^1/2 C' C^1/2)^1/2, which is symmetric, so no root of it is complex.
    """
    root = _root(a.covariance)
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ b.covariance @ root), 0.0, None)).sum()
    spread = np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross
    return max(0.0, float(((a.mean - b.mean) ** 2).sum() + spread))


def _root(covariance: Floats) -> Floats:
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.clip(values, 0.0, None))) @ vectors.T
