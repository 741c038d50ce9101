"""Lanczos in parts, against Pillow's on the whole picture."""

from __future__ import annotations

from random import Random

import numpy
import pytest
import torch
from megapixel.scaling.resample import Axis, resample_axis, resample_weights
from PIL import Image

SIZES = [
    pytest.param((37, 50), (74, 100), id="twice"),
    pytest.param((37, 50), (131, 173), id="odd enlargement"),
    pytest.param((200, 313), (100, 156), id="half, one side odd"),
    pytest.param((200, 313), (33, 71), id="odd reduction"),
    pytest.param((200, 313), (7, 1), id="to next to nothing"),
    pytest.param((65, 90), (66, 89), id="one more and one less"),
    pytest.param((64, 91), (64, 300), id="one axis only"),
    pytest.param((1, 3), (5, 9), id="from next to nothing"),
]


def resample(pictures, size):
    for dimension, target in zip((-2, -1), size, strict=True):
        axis = Axis(pictures.shape[dimension], target)
        pictures = resample_axis(pictures, dimension, axis, 0, 0, target)
    return pictures


def pillow(picture, size):
    """Return (H, W) as Pillow resamples it in floats."""
    image = Image.fromarray(picture.numpy(), mode="F").resize(size[::-1], Image.Resampling.LANCZOS)
    return torch.from_numpy(numpy.array(image))


@pytest.mark.parametrize(("size", "target"), SIZES)
def test_the_whole_picture_equals_pillow_s(draw, size, target):
    pictures = draw(2, 3, *size)
    resampled = resample(pictures, target)
    assert resampled.shape == (2, 3, *target)
    for picture, ours in zip(pictures.flatten(0, 1), resampled.flatten(0, 1), strict=True):
        torch.testing.assert_close(ours, pillow(picture, target), atol=2e-5, rtol=0)


def random_axes(count, seed):
    random = Random(seed)
    for _ in range(count):
        axis = Axis(random.randint(1, 400), random.randint(1, 400))
        low = random.randrange(axis.target)
        yield axis, low, random.randint(low + 1, axis.target)


@pytest.mark.parametrize("dimension", [-2, -1, 2])
def test_a_part_equals_the_same_part_of_the_whole(draw, dimension):
    for number, (axis, low, high) in enumerate(random_axes(60, seed=dimension + 5)):
        shape = [2, 1, 5, 5]
        shape[dimension] = axis.source
        pictures = draw(*shape, seed=number)
        whole = resample_axis(pictures, dimension, axis, 0, 0, axis.target)
        first = max(0, int(low * axis.source / axis.target - axis.support) - 1)
        end = min(axis.source, int(high * axis.source / axis.target + axis.support) + 2)
        seen = pictures.narrow(dimension, first, end - first)
        part = resample_axis(seen, dimension, axis, first, low, high)
        torch.testing.assert_close(part, whole.narrow(dimension, low, high - low), atol=1e-6, rtol=0)


def test_no_output_looks_farther_than_the_support(draw):
    for number, (axis, low, _) in enumerate(random_axes(60, seed=9)):
        if axis.source == axis.target:
            continue
        centre = (low + 0.5) * axis.source / axis.target - 0.5
        positions = torch.arange(axis.source)
        beyond = (positions - centre).abs() >= axis.support
        line = draw(axis.source, seed=number)
        expected = resample_axis(line, 0, axis, 0, low, low + 1)
        changed = resample_axis(torch.where(beyond, 1e6, line), 0, axis, 0, low, low + 1)
        torch.testing.assert_close(changed, expected, atol=1e-6, rtol=0)


def test_weights_of_every_output_add_up_to_one():
    for axis, low, high in random_axes(100, seed=1):
        weights = resample_weights(axis, 0, axis.source, low, high)
        assert weights.shape == (high - low, axis.source)
        torch.testing.assert_close(weights.sum(1), torch.ones(high - low), atol=1e-6, rtol=0)


def test_equal_sizes_give_the_pixels_themselves(draw):
    pictures = draw(2, 3, 30, 41)
    assert Axis(41, 41).support == 0
    part = resample_axis(pictures, -1, Axis(100, 100), 20, 25, 50)
    assert torch.equal(part, pictures[..., 5:30])
    assert part.data_ptr() == pictures[..., 5:30].data_ptr()


def test_half_precision_is_computed_in_float32(draw):
    pictures = draw(1, 3, 30, 41).half()
    resampled = resample(pictures, (61, 23))
    assert resampled.dtype == torch.float32
    assert torch.equal(resampled, resample(pictures.float(), (61, 23)))
