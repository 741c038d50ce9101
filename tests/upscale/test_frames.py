"""Unchanged tiles are taken from the frame before: the same pictures, less work."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
import torch
from megapixel.upscale.frames import CELL, SMALLEST_CALL, FrameUpscaler, plan_grid, receptive_field_in_pixels
from megapixel.upscale.network import Network
from megapixel.upscale.placement import Line, Placement
from megapixel.upscale.tiles import ReceptiveField, plan_tiles

from devhost.tiny.random_upscalers import random_upscaler

CPU = torch.device("cpu")
HEIGHT, WIDTH = 150, 180


def load(descriptor, device):
    descriptor.model.to(device)


class Run:
    """Enlarges whole pictures, and counts the pixels that go through the network."""

    def __init__(self, descriptor):
        self.descriptor, self.pixels, self.calls = descriptor, 0, 0

    def __call__(self, pictures, size):
        self.pixels += pictures.shape[0] * pictures.shape[-2] * pictures.shape[-1]
        self.calls += 1
        enlarged = self.descriptor(pictures.clone())
        if size and tuple(enlarged.shape[-2:]) != tuple(size):
            height, width = pictures.shape[-2:]
            plan = plan_tiles(height, width, ReceptiveField(), max(height, width))  # one tile
            lines = [
                Line(length, self.descriptor.scale, to)
                for length, to in zip(pictures.shape[-2:], size, strict=True)
            ]
            return Placement(*lines).fit(enlarged, *plan.tiles[0])
        return enlarged


def grid_for(descriptor, size):
    return plan_grid(Network(descriptor, [CPU], load), HEIGHT, WIDTH, size)


@pytest.fixture
def network(compact):
    return compact(scale=4)


SIZES = {"own scale": (4 * HEIGHT, 4 * WIDTH), "half": (2 * HEIGHT, 2 * WIDTH), "odd": (211, 353)}


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
def test_results_are_those_of_whole_frames(network, picture, size):
    run = Run(network)
    upscaler = FrameUpscaler(run, size, grid_for(network, size))
    still = picture(3, HEIGHT, WIDTH)
    frames = [still]
    for top, left in ((0, 0), (70, 90), (140, 170), (63, 64), (63, 64)):
        frames.append(frames[-1].clone())
        frames[-1][:, top : top + 9, left : left + 9] = picture(3, 9, 9, seed=top + 1)[
            :, : HEIGHT - top, : WIDTH - left
        ]
    results = [upscaler([frame], [False])[0] for frame in frames]
    whole = Run(network)
    for frame, result in zip(frames, results, strict=True):
        assert result.picture.shape == (3, *size)
        expected = whole(frame[None], size)[0]
        # Resampling to sizes without a common factor is a product of matrices, which rounds by its shape.
        tolerance = 1e-6 if size == SIZES["odd"] else 0
        assert (result.picture - expected).abs().max() <= tolerance
    assert all(0 < result.computed < 0.6 for result in results[1:5])
    assert run.pixels < 0.7 * whole.pixels


def test_a_frame_that_did_not_change_is_the_same_tensor(network, picture):
    upscaler = FrameUpscaler(Run(network), SIZES["half"], grid_for(network, SIZES["half"]))
    frame = picture(3, HEIGHT, WIDTH)
    first, second, third = upscaler([frame, frame.clone(), frame.clone()], [True, False, False])
    assert second.picture is first.picture
    assert third.picture is first.picture
    assert (first.computed, second.computed) == (1.0, 0.0)


def test_earlier_results_are_not_written_into(network, picture):
    upscaler = FrameUpscaler(Run(network), SIZES["half"], grid_for(network, SIZES["half"]))
    frame = picture(3, HEIGHT, WIDTH)
    [first] = upscaler([frame], [True])
    before = first.picture.clone()
    changed = frame.clone()
    changed[:, 5, 5] = 0.9
    [second] = upscaler([changed], [False])
    assert 0 < second.computed < 1
    assert torch.equal(first.picture, before)


def test_one_changed_pixel_is_one_tile_that_ends_where_the_network_does_not_see_it(network, picture):
    size = SIZES["own scale"]
    grid = grid_for(network, size)
    upscaler = FrameUpscaler(Run(network), size, grid)
    frame = picture(3, HEIGHT, WIDTH)
    upscaler([frame], [True])
    for row, column in ((0, 0), (75, 80), (149, 179)):
        changed = frame.clone()
        changed[:, row, column] = 0.95
        [result] = upscaler([changed], [False])
        side = 1 + 4 * grid.field.margin + 2 * CELL  # what sees the pixel, and what that sees
        assert 0 < result.computed <= max(side**2, 1.05 * SMALLEST_CALL / 3) / (HEIGHT * WIDTH)
        assert torch.equal(result.picture, Run(network)(changed[None], size)[0])
        upscaler([frame], [True])


@pytest.mark.parametrize("one_shape", [False, True], ids=["joined", "one shape"])
def test_tiles_hold_all_that_sees_a_change_and_all_that_this_sees(one_shape):
    draw, tried = random.Random(0), 0
    for _ in range(60):
        height, width, changes = draw.randint(1, 300), draw.randint(1, 300), draw.randint(0, 12)
        field = ReceptiveField(draw.randint(0, 40), draw.choice([1, 2, 8]), 0, draw.choice([1, 16]))
        stage = SimpleNamespace(receptive_field=lambda field=field: field)
        network = SimpleNamespace(stages=[stage], shuffle=1, scale=4, channels=3, tiles_itself=False)
        size = draw.choice([(4 * height, 4 * width), (2 * height, 3 * width)])
        if grid := plan_grid(network, height, width, size, one_shape):
            places = [(draw.randrange(height), draw.randrange(width)) for _ in range(changes)]
            check_tiles(grid, height, width, places)
            tried += 1
    assert tried > 20


def check_tiles(grid, height, width, places):
    """Assert the laws of the tiles where the pixels at `places` have changed."""
    differs = torch.zeros(height, width, dtype=torch.bool)
    expected = torch.zeros(height, width, dtype=torch.bool)
    margin = grid.field.margin
    for row, column in places:
        differs[row, column] = True
        expected[max(0, row - margin) : row + margin + 1, max(0, column - margin) : column + margin + 1] = (
            True
        )
    written = torch.zeros(height, width, dtype=torch.bool)
    tiles = grid.tiles(differs)
    for tile in tiles:
        for span, length in zip(tile, (height, width), strict=True):
            assert span.start % grid.field.period == 0
            assert span.size >= min(grid.field.minimum, length)
            assert span.start <= max(0, span.low - margin)
            assert span.start + span.size >= min(length, span.high + margin)
            assert span.start + span.size <= length
        row, column = tile
        assert 3 * row.size * column.size > SMALLEST_CALL
        written[row.low : row.high, column.low : column.high] = True
    assert bool((written | ~expected).all())
    assert bool(tiles) == bool(places)
    if not grid.joins:
        assert len({(row.size, column.size) for row, column in tiles}) <= 1


def test_neighbouring_changes_are_one_tile_and_distant_ones_are_several(network):
    grid = grid_for(network, SIZES["half"])
    differs = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    differs[0:40, 0:40] = True
    [together] = grid.tiles(differs)
    assert together[0].high <= 40 + grid.field.margin + CELL
    differs[149, 179] = True
    assert len(grid.tiles(differs)) == 2


def test_tiles_of_all_frames_of_one_shape_go_together(network, picture):
    run = Run(network)
    upscaler = FrameUpscaler(run, SIZES["half"], grid_for(network, SIZES["half"]))
    frames = [picture(3, HEIGHT, WIDTH)]
    for value in (0.1, 0.2, 0.3):
        frames.append(frames[-1].clone())
        frames[-1][:, 75, 90] = value
    upscaler(frames, [True, False, False, False])
    assert run.calls == 2


def test_a_frame_that_changed_all_over_goes_through_whole(network, picture):
    run = Run(network)
    upscaler = FrameUpscaler(run, SIZES["half"], grid_for(network, SIZES["half"]))
    frames = [picture(3, HEIGHT, WIDTH, seed=seed) for seed in range(3)]
    results = upscaler(frames, [True, False, False])
    assert run.calls == 1
    assert all(result.computed == 1 for result in results)
    expected = Run(network)(torch.stack(frames), SIZES["half"])
    assert torch.equal(torch.stack([result.picture for result in results]), expected)


def test_frames_together_are_frames_one_by_one(network, picture):
    frames = [picture(3, HEIGHT, WIDTH)]
    for at in (10, 50, 100):
        frames.append(frames[-1].clone())
        frames[-1][:, at, at] = 0.9
    frames.insert(2, picture(3, HEIGHT, WIDTH, seed=5))
    together, alone = (
        FrameUpscaler(Run(network), SIZES["half"], grid_for(network, SIZES["half"])) for _ in range(2)
    )
    one = [result.picture for result in together(frames, [True, *[False] * 4])]
    other = [alone([frame], [index == 0])[0].picture for index, frame in enumerate(frames)]
    for left, right in zip(one, other, strict=True):
        assert torch.equal(left, right)


def test_fresh_frames_do_not_depend_on_those_before(network, picture):
    frame = picture(3, HEIGHT, WIDTH)
    upscaler = FrameUpscaler(Run(network), SIZES["half"], grid_for(network, SIZES["half"]))
    upscaler([picture(3, HEIGHT, WIDTH, seed=9)], [True])
    [result] = upscaler([frame], [True])
    assert torch.equal(result.picture, Run(network)(frame[None], SIZES["half"])[0])


def test_a_threshold_skips_small_changes_and_does_not_drift(network, picture):
    size, threshold = SIZES["half"], 3 / 255
    upscaler = FrameUpscaler(Run(network), size, grid_for(network, size), threshold)
    frame = picture(3, HEIGHT, WIDTH)
    upscaler([frame], [True])
    computed = []
    for step in range(1, 9):
        darker = frame.clone()
        darker[:, 20:24, 20:24] -= step / 255
        [result] = upscaler([darker], [False])
        computed.append(result.computed > 0)
        # What is shown is never older than the threshold allows.
        assert (result.picture - Run(network)(darker[None], size)[0]).abs().max() < 0.1
    # Compared with what was computed, not with the frame before: 4 and 8 steps are more than 3.
    assert computed == [False, False, False, True, False, False, False, True]


@pytest.mark.parametrize(
    ("blend", "tiles_itself", "margin"), [(32, False, 8), (0, True, 8), (0, False, 200)],
    ids=["looks at the whole picture", "cuts it by itself", "looks further than the picture"],
)  # fmt: skip
def test_networks_without_tiles(blend, tiles_itself, margin):
    stage = SimpleNamespace(receptive_field=lambda: ReceptiveField(margin, 1, blend))
    network = SimpleNamespace(stages=[stage], shuffle=1, scale=4, channels=3, tiles_itself=tiles_itself)
    assert plan_grid(network, HEIGHT, WIDTH, SIZES["half"]) is None


def test_without_tiles_only_a_frame_without_a_change_is_skipped(network, picture):
    upscaler = FrameUpscaler(Run(network), SIZES["half"], None)
    frame = picture(3, HEIGHT, WIDTH)
    changed = frame.clone()
    changed[:, 0, 0] = 0
    shares = [upscaler([one], [False])[0].computed for one in (frame, frame, changed, changed)]
    assert shares == [1, 0, 1, 0]


def test_a_network_of_two_parts_is_one_to_a_tile():
    descriptor = random_upscaler("ESRGAN 32x2 2x")
    network = Network(descriptor, [CPU], load)
    field = receptive_field_in_pixels(network)
    frame = 0.25 + 0.5 * torch.rand(1, 3, 160, 160, generator=torch.Generator().manual_seed(3))
    start = field.margin // field.period * field.period + field.period
    with torch.inference_mode():
        whole = descriptor(frame)
        part = descriptor(frame[..., start - field.margin // field.period * field.period - field.period :, :])
    cut = descriptor.scale * (start + field.period)
    assert torch.allclose(
        whole[..., cut:, :], part[..., part.shape[-2] - (whole.shape[-2] - cut) :, :], atol=2e-6
    )
    assert field.margin < 160
