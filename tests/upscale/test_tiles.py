"""The laws of tiles, on a table and on many random cells."""

from __future__ import annotations

import math
from itertools import pairwise
from random import Random

import pytest
from megapixel.upscale.memory import MemoryEstimate
from megapixel.upscale.tile_size import choose_plan
from megapixel.upscale.tiles import ReceptiveField, cut_axis, plan_tiles, split_tile

TABLE = [
    pytest.param(1, ReceptiveField(), 512, (0, None), id="one pixel"),
    pytest.param(
        1, ReceptiveField(18, 4, 0, 16), 64, (0, None), id="one pixel, below the network's smallest"
    ),
    pytest.param(7, ReceptiveField(1), 7, (0, None), id="as long as the tile"),
    pytest.param(513, ReceptiveField(18), 512, (0, None), id="one pixel longer than the tile"),
    pytest.param(2048, ReceptiveField(18), 512, (0, None), id="even"),
    pytest.param(1999, ReceptiveField(22, 8), 256, (0, None), id="odd length, period 8"),
    pytest.param(1001, ReceptiveField(5, 7), 100, (0, None), id="period 7"),
    pytest.param(900, ReceptiveField(32, 16, 16), 1, (0, None), id="mixed, a tile too small"),
    pytest.param(
        900, ReceptiveField(32, 1, 16, 300), 64, (0, None), id="mixed, a network that takes 300 or more"
    ),
    pytest.param(900, ReceptiveField(40), 128, (0, 37), id="a first part shorter than the margin"),
    pytest.param(900, ReceptiveField(40), 128, (870, 900), id="a last part shorter than the margin"),
    pytest.param(900, ReceptiveField(40, 4), 128, (301, 302), id="a part of one pixel"),
    pytest.param(60, ReceptiveField(40), 16, (0, None), id="two margins longer than the picture"),
]


def random_cell(random):
    length = random.choice([random.randint(1, 40), random.randint(1, 400), random.randint(1, 5000)])
    margin = random.choice([0, random.randint(0, 8), random.randint(0, 64), random.randint(0, 350)])
    blend = random.choice([0, random.randint(0, margin)])
    field = ReceptiveField(
        margin, random.choice([1, 1, 2, 3, 7, 8, 16, 20]), blend, random.choice([1, 1, 16, 64])
    )
    low = random.choice([0, random.randrange(length)])
    high = random.choice([length, random.randint(low + 1, length)])
    return length, field, random.choice([1, 64, random.randint(1, 1100)]), (low, high)


def random_cells(count, seed):
    random = Random(seed)
    return [random_cell(random) for _ in range(count)]


def assert_lawful(length, field, tile, part):
    low, high = part[0], length if part[1] is None else part[1]
    spans = cut_axis(length, field, tile, *part)
    assert (spans[0].low, spans[-1].high) == (low, high)
    assert all(before.high == after.low for before, after in pairwise(spans))
    assert all(span.low < span.high for span in spans)
    for span in spans:
        assert span.start % field.period == 0
        assert 0 <= span.start <= max(0, span.low - field.margin)
        assert min(length, span.high + field.margin) <= span.start + span.size <= length
        assert span.size == spans[0].size
        assert min(field.minimum, length) <= span.size <= max(tile, field.smallest_tile)


@pytest.mark.parametrize(("length", "field", "tile", "part"), TABLE)
def test_an_axis_is_cut_by_the_laws(length, field, tile, part):
    assert_lawful(length, field, tile, part)


def test_random_axes_and_parts_are_cut_by_the_laws():
    for cell in random_cells(1000, seed=1):
        assert_lawful(*cell)


def fewest(length, margin, largest):
    """Return how many tiles of at most `largest` are needed if each takes all that it
    can, from the start on.
    """
    count, at = 0, 0
    while at < length:
        end = max(0, at - margin) + largest
        at = length if end >= length else end - margin
        count += 1
    return count


def test_no_other_cut_needs_fewer_tiles():
    several = 0
    for length, field, tile, _ in random_cells(1500, seed=2):
        largest, rounding = max(tile, field.smallest_tile), 2 * (field.period - 1)
        count = len(cut_axis(length, field, tile))
        # To a period an even cut loses no more than what rounding both ends of a tile to it takes.
        assert fewest(length, field.margin, largest) <= count
        assert count <= fewest(length, field.margin, largest - rounding)
        several += count > 1
    assert several > 500


def test_outer_cores_are_longer_by_the_margin_that_they_do_not_need():
    first, *inner, last = cut_axis(2000, ReceptiveField(30), 500)
    cores = {span.high - span.low for span in inner}
    assert cores == {388}
    assert (first.high - first.low, last.high - last.low) == (418, 418)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 700), (333, 1000), (2048, 1536)])
def test_transposing_the_picture_transposes_the_tiles(height, width):
    field = ReceptiveField(18, 4)
    plan, transposed = plan_tiles(height, width, field, 256), plan_tiles(width, height, field, 256)
    assert (plan.rows, plan.columns) == (transposed.columns, transposed.rows)
    assert plan.tile_size == transposed.tile_size[::-1]
    assert plan.redundancy == transposed.redundancy
    assert plan.tiles == [(row, column) for column, row in sorted(transposed.tiles, key=lambda it: it[1].low)]


def split_again_and_again(random, height, width, field, tile):
    """Return the cores' pixels and the tiles that are left when tiles are split by chance,
    down to the smallest.
    """
    plan = plan_tiles(height, width, field, tile)
    tiles = plan.tiles
    for _ in range(3):
        at = random.randrange(len(tiles))
        tile = random.randint(1, tile)
        tiles[at : at + 1] = split_tile(plan, *tiles[at], field, tile).tiles
    return tiles


def test_pieces_answer_for_what_their_tile_did():
    random = Random(3)
    for _ in range(100):
        height, width = random.randint(1, 300), random.randint(1, 300)
        field = random_cell(random)[1]
        answered = [[0] * width for _ in range(height)]
        for row, column in split_again_and_again(random, height, width, field, random.randint(1, 300)):
            for line in answered[row.low : row.high]:
                line[column.low : column.high] = [n + 1 for n in line[column.low : column.high]]
        assert all(number == 1 for line in answered for number in line)


def test_no_two_mixed_zones_meet():
    random, borders = Random(4), 0
    for _ in range(300):
        margin = random.randint(1, 64)
        field = ReceptiveField(margin, random.choice([1, 2, 8, 16]), random.randint(1, margin))
        size = random.randint(1, 1500), random.randint(1, 1500)
        for tile in split_again_and_again(random, *size, field, random.randint(1, 600)):
            for span, length in zip(tile, size, strict=True):
                zones = bool(span.low) + (span.high < length)
                assert span.high - span.low >= 2 * field.blend * bool(zones)
                borders += zones
    assert borders > 2000


def test_redundancy_is_pixels_read_by_pixels_answered_for():
    field = ReceptiveField(9, 4)
    for plan in (
        plan_tiles(301, 200, field, 96),
        split_tile(plan_tiles(301, 200, field, 96), *plan_tiles(301, 200, field, 96).tiles[3], field, 40),
    ):
        read = sum(row.size * column.size for row, column in plan.tiles)
        answered = sum((row.high - row.low) * (column.high - column.low) for row, column in plan.tiles)
        assert plan.redundancy == read / answered
        assert plan.redundancy > 1.1


def test_one_tile_wastes_nothing():
    assert plan_tiles(333, 200, ReceptiveField(18, 4), 512).redundancy == 1


# Bytes for a pixel as Compact of 64 features at scale 4 needs them: two layers of features, or 48 channels twice.
COMPACT = MemoryEstimate(peak=2 * 64 * 4)


@pytest.mark.parametrize("margin", [18, 22])
def test_little_is_read_twice_in_a_picture_of_2048_on_a_gpu(margin):
    plan = choose_plan(2048, 2048, lambda: ReceptiveField(margin), COMPACT, 2**30, on_cpu=False)
    assert len(plan.tiles) > 1
    assert plan.redundancy <= 1.05


def test_no_cell_reads_more_than_its_margins():
    """In the plane a tile of side T costs (T / (T - 2 margin))**2;
    ends and even sizes make it less, never more.
    """
    for margin in (4, 18, 22, 34):
        for side in (512, 1024, 2048, 3000):
            for tile in (256, 512, 1024):
                plan = plan_tiles(side, side, ReceptiveField(margin), tile)
                size = plan.tile_size[0]
                assert plan.redundancy <= (size / (size - 2 * margin - 1)) ** 2  # 1: cores are whole pixels
                assert size <= tile
                assert len(plan.rows) >= math.ceil((side - 2 * margin) / (tile - 2 * margin))
