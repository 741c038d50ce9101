"""Cutting out: real context, repeated edges, and a resized whole of which only a part is computed."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from megapixel.scaling.box import Box
from megapixel.scaling.grow import grow_box
from megapixel.segs.crop import crop_picture, crop_resized

SIZE = 37, 53
BOXES = [
    pytest.param(Box(5, 9, 21, 49), id="inside"),
    pytest.param(Box(0, 9, 8, 49), id="top"),
    pytest.param(Box(29, 9, 37, 49), id="bottom"),
    pytest.param(Box(5, 0, 21, 16), id="left"),
    pytest.param(Box(5, 45, 21, 53), id="right"),
    pytest.param(Box(0, 0, 37, 53), id="all"),
    pytest.param(Box(0, 0, 40, 56), id="beyond the end"),
    pytest.param(Box(-7, -60, 4, 3), id="before the start, farther than the picture is wide"),
    pytest.param(Box(36, 52, 37, 53), id="the last pixel"),
]


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("box", BOXES)
def test_a_crop_holds_the_picture_s_pixels_and_repeats_its_edges(noise, plain, box, channels):
    picture = noise(*SIZE, channels)
    crop = crop_picture(picture, box)
    expected = plain.cut(picture.numpy(), (box.top, box.bottom), (box.left, box.right))
    assert crop.shape == (*box.size, channels)
    assert np.array_equal(crop.numpy(), expected)


@pytest.mark.parametrize("box", BOXES)
def test_changing_a_crop_leaves_the_picture(noise, box):
    picture = noise(*SIZE, 3)
    before = picture.clone()
    crop_picture(picture, box).fill_(-1)
    assert torch.equal(picture, before)


def test_a_grown_crop_has_real_context_on_all_sides(noise):
    picture = noise(64, 95, 3)
    box = Box(20, 30, 31, 43)
    grown = grow_box(box, (64, 95), 8, 24)
    crop, place = crop_picture(picture, grown), box.within(grown)
    assert crop.shape[:2] == (24, 24)
    assert torch.equal(crop[place.rows, place.columns], picture[20:31, 30:43])
    assert torch.equal(crop, picture[grown.rows, grown.columns])
    assert min(place.top, place.left, 24 - place.bottom, 24 - place.right) > 0


def test_a_part_of_a_resized_field_equals_that_part_of_the_whole(noise, plain):
    random = Random(1)
    largest = 0.0
    for seed in range(150):
        given, size = ((random.randint(1, 30), random.randint(1, 30)) for _ in range(2))
        field = noise(*given, seed=seed)
        top, left = random.randint(-3, size[0] - 1), random.randint(-3, size[1] - 1)
        box = Box(top, left, random.randint(top + 1, size[0] + 3), random.randint(left + 1, size[1] + 3))
        whole = plain.resize(field.double().numpy(), size)
        expected = plain.cut(whole, (box.top, box.bottom), (box.left, box.right))
        part = crop_resized(field, size, box)
        assert part.shape == box.size
        largest = max(largest, np.abs(part.numpy() - expected).max())
    assert largest < 1e-6


def test_a_whole_resized_field_equals_the_host_s_bilinear(noise):
    field = noise(2, 3, 13, 22)
    resized = crop_resized(field, (31, 17), Box(0, 0, 31, 17))
    assert torch.allclose(resized, F.interpolate(field, (31, 17), mode="bilinear"), atol=1e-6)


def test_a_field_of_that_size_is_cut_and_keeps_its_bits_and_type(noise):
    field = noise(2, *SIZE).half()
    part = crop_resized(field, SIZE, Box(3, 4, 30, 50))
    assert part.dtype == torch.float16
    assert torch.equal(part, field[:, 3:30, 4:50])


def test_cutting_the_transposed_field_transposes_the_cut(noise):
    field = noise(13, 22)
    part = crop_resized(field, (40, 31), Box(5, 2, 33, 30))
    assert torch.allclose(crop_resized(field.T, (31, 40), Box(2, 5, 30, 33)).T, part, atol=1e-7)


def test_a_flag_for_each_pixel_can_be_resized():
    flags = torch.tensor([[True, False]])
    assert crop_resized(flags.float(), (1, 4), Box(0, 0, 1, 4)).tolist() == [[1, 0.75, 0.25, 0]]
