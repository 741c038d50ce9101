"""Windowed attention against dense attention with an explicit mask, which is written out place by place."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cache
from itertools import pairwise, product

import pytest
import torch
import torch.nn.functional as F
from megapixel.attention.windows import (
    WindowGrid,
    merge_windows,
    native_count,
    partition_windows,
    window_indices,
)

SIDES = range(4, 97)
# A size is cut along each side by itself: every side as height and as width, and all pairs of small ones.
SIZES = [*product(range(4, 17), repeat=2), *((side, 4 + 37 * side % len(SIDES)) for side in SIDES)]
TOLERANCE = 1e-5
OTHER_COUNTS = [(1, 1), (1, 2), (3, 1), (3, 4), (4, 4), (5, 2)]


@cache
def windows_along(length, count, quarter):
    """For one side: which places lie in each window (count, length),
    and which window owns each place (length,).
    """
    window = math.ceil(Fraction(length, count))
    shift = quarter * (window // 4)
    # Spread evenly from one end to the other, in whole places.
    begins = [math.floor(Fraction(n * (length - window), max(count - 1, 1))) for n in range(count)]
    inside = torch.zeros(count, length, dtype=torch.bool)
    owner = torch.zeros(length, dtype=torch.long)
    for place in range(length):
        moved = (place - shift) % length
        for number, begin in enumerate(begins):
            inside[number, place] = begin <= moved < begin + window
        distances = [abs(moved - (begin + Fraction(window - 1, 2))) for begin in begins]
        owner[place] = distances.index(min(distances))  # of two alike, the first
    return inside, owner


def tokens_inside(size, count, quarter):
    """Return (windows, tokens): which tokens lie in each window."""
    (rows, _), (columns, _) = (windows_along(*side, quarter) for side in zip(size, count, strict=True))
    return (rows[:, None, :, None] & columns[None, :, None, :]).reshape(count[0] * count[1], -1)


def token_owners(size, count, quarter):
    """Return (tokens,): the window whose result each token takes."""
    (_, rows), (_, columns) = (windows_along(*side, quarter) for side in zip(size, count, strict=True))
    return (rows[:, None] * count[1] + columns[None]).flatten()


def masked_attention(q, k, v, seen):
    """softmax(q k^T / sqrt(D)) v where a query sees a key; `seen` is (queries, keys)."""
    scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
    return scores.masked_fill(~seen, -math.inf).softmax(-1) @ v


def dense_result(q, k, v, size, count, quarter):
    seen = tokens_inside(size, count, quarter)[token_owners(size, count, quarter)]
    return masked_attention(q, k, v, seen)


def windowed_result(q, k, v, size, count, quarter):
    source, position = window_indices(WindowGrid(size, count), quarter)
    number = count[0] * count[1]
    parts = (partition_windows(tokens, source, number) for tokens in (q, k, v))
    return merge_windows(F.scaled_dot_product_attention(*parts), position, number)


def qkv(draw, size, batch=2, width=4):
    """Return queries, keys and values (batch, tokens, width) that make attention sharp."""
    drawn = draw(3, batch, size[0] * size[1], width, seed=size[0] * 1000 + size[1])
    return (6 * drawn - 3).unbind()


def assert_close(result, expected):
    torch.testing.assert_close(result, expected, rtol=0, atol=TOLERANCE)


def check_structure(size, count, quarter):
    source, position = window_indices(WindowGrid(size, count), quarter)
    inside = tokens_inside(size, count, quarter)
    windows, tokens = inside.shape
    source = source.reshape(windows, -1)
    # As many as the window has places, each in it once: all are distinct.
    found = torch.zeros(windows, tokens, dtype=torch.bool).scatter_(1, source, True)
    assert torch.equal(found, inside)
    assert found.sum().item() == source.numel()
    assert torch.equal(position // source.shape[1], token_owners(size, count, quarter))
    assert torch.equal(source.flatten()[position], torch.arange(tokens))


@pytest.mark.slow
@pytest.mark.parametrize("quarter", range(4))
def test_windows_hold_and_own_the_right_tokens_at_every_size(quarter):
    for size in SIZES:
        check_structure(size, (2, 2), quarter)


@pytest.mark.parametrize("count", OTHER_COUNTS)
def test_other_counts_hold_and_own_the_right_tokens(count):
    for size in product(range(5, 96, 3), range(5, 90, 7)):
        for quarter in range(4):
            check_structure(size, count, quarter)


def test_as_many_windows_as_tokens_are_windows_of_one():
    for size in ((4, 6), (7, 5), (1, 9)):
        source, position = window_indices(WindowGrid(size, size), 3)
        assert torch.equal(source, torch.arange(size[0] * size[1]))
        assert torch.equal(position, source)


@pytest.mark.parametrize("quarter", range(4))
def test_equals_dense_attention_for_every_token_of_small_grids(draw, quarter):
    for size in product(range(4, 25), range(4, 25, 3)):
        q, k, v = qkv(draw, size)
        expected = dense_result(q, k, v, size, (2, 2), quarter)
        assert_close(windowed_result(q, k, v, size, (2, 2), quarter), expected)


@pytest.mark.slow
def test_equals_dense_attention_for_some_tokens_of_every_grid(draw):
    """Six queries a window stand for all: the mask of 96 x 96 tokens alone would have 85 million entries."""
    pool = draw(3, 2, 96 * 96, 4)
    for size in SIZES:
        quarter = (size[0] + size[1] // 2) % 4
        q, k, v = (6 * pool[:, :, : size[0] * size[1]] - 3).unbind()
        source, position = window_indices(WindowGrid(size), quarter)
        q_parts, k_parts, v_parts = (partition_windows(tokens, source, 4) for tokens in (q, k, v))
        some = torch.linspace(0, q_parts.shape[1] - 1, 6).long()
        results = torch.full_like(q_parts, math.nan)
        results[:, some] = F.scaled_dot_product_attention(q_parts[:, some], k_parts, v_parts)
        merged = merge_windows(results, position, 4)
        [asked] = torch.where(~merged[0, :, 0].isnan())
        assert len(asked) >= 12  # a place that two windows share is taken from one
        seen = tokens_inside(size, (2, 2), quarter)[token_owners(size, (2, 2), quarter)[asked]]
        assert_close(merged[:, asked], masked_attention(q[:, asked], k, v, seen))


@pytest.mark.parametrize("count", OTHER_COUNTS)
def test_other_counts_equal_dense_attention(draw, count):
    for size in ((5, 7), (8, 12), (13, 9), (16, 16), (17, 30), (22, 13)):
        q, k, v = qkv(draw, size)
        for quarter in range(4):
            expected = dense_result(q, k, v, size, count, quarter)
            assert_close(windowed_result(q, k, v, size, count, quarter), expected)


@pytest.mark.parametrize("size", [(8, 14), (15, 9), (24, 17), (30, 22), (32, 32), (9, 40)])
def test_windows_of_the_trained_size_equal_dense_attention(draw, size):
    count = native_count(size, (8, 8))
    assert max(count) > 1
    q, k, v = qkv(draw, size)
    for quarter in range(4):
        expected = dense_result(q, k, v, size, count, quarter)
        assert_close(windowed_result(q, k, v, size, count, quarter), expected)


def test_one_window_is_the_whole_attention(draw):
    q, k, v = qkv(draw, (9, 14))
    for quarter in range(4):
        whole = F.scaled_dot_product_attention(q, k, v)
        assert_close(windowed_result(q, k, v, (9, 14), (1, 1), quarter), whole)


def test_merging_is_the_inverse_of_partitioning_bit_for_bit(draw):
    pool = draw(2, 96 * 96, 3)
    for size in SIZES:
        tokens = pool[:, : size[0] * size[1]]
        source, position = window_indices(WindowGrid(size), (size[0] + size[1]) % 4)
        parts = partition_windows(tokens, source, 4)
        assert parts.shape == (8, math.ceil(size[0] / 2) * math.ceil(size[1] / 2), 3)
        assert torch.equal(merge_windows(parts, position, 4), tokens)


def published_partition(grid, quarter):
    """(B, H, W, D) -> (4B, N / 4, D) for even H and W: roll, then cut in half along both sides."""
    batch, height, width, depth = grid.shape
    window_height, window_width = height // 2, width // 2
    shift = -quarter * (window_height // 4), -quarter * (window_width // 4)
    rolled = torch.roll(grid, shift, (1, 2))
    cut = rolled.view(batch, 2, window_height, 2, window_width, depth).permute(0, 1, 3, 2, 4, 5)
    return cut.reshape(batch * 4, window_height * window_width, depth)


def published_reverse(windows, size, quarter):
    """The inverse of `published_partition`."""
    height, width = size
    cut = windows.view(-1, 2, 2, height // 2, width // 2, windows.shape[-1]).permute(0, 1, 3, 2, 4, 5)
    shift = quarter * (height // 2 // 4), quarter * (width // 2 // 4)
    return torch.roll(cut.reshape(-1, height, width, windows.shape[-1]), shift, (1, 2)).flatten(1, 2)


@pytest.mark.slow
@pytest.mark.parametrize("quarter", range(4))
def test_even_sizes_are_cut_as_published_bit_for_bit(draw, quarter):
    pool = draw(2, 96 * 96, 1)
    for size in product(range(4, 97, 2), range(4, 97, 6)):
        tokens = pool[:, : size[0] * size[1]]
        source, position = window_indices(WindowGrid(size), quarter)
        parts = partition_windows(tokens, source, 4)
        assert torch.equal(parts, published_partition(tokens.unflatten(1, size), quarter))
        changed = parts.cumsum(1)
        assert torch.equal(merge_windows(changed, position, 4), published_reverse(changed, size, quarter))


@pytest.mark.parametrize("count", [(2, 2), (1, 3), (4, 3)])
def test_transposing_the_grid_transposes_the_result(draw, count):
    for size in ((8, 12), (9, 14), (11, 7), (13, 13), (16, 27), (31, 10)):
        transposed = [tokens.unflatten(1, size).transpose(1, 2).flatten(1, 2) for tokens in qkv(draw, size)]
        for quarter in range(4):
            result = windowed_result(*qkv(draw, size), size, count, quarter).unflatten(1, size)
            other = windowed_result(*transposed, size[::-1], count[::-1], quarter).unflatten(1, size[::-1])
            assert_close(other.transpose(1, 2), result)


@pytest.mark.parametrize("count", [(2, 2), (3, 4)])
def test_a_quarter_as_a_tensor_gives_the_same_indices(count):
    for size in product(range(4, 97, 7), range(5, 97, 6)):
        for quarter in range(4):
            as_number = window_indices(WindowGrid(size, count), quarter)
            as_tensor = window_indices(WindowGrid(size, count), torch.tensor(quarter))
            assert all(torch.equal(*pair) for pair in zip(as_number, as_tensor, strict=True))


def test_every_quarter_moves_the_windows():
    for size in ((8, 8), (16, 9), (31, 50), (96, 13)):
        places = {tuple(window_indices(WindowGrid(size), quarter)[0].tolist()) for quarter in range(4)}
        assert len(places) == 4


@pytest.mark.parametrize(
    ("size", "count"),
    [((4, 6), (5, 2)), ((4, 6), (2, 7)), ((4, 6), (0, 2)), ((1, 6), (2, 2)), ((4, 6), (2, -1))],
)
def test_a_count_that_does_not_fit_is_a_sentence(size, count):
    with pytest.raises(
        ValueError, match=r"^count: expected 1 to \(\d, \d\) windows along height and width, got "
    ):
        WindowGrid(size, count)


def test_a_window_is_a_side_over_its_count_rounded_up():
    assert WindowGrid((9, 14)).window == (5, 7)
    assert WindowGrid((9, 14), (4, 1)).window == (3, 14)
    assert WindowGrid((9, 14), (9, 14)).window == (1, 1)


class TestNativeCount:
    @pytest.mark.parametrize("trained", [(64, 64), (96, 96), (32, 24), (15, 21), (1, 1)])
    def test_the_trained_size_is_one_window_and_n_times_it_n_by_n(self, trained):
        for n in range(1, 9):
            assert native_count((n * trained[0], n * trained[1]), trained) == (n, n)

    def test_larger_grids_never_have_fewer_windows(self):
        for trained in (8, 13, 64):
            counts = [native_count((side, 4 * side), (trained, trained)) for side in range(1, 400)]
            for one, next_one in pairwise(counts):
                assert one[0] <= next_one[0]
                assert one[1] <= next_one[1]

    def test_transposing_the_size_transposes_the_count(self):
        for size in product(range(1, 60, 3), range(2, 200, 7)):
            assert native_count(size[::-1], (5, 16)[::-1]) == native_count(size, (5, 16))[::-1]

    def test_it_always_fits_the_grid(self):
        for size in product(range(1, 40), range(1, 40)):
            for trained in ((1, 1), (2, 3), (8, 8), (64, 64)):
                WindowGrid(size, native_count(size, trained))  # refuses what does not fit

    @pytest.mark.parametrize("trained", [8, 16, 64])
    def test_a_windows_side_is_at_least_seven_eighths_of_the_trained_one_and_less_than_twice(self, trained):
        for side in range(trained, 10 * trained):
            rows, columns = native_count((side, trained), (trained, trained))
            assert Fraction(7, 8) <= Fraction(side, rows * trained) < Fraction(7, 4)
            assert columns == 1
        edge = 2 * trained * 7 // 8
        assert native_count((edge - 1, edge), (trained, trained)) == (1, 2)


def test_compiled_it_is_traced_once_and_once_more_for_all_other_sizes():
    """What traces it takes sizes for symbols after the second one; it must not be told any of them."""
    graphs = []

    def count(module, inputs):
        graphs.append(module)
        return module.forward

    def moved_through_windows(tokens, size, quarter):
        source, position = window_indices(WindowGrid(size), quarter)
        windows = partition_windows(tokens, source, 4)
        return merge_windows(windows + windows.mean(1, keepdim=True), position, 4)

    torch._dynamo.reset()
    compiled = torch.compile(moved_through_windows, backend=count, fullgraph=True)
    for run in range(2):
        for size in ((10, 13), (9, 11), (12, 8), (11, 9), (14, 15)):
            tokens = torch.arange(size[0] * size[1] * 2.0).reshape(1, -1, 2)
            quarter = torch.tensor(run + 1)
            assert torch.equal(compiled(tokens, size, quarter), moved_through_windows(tokens, size, quarter))
    torch._dynamo.reset()
    assert len(graphs) == 2
