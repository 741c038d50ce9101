"""RGB of pictures with any channels, and colours under full transparency."""

from __future__ import annotations

import pytest
import torch
from megapixel.scaling.colours import fill_transparent, rgb


@pytest.mark.parametrize(
    ("channels", "like"), [(1, [0, 0, 0]), (2, [0, 0, 0]), (3, [0, 1, 2]), (4, [0, 1, 2])]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_grey_is_repeated_and_transparency_left_out(channels, like, dtype, draw):
    first = draw(2, channels, 5, 7).to(dtype)
    last = first.movedim(1, -1)
    expected = first[:, like]
    for dimension in (1, -3):
        assert torch.equal(rgb(first, dimension), expected)
    for dimension in (3, -1):
        assert torch.equal(rgb(last, dimension), expected.movedim(1, -1))
    assert rgb(first, 1).data_ptr() == first.data_ptr()


def test_what_is_visible_keeps_its_bits(draw):
    picture = draw(2, 4, 37, 50)
    picture[:, 3] = (picture[:, 3] - 0.5).clamp(min=0)
    before = picture.clone()
    filled = fill_transparent(picture)
    assert torch.equal(picture, before)
    assert torch.equal(filled[:, 3], picture[:, 3])
    hidden = (picture[:, 3:] == 0).expand(-1, 3, -1, -1)
    assert 0.3 < float(hidden.float().mean()) < 0.7
    assert torch.equal(filled[:, :3][~hidden], picture[:, :3][~hidden])
    assert not torch.equal(filled[:, :3][hidden], picture[:, :3][hidden])


@pytest.mark.parametrize("size", [(1, 9), (33, 1), (16, 64), (45, 70)])
def test_one_visible_pixel_fills_all_that_is_hidden(draw, size):
    picture = draw(1, 4, *size)
    picture[:, 3] = 0
    picture[:, 3, size[0] // 2, size[1] // 3] = 0.5
    filled = fill_transparent(picture)[:, :3]
    expected = picture[:, :3, size[0] // 2, size[1] // 3][..., None, None].expand_as(filled)
    torch.testing.assert_close(filled, expected, atol=1e-6, rtol=0)


def test_holes_are_filled_from_near_by():
    """Half red, half blue, a hidden stripe in each: the stripe takes its own side's colour."""
    picture = torch.zeros(1, 4, 20, 64)
    picture[:, 0, :, :32] = picture[:, 2, :, 32:] = 1
    picture[:, 3] = 1
    expected = picture[:, :3].clone()
    for hidden in (slice(8, 11), slice(49, 52)):
        picture[..., hidden] = 0
    assert torch.equal(fill_transparent(picture)[:, :3], expected)


def test_a_picture_of_which_nothing_is_hidden_is_returned_as_it_is(draw):
    picture = 0.3 + 0.4 * draw(1, 4, 21, 34)
    assert fill_transparent(picture) is picture


def test_a_picture_of_which_nothing_is_visible_becomes_a_plain_one(draw):
    picture = draw(1, 4, 9, 14)
    picture[:, 3] = 0
    filled = fill_transparent(picture)
    assert bool(filled.isfinite().all())
    assert float(filled[:, :3].std(dim=(-2, -1)).max()) < 1e-6
