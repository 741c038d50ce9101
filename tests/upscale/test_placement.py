"""Tiles put together: the kept parts fill the result, mixed borders add up to one,
and identity stays identity.
"""

from __future__ import annotations

from random import Random

import pytest
import torch
from megapixel.upscale.placement import Line, Placement
from megapixel.upscale.tiles import ReceptiveField, Span, plan_tiles, split_tile


def random_line(random, resampled):
    """Return a line of an odd or even number of pixels, perhaps continued beyond the picture."""
    length, scale = random.randint(1, 220), random.choice([1, 2, 3, 4, 8])
    extent = random.choice([0, max(1, length * scale - random.randint(0, 2 * scale))])
    source = extent or length * scale
    return Line(length, scale, random.randint(1, 2 * source) if resampled else source, extent=extent)


def random_tiles(random, rows, columns, field):
    """Return a plan's tiles, some of them split again."""
    plan = plan_tiles(rows.length, columns.length, field, random.randint(1, 120))
    tiles = plan.tiles
    for _ in range(random.randint(0, 2)):
        at = random.randrange(len(tiles))
        tiles[at : at + 1] = split_tile(plan, *tiles[at], field, random.randint(1, 60)).tiles
    return tiles


def supported(margin, rows, columns):
    return ReceptiveField(margin + max(rows.support, columns.support))


@pytest.mark.parametrize("resampled", [False, True], ids=["as it comes", "resampled"])
def test_kept_parts_fill_the_result_once(resampled):
    random, several = Random(1), 0
    for _ in range(300):
        rows, columns = random_line(random, resampled), random_line(random, resampled)
        written = torch.zeros(rows.target, columns.target)
        tiles = random_tiles(random, rows, columns, supported(random.randint(0, 9), rows, columns))
        for row, column in tiles:
            (top, bottom), (left, right) = rows.kept(row), columns.kept(column)
            assert 0 <= top <= bottom <= rows.target
            assert 0 <= left <= right <= columns.target
            written[top:bottom, left:right] += 1
        assert bool((written == 1).all())
        several += len(tiles) > 1
    assert several > 100


def test_every_border_of_the_picture_is_a_border_of_the_result():
    line = Line(101, 4, 333, extent=401)
    assert (line.place(0), line.place(101)) == (0, 333)
    assert line.axis.source == 401


@pytest.mark.parametrize("resampled", [False, True], ids=["as it comes", "resampled"])
def test_weights_of_all_tiles_add_up_to_one(resampled):
    random, worst, several = Random(2), 0.0, 0
    for _ in range(120):
        blend = random.randint(1, 16)
        lines = [
            Line(length, scale, random.randint(length, 2 * length * scale) if resampled else length * scale)
            for length, scale in ((random.randint(1, 300), random.choice([1, 2, 3, 4])) for _ in range(2))
        ]
        placement = Placement(*lines).with_blend(blend)
        rows, columns = placement.rows, placement.columns
        total = torch.zeros(rows.target, columns.target)
        tiles = random_tiles(random, rows, columns, ReceptiveField(blend + random.randint(0, 9), blend=blend))
        for row, column in tiles:
            (top, bottom), (left, right) = rows.kept(row), columns.kept(column)
            weights = rows.weights(row)[:, None] * columns.weights(column)
            assert float(weights.min()) >= 0
            total[top:bottom, left:right] += weights
        worst = max(worst, float((total - 1).abs().max()))
        several += len(tiles) > 3
    assert worst <= 1e-6
    assert several > 60


def test_a_mixed_border_rises_evenly_from_none_to_all():
    line = Line(100, 2, 200, blend=8)
    weights = line.weights(Span(30, 70, 40, 100))
    assert line.kept(Span(30, 70, 40, 100)) == (64, 200)
    assert float(weights[0]) < 0.01
    assert bool((weights[:32].diff() > 0).all())
    assert bool((weights[32:] == 1).all())
    torch.testing.assert_close(weights[:32] + weights[:32].flip(0), torch.ones(32))


def nearest(pictures, scale):
    return pictures.repeat_interleave(scale, -2).repeat_interleave(scale, -1)


def assemble(pictures, placement, tiles, scale):
    """Return (C, H, W): what tiles make with a network that only repeats pixels."""
    result = torch.full((pictures.shape[1], placement.rows.target, placement.columns.target), torch.nan)
    if placement.mixes:
        result.zero_()
    for row, column in tiles:
        seen = pictures[..., row.start : row.start + row.size, column.start : column.start + column.size]
        fitted = placement.fit(nearest(seen, scale), row, column)
        placement.write(result, fitted[0], row, column)
    return result


@pytest.mark.parametrize("blend", [0, 5], ids=["cut", "mixed"])
@pytest.mark.parametrize("resampled", [False, True], ids=["as it comes", "resampled"])
def test_identity_networks_give_back_the_picture(draw, blend, resampled):
    random = Random(3)
    for seed in range(25):
        scale = random.choice([1, 2, 4])
        height, width = random.randint(60, 160), random.randint(61, 190)
        factor = random.uniform(0.3, 2.2) if resampled else 1
        rows, columns = (Line(side, scale, max(1, round(side * scale * factor))) for side in (height, width))
        picture = draw(1, 3, height, width, seed=seed)
        margin = max(rows.support, columns.support) + blend
        tiles = random_tiles(random, rows, columns, ReceptiveField(margin, blend=blend))
        placement = Placement(rows, columns)
        whole = placement.fit(nearest(picture, scale), Span(0, height, 0, height), Span(0, width, 0, width))
        if not resampled:
            assert torch.equal(whole, nearest(picture, scale))
        result = assemble(picture, placement.with_blend(blend), tiles, scale)
        if blend or resampled:
            torch.testing.assert_close(result, whole[0], atol=1e-6, rtol=0)
        else:
            assert torch.equal(result, whole[0])


def test_one_pixel_less_than_the_support_is_seen(draw):
    """The margin for resampling is needed: half of it changes the picture."""
    picture = draw(1, 3, 90, 101)
    rows, columns = Line(90, 2, 77), Line(101, 2, 84)
    placement = Placement(rows, columns)
    expected = placement.fit(nearest(picture, 2), Span(0, 90, 0, 90), Span(0, 101, 0, 101))[0]
    near, far = (
        assemble(picture, placement, plan_tiles(90, 101, ReceptiveField(margin), 45).tiles, 2)
        for margin in (rows.support // 2, rows.support)
    )
    assert float((far - expected).abs().max()) <= 1e-6
    assert float((near - expected).abs().max()) > 1e-3


def test_what_overshoots_at_edges_is_clamped_only_where_it_was_resampled():
    edge = torch.zeros(1, 1, 20, 31)
    edge[..., 11:] = 1
    spans = Span(0, 20, 0, 20), Span(0, 31, 0, 31)
    resampled = Placement(Line(20, 1, 47), Line(31, 1, 70)).fit(edge, *spans)
    assert (float(resampled.min()), float(resampled.max())) == (0, 1)
    beyond = Placement(Line(20, 1, 20), Line(31, 1, 31)).fit(edge * 2 - 0.5, *spans)
    assert torch.equal(beyond, edge * 2 - 0.5)


def test_the_network_s_picture_is_not_written_to(draw):
    picture = draw(1, 3, 40, 51)
    before = picture.clone()
    spans = Span(0, 40, 0, 40), Span(0, 30, 0, 25)
    for rows, columns in ((Line(40, 1, 40), Line(51, 1, 51)), (Line(40, 1, 63), Line(51, 1, 51))):
        Placement(rows, columns).with_blend(4).fit(picture, *spans)
        Placement(rows, columns).fit(picture, *spans)
    assert torch.equal(picture, before)
