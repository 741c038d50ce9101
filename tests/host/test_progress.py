from __future__ import annotations

import numpy as np
import pytest
import torch
from megapixel.host.live_preview import LONGEST, TO_COME, FillingPicture


def shown(filling):
    image = filling.image()
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def test_what_is_to_come_is_the_picture_in_the_dark(draw):
    picture = draw(3, 20, 31)
    expected = (picture.movedim(0, -1) * TO_COME * 255).round().int().numpy()
    assert np.array_equal(shown(FillingPicture(picture)), expected)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((LONGEST, LONGEST), (LONGEST, LONGEST)),
        ((40, 30), (40, 30)),
        ((2 * LONGEST, 300), (LONGEST, 150)),
        ((300, 4 * LONGEST), (75, LONGEST)),
        ((1, 8 * LONGEST), (1, LONGEST)),
        ((1, 1), (1, 1)),
    ],
    ids=str,
)
def test_it_is_no_larger_than_a_preview_and_never_larger_than_the_picture(size, expected):
    assert shown(FillingPicture(torch.rand(3, *size, generator=torch.Generator()))).shape == (*expected, 3)


def test_parts_put_side_by_side_make_the_enlarged_picture(draw):
    picture, enlarged = draw(3, 20, 30), draw(3, 20, 30, seed=1)
    large = enlarged.repeat_interleave(4, 1).repeat_interleave(4, 2)
    filling = FillingPicture(picture)
    dark = shown(filling)
    filling.put(large[:, :32, :48], (0.0, 0.4, 0.0, 0.4))
    half = shown(filling)
    bright = (enlarged.movedim(0, -1) * 255).round().int().numpy()
    assert np.array_equal(half[:8, :12], bright[:8, :12])
    assert np.array_equal(half[8:], dark[8:])
    assert np.array_equal(half[:, 12:], dark[:, 12:])
    for rows, columns in (((0, 8), (12, 30)), ((8, 20), (0, 12)), ((8, 20), (12, 30))):
        part = large[:, 4 * rows[0] : 4 * rows[1], 4 * columns[0] : 4 * columns[1]]
        filling.put(part, (rows[0] / 20, rows[1] / 20, columns[0] / 30, columns[1] / 30))
    assert np.array_equal(shown(filling), bright)


def test_a_part_finer_than_a_pixel_of_the_preview_shows_at_its_place():
    filling = FillingPicture(torch.zeros(3, 4 * LONGEST, 3 * LONGEST))
    filling.put(torch.ones(3, 4, 4), (0.5, 0.5 + 1e-4, 0.25, 0.25 + 1e-4))
    rows, columns = np.nonzero(shown(filling).sum(axis=-1))
    assert (set(rows), set(columns)) == ({LONGEST // 2}, {LONGEST * 3 // 16})


@pytest.mark.parametrize(("channels", "like"), [(1, [0, 0, 0]), (2, [0, 0, 0]), (4, [0, 1, 2])])
def test_grey_is_shown_as_grey_and_transparency_is_left_out(channels, like, draw):
    picture, part = draw(channels, 9, 14), draw(channels, 9, 7, seed=1)
    colours = FillingPicture(picture[like])
    colours.put(part[like], (0.0, 1.0, 0.5, 1.0))
    filling = FillingPicture(picture)
    filling.put(part, (0.0, 1.0, 0.5, 1.0))
    assert np.array_equal(shown(filling), shown(colours))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_values_out_of_range_are_no_obstacle(dtype, draw):
    part = draw(3, 9, 14) * 3 - 1
    filling = FillingPicture(torch.zeros(3, 9, 14, dtype=dtype))
    filling.put(part.to(dtype), (0.0, 1.0, 0.0, 1.0))
    expected = (part.to(dtype).float().clamp(0, 1).movedim(0, -1) * 255).round().int().numpy()
    assert np.array_equal(shown(filling), expected)


def test_the_picture_itself_is_not_written_to(draw):
    picture = draw(3, 9, 14)
    before = picture.clone()
    FillingPicture(picture).put(torch.ones(3, 18, 28), (0.0, 1.0, 0.0, 1.0))
    assert torch.equal(picture, before)
