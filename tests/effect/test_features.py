"""What latents are compared by: averages that keep means, patches that follow borders,
distances that see each fault.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from devhost.effect.features import Reference, border_patches, composition
from devhost.tiny.scenes import random_scenes


@pytest.fixture
def noise():
    return np.random.default_rng(3).normal(size=(2, 4, 24, 32))


@pytest.fixture(scope="module")
def scenes():
    """A function (count, seed, side=16) that draws latents of one object."""

    def draw(count, seed, side=16):
        generator = torch.Generator().manual_seed(seed)
        return random_scenes(count, (side, side), generator, close_ups=0.0).latents().numpy()

    return draw


def test_composition_averages_over_equal_stretches(noise):
    literal = np.empty((2, 4, 16, 16))
    fine = noise.repeat(2, axis=2)  # 24 rows make 16: three halves each
    for y in range(16):
        for x in range(16):
            literal[:, :, y, x] = fine[:, :, 3 * y : 3 * y + 3, 2 * x : 2 * x + 2].mean((2, 3))
    literal -= np.median(literal, axis=(2, 3), keepdims=True)
    np.testing.assert_allclose(composition(noise), literal.reshape(2, -1), atol=1e-12)


@pytest.mark.parametrize("features", [composition, border_patches])
def test_the_tone_of_the_background_does_not_count(features, noise):
    tone = np.array([0.5, -1.0, 2.0, 0.0])[:, None, None]
    assert len(features(noise))
    np.testing.assert_allclose(features(noise + tone), features(noise), atol=1e-12)


def test_patches_are_those_that_a_border_crosses(noise):
    noise[0, 3] = -1.0
    noise[0, 3, :, 13:] = 1.0  # picture 0: a border between columns 12 and 13; picture 1: noise everywhere
    plain = noise - np.median(noise, axis=(2, 3), keepdims=True)
    literal = []
    for picture, mask in zip(plain, noise[:, 3] > 0, strict=True):
        for y in range(0, 24 - 7, 4):
            for x in range(0, 32 - 7, 4):
                if 1 / 8 <= mask[y : y + 8, x : x + 8].mean() <= 7 / 8:
                    literal.append(picture[:, y : y + 8, x : x + 8].ravel())
    assert len(literal) == 5 * 2 + 5 * 7  # columns 8 to 15 and 12 to 19 of picture 0
    np.testing.assert_allclose(border_patches(noise), literal)


def test_an_empty_picture_has_no_patches():
    assert border_patches(np.full((2, 4, 16, 24), -1.0)).shape == (0, 256)


def test_a_second_object_is_far_in_composition(scenes):
    reference = Reference(composition(scenes(512, 0)))
    real = scenes(256, 1)
    doubled = np.maximum(real, scenes(256, 2))
    near = reference.distance(composition(real))
    assert reference.distance(composition(doubled)) > 3 * near


def test_softness_is_far_in_patches_and_the_number_of_objects_is_not(scenes):
    reference = Reference(border_patches(scenes(192, 0, 32)))
    real = scenes(96, 1, 32)
    near = reference.distance(border_patches(real))
    twice = np.concatenate([real, scenes(96, 2, 32)], axis=3)  # two objects in a picture of twice the width
    soft = ndimage.gaussian_filter(real, (0, 0, 1.5, 1.5))
    assert reference.distance(border_patches(soft)) > 3 * near
    assert reference.distance(border_patches(twice)) < 2 * near


def test_no_more_samples_than_axes_have_no_distance(scenes):
    reference = Reference(composition(scenes(64, 0)))
    assert reference.distance(composition(scenes(16, 1))) is None
