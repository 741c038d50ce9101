"""Masks on the grid of a layer's tokens."""

from __future__ import annotations

import pytest
import torch
from megapixel.attention.token_mask import crop_mask, mask_tokens, mask_view
from megapixel.attention.view import Part, View
from megapixel.scaling.box import Box


def mean_over(mask, row, column, grid):
    """The mean of the pixels that a token covers, pixel by pixel."""
    (height, width), (rows, columns) = mask.shape, grid
    pixels = [
        mask[y, x]
        for y in range(row * height // rows, -(-(row + 1) * height // rows))
        for x in range(column * width // columns, -(-(column + 1) * width // columns))
    ]
    return torch.stack(pixels).mean()


class TestOnTokens:
    @pytest.mark.parametrize("grid", [(6, 4), (5, 7), (1, 3), (13, 17)], ids=str)
    def test_each_token_gets_the_mean_of_its_pixels(self, draw, grid):
        mask = draw(2, 26, 34)
        tokens = mask_tokens(mask, grid, 2)
        assert tokens.shape == (2, grid[0] * grid[1], 1)
        for picture in range(2):
            expected = [mean_over(mask[picture], y, x, grid) for y in range(grid[0]) for x in range(grid[1])]
            assert torch.allclose(tokens[picture, :, 0], torch.stack(expected), atol=1e-6)

    def test_a_mask_smaller_than_the_grid_grows_smoothly(self):
        tokens = mask_tokens(torch.tensor([[[0.0, 1.0]]]), (3, 8), 1).reshape(3, 8)
        assert torch.equal(tokens[0], tokens[2])
        assert (tokens[0].diff() >= 0).all()
        assert tokens[0, 0] == 0
        assert tokens[0, -1] == 1

    def test_full_and_empty_masks_stay_so(self):
        for value in (0.0, 1.0):
            assert torch.equal(
                mask_tokens(torch.full((1, 33, 21), value), (5, 8), 1), torch.full((1, 40, 1), value)
            )

    def test_the_last_mask_serves_the_other_pictures_and_surplus_ones_none(self, draw):
        mask = draw(2, 8, 6)
        four = mask_tokens(mask, (4, 3), 4)
        assert torch.equal(four[:2], mask_tokens(mask, (4, 3), 2))
        assert torch.equal(four[2], four[1])
        assert torch.equal(four[3], four[1])
        assert torch.equal(mask_tokens(mask, (4, 3), 1), four[:1])


class TestCrop:
    def test_no_part_is_the_whole(self, draw):
        mask = draw(1, 9, 7)
        assert crop_mask(mask, None) is mask

    def test_a_part_is_cut_at_the_masks_own_resolution(self, draw):
        mask = draw(2, 64, 48)
        part = Part(Box(1, 4, 4, 6), (8, 6))
        assert torch.equal(crop_mask(mask, part), mask[:, 8:32, 32:48])

    @pytest.mark.parametrize("corner", [(0, 0), (3, 5), (7, 5)])
    def test_a_coarse_mask_keeps_at_least_a_pixel(self, corner):
        part = Part(Box(0, 0, 1, 1).moved(*corner), (8, 6))
        assert crop_mask(torch.ones(1, 3, 2), part).shape == (1, 1, 1)

    def test_parts_side_by_side_cover_every_pixel_once(self):
        for length in (7, 8, 13, 64):
            seen = [
                crop_mask(torch.arange(length).reshape(1, length, 1), Part(Box(top, 0, top + 2, 1), (8, 1)))
                for top in (0, 2, 4, 6)
            ]
            assert torch.cat(seen, dim=1).flatten().tolist() == list(range(length))


def test_a_view_gives_each_picture_its_own_part_of_its_frames_mask():
    masks = torch.rand(2, 24, 36, generator=torch.Generator().manual_seed(2))
    whole = (48, 72)  # the picture is twice as large as the masks
    view = View((Part(Box(8, 12, 24, 36), whole), Part(Box(32, 48, 48, 72), whole)), (1, 5))
    seen = mask_view(masks, view, None, (8, 12), 2)
    assert torch.allclose(seen[0, :, 0].view(8, 12), masks[1, 4:12, 6:18])
    assert torch.allclose(
        seen[1, :, 0].view(8, 12), masks[1, 16:24, 24:36]
    )  # the last mask is for all frames after it


def test_an_area_lies_inside_what_the_view_shows():
    mask = torch.rand(1, 24, 36, generator=torch.Generator().manual_seed(3))
    view = View((Part(Box(4, 6, 20, 30), (24, 36)),), (0,))
    area = Part(Box(2, 3, 6, 9), (8, 12))  # in latent pixels of the view
    seen = mask_view(mask, view, area, (8, 12), 1)
    assert torch.allclose(seen[0, :, 0].view(8, 12), mask[0, 8:16, 12:24])


def test_without_a_view_a_mask_is_fitted_as_it_is():
    mask = torch.rand(1, 24, 36, generator=torch.Generator().manual_seed(4))
    assert torch.equal(mask_view(mask, None, None, (6, 9), 2), mask_tokens(mask, (6, 9), 2))
