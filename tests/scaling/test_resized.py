"""Whole pictures resized in floats, against weights that are worked out one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from megapixel.scaling.resized import METHODS, resize_pictures

SIZES = [
    pytest.param((37, 50), (74, 100), id="twice"),
    pytest.param((37, 50), (131, 173), id="odd enlargement"),
    pytest.param((60, 93), (30, 46), id="about half"),
    pytest.param((60, 93), (17, 71), id="odd reduction"),
    pytest.param((60, 93), (7, 2), id="to next to nothing"),
    pytest.param((40, 33), (40, 90), id="one axis only"),
    pytest.param((40, 33), (25, 70), id="one shrinks and one grows"),
    pytest.param((1, 3), (5, 9), id="from next to nothing"),
]


def triangle(distance):
    return max(0.0, 1 - abs(distance))


def cubic(distance, slope):
    """Keys' kernel with that slope at 1."""
    far = abs(distance)
    if far < 1:
        return (slope + 2) * far**3 - (slope + 3) * far**2 + 1
    if far < 2:
        return slope * (far**3 - 5 * far**2 + 8 * far - 4)
    return 0.0


def lanczos(distance):
    if abs(distance) >= 3:
        return 0.0
    return float(np.sinc(distance) * np.sinc(distance / 3))


def axis_weights(source, target, method, antialias):
    """Return (target, source) weights."""
    weights = np.zeros((target, source))
    widening = max(1.0, source / target)
    for row in range(target):
        centre = (row + 0.5) * source / target - 0.5
        if method == "nearest":
            weights[row, math.floor((row + 0.5) * source / target)] = 1
        elif antialias or method == "lanczos":  # a kernel as wide as a result's pixel, of what is inside
            kernel = {"bilinear": triangle, "bicubic": lambda d: cubic(d, -0.5), "lanczos": lanczos}[method]
            weights[row] = [kernel((place - centre) / widening) for place in range(source)]
            weights[row] /= weights[row].sum()
        else:  # the nearest two or four, with edges repeated
            kernel = {"bilinear": triangle, "bicubic": lambda d: cubic(d, -0.75)}[method]
            for place in range(math.floor(centre) - 1, math.floor(centre) + 3):
                weights[row, min(max(place, 0), source - 1)] += kernel(place - centre)
    if source == target:
        assert np.allclose(weights, np.eye(source))
    return weights


def resized(pictures, size, method, antialias):
    down = axis_weights(pictures.shape[-2], size[0], method, antialias)
    across = axis_weights(pictures.shape[-1], size[1], method, antialias)
    return np.clip(down @ pictures.double().numpy() @ across.T, 0, 1)


@pytest.mark.parametrize("antialias", [True, False], ids=["antialiased", "single samples"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("given", "size"), SIZES)
def test_a_resized_picture_equals_the_oracle_s(draw, given, size, method, antialias):
    shrinks = size[0] < given[0] or size[1] < given[1]
    pictures = draw(2, 3, *given)
    result = resize_pictures(pictures, size, method, antialias=antialias)
    assert (result.shape, result.dtype) == ((2, 3, *size), torch.float32)
    # The host works out places in float32: an error of 1e-7 of the side.
    expected = resized(pictures, size, method, antialias or not shrinks)
    assert np.abs(result.numpy() - expected).max() < 2e-5


@pytest.mark.parametrize("method", METHODS)
def test_antialiasing_is_without_effect_where_a_picture_grows(draw, method):
    pictures = draw(1, 3, 20, 31)
    for size in ((40, 62), (33, 50), (20, 45)):
        smooth, sharp = (
            resize_pictures(pictures, size, method, antialias=antialias) for antialias in (True, False)
        )
        assert torch.allclose(smooth, sharp, atol=2e-6)


def test_antialiasing_keeps_fine_lines_grey_where_single_samples_lose_them():
    lines = torch.zeros(1, 1, 64, 90)
    lines[..., ::4] = 1
    for method in ("bilinear", "bicubic", "lanczos"):
        smooth = resize_pictures(lines, (16, 23), method)[..., 2:-2]
        assert (smooth - 0.25).abs().max() < 0.1
    assert resize_pictures(lines, (16, 23), "bilinear", antialias=False)[..., 2:-2].std() > 0.1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_equal_sizes_give_a_copy_of_the_same_bits(draw, method, channels):
    pictures = draw(2, channels, 21, 34)
    if channels in (2, 4):
        pictures[:, -1:, :9] = 0
    result = resize_pictures(pictures, (21, 34), method)
    assert torch.equal(result, pictures)
    result.fill_(9)
    assert pictures.max() <= 1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_pictures_are_resized_one_by_one_and_left_as_they_were(draw, method, channels):
    pictures = draw(3, channels, 21, 34)
    pictures[0, -1:, :9] = 0
    before = pictures.clone()
    result = resize_pictures(pictures, (50, 17), method)
    assert torch.equal(pictures, before)
    for picture, whole in zip(pictures, result, strict=True):
        assert torch.equal(resize_pictures(picture[None], (50, 17), method)[0], whole)


@pytest.mark.parametrize("method", METHODS)
def test_transposing_the_picture_transposes_the_result(draw, method):
    pictures = draw(1, 3, 21, 34)
    turned = resize_pictures(pictures.mT.contiguous(), (17, 50), method)
    assert torch.allclose(turned.mT, resize_pictures(pictures, (50, 17), method), atol=2e-6)


@pytest.mark.parametrize("method", ["lanczos", "bicubic"])
def test_what_overshoots_is_cut_at_0_and_1(method):
    edge = torch.zeros(1, 1, 20, 31)
    edge[..., 15:] = 1
    result = resize_pictures(edge, (40, 90), method)
    assert (result.min(), result.max()) == (0, 1)


@pytest.mark.parametrize("method", METHODS)
def test_half_precision_is_resized_as_floats(draw, method):
    pictures = draw(1, 3, 21, 34).half()
    result = resize_pictures(pictures, (50, 60), method)
    assert torch.equal(result, resize_pictures(pictures.float(), (50, 60), method))


@pytest.mark.parametrize("method", ["lanczos", "bilinear", "bicubic"])
def test_a_fine_gradient_keeps_its_levels(method):
    gradient = torch.linspace(0.2, 0.8, 1500).expand(1, 3, 40, -1)
    for size in ((80, 3000), (31, 1201)):
        result = resize_pictures(gradient, size, method)
        assert result[0, 0, 5].unique().numel() >= 1000
        middle = result[0, :, :, 10:-10]
        ideal = 0.2 + 0.6 * ((torch.arange(size[1]) + 0.5) * 1500 / size[1] - 0.5) / 1499
        assert (middle - ideal[10:-10]).abs().max() < 1e-4


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("colours", [1, 3])
def test_colours_under_full_transparency_do_not_bleed(method, colours):
    pictures = torch.full((1, colours + 1, 40, 61), 0.75)
    pictures[:, colours] = 1
    pictures[:, :, 10:25, 20:45] = 0  # black and invisible
    for size in ((80, 122), (27, 33)):
        result = resize_pictures(pictures, size, method)
        visible = result[:, colours] > 0
        assert not visible.all()
        assert (result[:, :colours].movedim(1, -1)[visible] - 0.75).abs().max() < 1e-5


def test_no_pictures_give_none():
    assert resize_pictures(torch.zeros(0, 3, 5, 7), (10, 14), "lanczos").shape == (0, 3, 10, 14)
