"""The features by which two sets of latents are compared: the composition, and the borders of objects.

Composition is the whole latent at the trained size. Only patches on the border of an object are used: most
other patches show only background, and their number would again depend on the number of objects.

Dimensions: B latents, H and W in latent pixels, P patches.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy import ndimage

from .plan import TRAINED_SIZE
from .statistics import Axes, Floats, Gaussian, fit, frechet_distance, principal_axes

AXES = 16
FEWEST = 2 * AXES
"""Minimum number of images for a distance: with fewer, the covariance hardly has full rank."""
PATCH, STRIDE = 8, 4
LEAST_SHARE = 1 / 8
"""Of a patch that is object, and that is not, for a border to cross it."""


def composition(latents: Floats) -> Floats:
    """Return (B, 4 * 16 * 16): latents (B, 4, H, W) without their background,
    averaged down to the trained size.
    """
    height, width = (
        _averaging(small, large) for small, large in zip(TRAINED_SIZE, latents.shape[2:], strict=True)
    )
    shrunk = np.einsum("ih,bchw,jw->bcij", height, latents, width, optimize=True)
    return _without_background(shrunk).reshape(len(latents), -1)


def border_patches(latents: Floats) -> Floats:
    """Return (P, 4 * 8 * 8): the patches of latents (B, 4, H, W) that an object's
    border crosses, without background.

    Patches lie on a grid of 4 latent pixels. The border is where the mask channel changes its sign, as in
    drawn scenes.
    """
    views = sliding_window_view(_without_background(latents), (PATCH, PATCH), axis=(2, 3))
    masks = sliding_window_view(latents[:, 3] > 0, (PATCH, PATCH), axis=(1, 2))
    inside = masks[:, ::STRIDE, ::STRIDE].mean((3, 4))  # (B, rows, columns)
    crossed = (inside >= LEAST_SHARE) & (inside <= 1 - LEAST_SHARE)
    patches = views[:, :, ::STRIDE, ::STRIDE].transpose(0, 2, 3, 1, 4, 5)  # (B, rows, columns, 4, 8, 8)
    return patches[crossed].reshape(-1, latents.shape[1] * PATCH * PATCH)


def residual_noise(latents: Floats) -> float:
    """Return the residual noise in the background of latents (B, 4, H, W); a drawn background is smooth.

    It is the standard deviation of the colours about the mean of their 3 x 3 neighbours, two pixels away from
    every object.
    """
    fine = latents[:, :3] - ndimage.uniform_filter(latents[:, :3], 3, axes=(2, 3))
    clear = ndimage.binary_erosion(latents[:, 3] < 0, np.ones((1, 3, 3)), iterations=2).astype(bool)
    return float(np.mean([fine[:, colour][clear].std() for colour in range(3)]))


class Reference:
    """Reference samples (N, D), and the distance of others from them along their 16 principal axes."""

    def __init__(self, samples: Floats) -> None:
        self.axes: Axes = principal_axes(samples, AXES)
        self.gaussian: Gaussian = fit(self.axes.project(samples))

    def distance(self, samples: Floats) -> float | None:
        """Return the Fréchet distance of samples (N, D), or None if there are not more samples than axes."""
        if len(samples) <= AXES:
            return None
        return frechet_distance(self.gaussian, fit(self.axes.project(samples)))


def _averaging(small: int, large: int) -> Floats:
    """Return the matrix (small, large) that averages over equal stretches;
    a row is the mean over one of them.
    """
    edges = np.arange(small + 1)[:, None] * large / small
    pixels = np.arange(large)
    covered = np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels)
    return np.clip(covered, 0.0, None) * small / large


def _without_background(latents: Floats) -> Floats:
    return latents - np.median(latents, axis=(2, 3), keepdims=True)
