"""The counter on drawn pictures, where the truth is known, and on the faults that it is there to find."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from devhost.tiny.scenes import random_scenes
from devhost.whole_objects.counter import CONTRAST, count, smooth_background

SIZES = [(16, 16), (32, 32), (24, 48)]  # latent pixels: trained, twice, and wide


def drawn(number: int, size: tuple[int, int], seed: int = 5) -> np.ndarray:
    """Return pictures (number, H, W, 3) of one object each."""
    scenes = random_scenes(number, size, torch.Generator().manual_seed(seed))
    return scenes.pictures().movedim(1, -1).double().clamp(0, 1).numpy()


def disc(
    picture: np.ndarray, centre: tuple[float, float], radius: float, colour=(0.1, 0.1, 0.5)
) -> np.ndarray:
    """Return the picture with a disc; lengths are shares of the shorter side."""
    height, width, _ = picture.shape
    y, x = (np.mgrid[0:height, 0:width] + 0.5) / min(height, width)
    inside = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2
    return np.where(inside[..., None], colour, picture)


def sloped(height: int, width: int) -> np.ndarray:
    """Return a smooth background (H, W, 3)."""
    y, x = np.mgrid[0:height, 0:width]
    return 0.6 + 0.15 * np.stack([x / width, y / height, 1 - (x / width) ** 2], -1)


@pytest.mark.parametrize("size", SIZES)
def test_every_drawn_picture_shows_one_whole_object_on_a_smooth_background(size):
    counts = [count(picture) for picture in drawn(6, size)]
    assert [found.one_whole for found in counts] == [True] * 6
    assert max(found.texture for found in counts) < 0.001


@pytest.mark.parametrize("size", SIZES)
def test_a_background_is_found_behind_an_object_that_covers_most_of_it(size):
    height, width = (8 * side for side in size)
    background = sloped(height, width)
    covered = disc(background, (0.5, 0.5 * width / height), 0.46)
    assert (covered != background).any(-1).mean() > 0.3
    np.testing.assert_allclose(smooth_background(covered), background, atol=CONTRAST / 2)


@pytest.mark.parametrize("side", [96, 192, 384])
def test_what_is_counted_does_not_depend_on_the_size(side):
    picture = disc(sloped(side, side), (0.35, 0.35), 0.2)
    assert (count(picture).objects, count(picture).pieces) == (1, 0)
    with_piece = disc(picture, (0.8, 0.8), 0.03)
    assert (count(with_piece).objects, count(with_piece).pieces) == (1, 1)
    doubled = disc(picture, (0.75, 0.75), 0.15)
    assert (count(doubled).objects, count(doubled).pieces) == (2, 0)
    assert [count(each).one_whole for each in (picture, with_piece, doubled)] == [True, False, False]
    assert count(picture).covered == pytest.approx(np.pi * 0.2**2, abs=0.01)


def test_an_empty_picture_shows_nothing():
    found = count(sloped(128, 200))
    assert (found.objects, found.pieces, found.covered, found.texture) == (0, 0, 0.0, 0.0)
    assert not found.one_whole


@pytest.mark.parametrize("side", [192, 384])
def test_texture_is_the_share_of_the_background_that_is_not_smooth(side):
    picture = disc(sloped(side, side), (0.3, 0.5), 0.15)
    y, x = np.mgrid[0:side, 0:side]
    checks = 0.04 * np.where((y // 6 + x // 6) % 2, 1, -1)[..., None]
    assert count(picture).texture < 0.001
    lowest_fifth = np.where(y[..., None] > 0.8 * side, picture + checks, picture)
    background = 1 - np.pi * (0.15 + 24 / side) ** 2  # all but the object and a margin of three latent pixels
    assert count(lowest_fifth).texture == pytest.approx(0.2 / background, abs=0.02)


def test_blur_costs_sharpness():
    sharp = drawn(1, (24, 24))[0]
    soft = sharp.copy()
    for _ in range(3):
        soft[1:-1, 1:-1] = (soft[2:, 1:-1] + soft[:-2, 1:-1] + soft[1:-1, 2:] + soft[1:-1, :-2]) / 4
    assert count(soft).sharpness < 0.8 * count(sharp).sharpness
