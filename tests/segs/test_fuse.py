"""Fusing tiles beside a literal transcription, and its laws."""

from __future__ import annotations

import itertools

import pytest
import torch
from megapixel.scaling.box import Box
from megapixel.segs.fuse import FLOOR, Fusion, border_gains, cut, tile_weight

SIZE = (9, 14)
BOXES = [
    Box(0, 0, 6, 8),
    Box(0, 5, 6, 13),
    Box(3, 2, 9, 10),
    Box(4, 6, 9, 14),
]  # of two sizes, up to four over each other


@pytest.fixture
def fusion(draw):
    weights = [tile_weight(draw(*box.size, seed=seed), box.size) for seed, box in enumerate(BOXES)]
    return lambda seed=None: Fusion(SIZE, BOXES, weights, seed)


def distance(box, row, column):
    """Return how far a pixel of a tile lies from its nearest edge that is not the whole's,
    divided by the tile's longer side.
    """
    longer = max(box.size)
    to_edges = [row - box.top, box.bottom - 1 - row, column - box.left, box.right - 1 - column]
    inner = [box.top > 0, box.bottom < SIZE[0], box.left > 0, box.right < SIZE[1]]
    return (
        min([longer] + [far + 0.5 for far, is_inner in zip(to_edges, inner, strict=True) if is_inner])
        / longer
    )


@pytest.mark.parametrize("seed", [None, 7], ids=["weights", "moving borders"])
def test_each_pixel_is_the_weighted_mean_of_its_tiles(seed, fusion, draw):
    fused = fusion(seed)
    tiles = [draw(2, 3, *box.size, seed=10 + number) for number, box in enumerate(BOXES)]
    shares = fused.shares(0.5)
    whole = fused.fuse(tiles, shares)
    for row, column in itertools.product(range(SIZE[0]), range(SIZE[1])):
        over = [
            (
                tile[..., row - box.top, column - box.left],
                share[row - box.top, column - box.left],
                weight[row - box.top, column - box.left] * distance(box, row, column),
            )
            for tile, share, weight, box in zip(tiles, shares, fused.weights, BOXES, strict=True)
            if box.top <= row < box.bottom and box.left <= column < box.right
        ]
        given = [share for _, share, _ in over]
        if seed is None:
            total = sum(weight for *_, weight in over)
            assert given == pytest.approx([float(weight / total) for *_, weight in over])
        assert sum(given) == pytest.approx(1 if over else 0)
        expected = sum((tile * share for tile, share, _ in over), torch.zeros(2, 3))
        torch.testing.assert_close(whole[..., row, column], expected.float(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", [None, 7], ids=["weights", "moving borders"])
def test_a_pixel_of_one_tile_is_that_tiles_bit_for_bit(seed, fusion, draw):
    tiles = [draw(1, 2, 3, *box.size, seed=number) for number, box in enumerate(BOXES)]
    fused = fusion(seed)
    whole = fused.fuse(tiles, fused.shares(3.0))
    assert torch.equal(whole[..., :3, :5], tiles[0][..., :3, :5])
    alone = Fusion((6, 8), [Box(0, 0, 6, 8)], fused.weights[:1], seed)
    assert torch.equal(alone.fuse(tiles[:1], alone.shares(1.0)), tiles[0])


def test_equal_tiles_come_back_whole(fusion, draw):
    whole = draw(1, 4, *SIZE)
    for seed in (None, 3):
        fused = fusion(seed)
        result = fused.fuse([cut(whole, box) for box in BOXES], fused.shares(2.0))
        covered = fused.fuse([torch.ones(1, 1, *box.size) for box in BOXES], fused.shares(2.0)) > 0
        torch.testing.assert_close(result, whole * covered, rtol=0, atol=1e-6)


def test_a_weight_is_the_mean_over_a_latent_pixel_and_never_0(draw):
    weight = draw(16, 24)
    weight[:8, :8] = 0
    made = tile_weight(weight, (2, 3))
    assert made[0, 0] == FLOOR
    assert float(made[1, 2]) == pytest.approx(float(weight[8:, 16:].mean()), abs=1e-6)


def test_shares_change_slowly_over_all_of_an_overlap():
    boxes = [Box(0, 0, 8, 40), Box(0, 20, 8, 60)]
    fused = Fusion((8, 60), boxes, [torch.ones(8, 40, dtype=torch.float64)] * 2)
    second = fused.shares(1.0)[1][4, :20]
    assert second[0] < 0.03
    assert second[-1] > 0.97
    assert second.diff().min() > 0
    assert second.diff().max() < 1.2 / 20


def border(fusion, sigma):
    """Return the first column of two tiles side by side where the second counts more."""
    return int((fusion.shares(sigma)[1][0] > 0.5).nonzero()[0])


def test_borders_move_with_the_noise_level_and_stay_inside_the_overlap():
    boxes = [Box(0, 0, 8, 40), Box(0, 20, 8, 60)]
    fused = Fusion((8, 60), boxes, [torch.ones(8, 40, dtype=torch.float64)] * 2, seed=5)
    places = [border(fused, 0.1 * step) for step in range(1, 60)]
    assert min(places) >= 2
    assert max(places) <= 18
    assert max(places) - min(places) > 10
    assert abs(sum(places) / len(places) - 10) < 2
    assert [border(fused, 0.1 * step) for step in range(1, 60)] == places


def test_borders_are_a_function_of_seed_and_noise_level():
    assert border_gains(5, 0.25, 4) == border_gains(5, 0.25, 4)
    assert border_gains(5, 0.25, 4) == border_gains(5, 0.25, 6)[:4]
    drawn = {tuple(border_gains(seed, sigma, 4)) for seed in (5, 6, 2**64 - 1) for sigma in (0.25, 0.5)}
    assert len(drawn) == 6
