"""The loop: equal to one call on the whole, on any number of workers, and with any memory."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from random import Random
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from megapixel.upscale import enlarge as loop, placement as placement_module
from megapixel.upscale.enlarge import NotANumber, OutOfMemory, Tile, enlarge
from megapixel.upscale.memory import MemoryEstimate
from megapixel.upscale.placement import Line, Placement
from megapixel.upscale.stage import Stage, Worker
from megapixel.upscale.tiles import ReceptiveField, plan_tiles
from megapixel.upscale.transfer import wait_for

CPU = torch.device("cpu")
ESTIMATE = MemoryEstimate(1000.0)  # bytes for a pixel; any will do where nothing is really out of memory


@pytest.fixture(autouse=True, params=[False, True], ids=["call by call", "one call ahead"])
def order(request, monkeypatch):
    """Every law holds in both orders: as on the CPU, and as on a GPU,
    whose calls return before they are done.
    """
    monkeypatch.setattr(Worker, "runs_ahead", request.param)


@pytest.fixture(autouse=True)
def inference():
    """As the host runs nodes."""
    with torch.inference_mode():
        yield


def stage_of(runs, scale, field, **worker):
    return Stage([Worker(run, CPU, **worker) for run in runs], scale, ESTIMATE, lambda: field)


class Told(NamedTuple):
    """What a report is given."""

    tile: Tile
    written: torch.Tensor
    done: int
    left: int


def run_tiled(pictures, stage, tile, size=None, **options):
    """Enlarge with tiles of `tile` as the pack does it: nothing is mixed,
    and no receptive field asked for, where one will do.
    """
    height, width = pictures.shape[-2:]
    rows, columns = (
        Line(side, stage.scale, target)
        for side, target in zip(
            (height, width), size or (height * stage.scale, width * stage.scale), strict=True
        )
    )
    single = tile >= max(height, width)
    plan = plan_tiles(height, width, ReceptiveField() if single else stage.receptive_field(), tile)
    placement = Placement(rows, columns)
    if len(plan.tiles) > 1:
        placement = placement.with_blend(stage.receptive_field().blend)
    if report := options.pop("report", None):
        options["report"] = lambda *told: report(Told(*told))
    return enlarge(pictures, stage, plan, placement, **options)


def finish(work, seconds=20):
    """Run `work` in a thread and return its result or error;
    a loop that hangs fails the test instead of all tests.
    """
    ended = []

    def run():
        try:
            with torch.inference_mode():
                ended.append(work())
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert ended, "the loop hangs"
    return ended[0]


def same(tiles):
    return tiles.clone()


def halved(tiles):
    """A network without a receptive field beyond the pixel at scale 2."""
    return (tiles * 0.5 + 0.1).repeat_interleave(2, -2).repeat_interleave(2, -1)


def blurred(tiles):
    """A network with a receptive field of 2 pixels at scale 1."""
    return F.avg_pool2d(tiles, 5, 1, 2, count_include_pad=False)


def windowed(tiles):
    """A network that looks at windows of 4 pixels a side: tiles must start where a window does."""
    means = F.avg_pool2d(tiles, 4, ceil_mode=True, count_include_pad=False)
    means = means.repeat_interleave(4, -2).repeat_interleave(4, -1)
    return means[..., : tiles.shape[-2], : tiles.shape[-1]] * tiles


@pytest.fixture(scope="module")
def small(compact):
    """Compact of 4 convolutions and 16 features, which looks 4 pixels far."""
    return compact(4)


# Equality


@pytest.mark.parametrize(("height", "width"), [(61, 90), (97, 40), (7, 130)])
@pytest.mark.parametrize("batch_pixels", [0, 3 * 48 * 48])
def test_tiles_of_compact_equal_one_call(small, picture, height, width, batch_pixels):
    pictures = picture(2, 3, height, width)
    expected = small.model(pictures)
    assert 0 < float(expected.min()) < float(expected.max()) < 1
    assert float((expected - F.interpolate(pictures, scale_factor=4)).abs().max()) > 0.05
    reports = []
    result = run_tiled(
        pictures,
        stage_of([small], 4, ReceptiveField(4)),
        48,
        batch_pixels=batch_pixels,
        report=reports.append,
    )
    assert len(reports) > 2
    torch.testing.assert_close(result, expected, atol=1e-6, rtol=0)


def test_one_pixel_less_of_margin_is_seen(small, picture):
    pictures = picture(1, 3, 61, 90)
    short = run_tiled(pictures, stage_of([small], 4, ReceptiveField(3)), 48)
    assert float((short - small.model(pictures)).abs().max()) > 1e-5


def test_another_size_equals_the_whole_resampled(small, picture):
    pictures, size = picture(2, 3, 61, 90), (151, 200)
    whole = run_tiled(pictures, stage_of([small], 4, ReceptiveField(4)), 90, size)
    support = Line(61, 4, 151).support
    result = run_tiled(pictures, stage_of([small], 4, ReceptiveField(4 + support)), 48, size)
    assert result.shape == (2, 3, *size)
    torch.testing.assert_close(result, whole, atol=2e-6, rtol=0)


def test_one_call_has_no_more_pixels_than_it_may(small, picture):
    calls = []

    def run(tiles):
        calls.append(tuple(tiles.shape))
        return small(tiles)

    limit = 3 * 40 * 40
    run_tiled(picture(2, 3, 61, 90), stage_of([run], 4, ReceptiveField(4)), 40, batch_pixels=limit)
    assert max(shape[0] for shape in calls) >= 3
    assert all(shape[0] * shape[2] * shape[3] <= limit for shape in calls)
    assert len({shape[2:] for shape in calls}) == 1


@pytest.mark.parametrize("workers", [2, 3])
def test_several_workers_equal_one(small, picture, workers):
    pictures = picture(2, 3, 61, 90)
    served = Counter()

    def worker(number):
        def run(tiles):
            served[number] += len(tiles)
            time.sleep(0.002)  # so that every one gets its turn
            return small(tiles)

        return run

    one = run_tiled(pictures, stage_of([small], 4, ReceptiveField(4)), 40)
    before = threading.active_count()
    reports = []
    several = run_tiled(
        pictures,
        stage_of([worker(n) for n in range(workers)], 4, ReceptiveField(4)),
        40,
        report=reports.append,
    )
    assert threading.active_count() == before
    assert torch.equal(several, one)
    assert len(served) == workers
    assert sum(served.values()) == len(reports)
    assert [told.done for told in reports] == list(range(1, len(reports) + 1))
    assert reports[-1].left == 0


def test_tiles_are_mixed_where_the_reach_has_no_bound(picture):
    pictures = picture(2, 3, 150, 201)
    reports = []
    stage = stage_of([halved], 2, ReceptiveField(12, 1, 8))
    result = run_tiled(pictures, stage, 96, report=reports.append)
    assert len(reports) >= 8
    torch.testing.assert_close(result, halved(pictures), atol=1e-6, rtol=0)


def test_the_result_has_the_type_asked_for(small, picture):
    pictures = picture(1, 3, 31, 40)
    result = run_tiled(pictures, stage_of([small], 4, ReceptiveField(4)), 32, dtype=torch.float16)
    assert result.dtype == torch.float16
    torch.testing.assert_close(result.float(), small.model(pictures), atol=5e-4, rtol=0)


# What goes in and comes out


def in_place(tiles):
    """A network that writes into what it is given, wrapped as a loaded model is."""
    return tiles.clone().mul_(0.5).clamp_(0.2, 1)


@pytest.mark.parametrize("tile", [32, 90])
@pytest.mark.parametrize("size", [None, (70, 33)])
def test_the_input_is_never_changed(picture, tile, size):
    pictures = picture(1, 3, 61, 90)
    before = pictures.clone()
    for run in (in_place, lambda tiles: tiles):
        run_tiled(pictures, stage_of([run], 1, ReceptiveField(12, 1, 4)), tile, size)
        assert torch.equal(pictures, before)


def test_a_single_whole_tile_is_not_copied(picture):
    made = []

    def run(tiles):
        made.append(tiles.clone())
        return made[0]

    result = run_tiled(picture(1, 3, 61, 90), stage_of([run], 1, ReceptiveField()), 90)
    assert result.data_ptr() == made[0].data_ptr()


def test_every_report_says_what_was_written_and_what_is_left(small, picture):
    pictures = picture(2, 3, 61, 90)
    reports = []
    result = run_tiled(pictures, stage_of([small], 4, ReceptiveField(4)), 48, report=reports.append)
    count = len(reports)
    assert [(told.done, told.left) for told in reports] == [(n, count - n) for n in range(1, count + 1)]
    for told in reports:
        (top, bottom), (left, right) = (
            (4 * span.low, 4 * span.high) for span in (told.tile.row, told.tile.column)
        )
        assert torch.equal(told.written[0], result[told.tile.picture, :, top:bottom, left:right])


# Errors and interruptions


class Interrupted(Exception):
    """What a host raises to end the work."""


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_what_a_report_raises_ends_the_loop_at_once(picture, workers):
    calls = []

    def run(tiles):
        calls.append(1)
        time.sleep(0.02)
        return halved(tiles)

    def report(told):
        if told.done == 2:
            raise Interrupted

    before = threading.active_count()
    with pytest.raises(Interrupted):
        run_tiled(picture(1, 3, 300, 301), stage_of([run] * workers, 2, ReceptiveField(2)), 32, report=report)
    assert threading.active_count() == before
    assert len(calls) <= 2 + 2 * workers  # those under way, of more than 80


def test_a_worker_s_error_surfaces_and_the_threads_end(picture):
    def broken(tiles):
        raise ValueError("the weights are gone")

    before = threading.active_count()
    calls = []

    def slow(tiles):
        calls.append(1)
        time.sleep(0.02)
        return halved(tiles)

    with pytest.raises(ValueError, match="the weights are gone"):
        run_tiled(picture(1, 3, 300, 301), stage_of([slow, broken, slow], 2, ReceptiveField(2)), 32)
    assert threading.active_count() == before
    assert len(calls) <= 6


@pytest.mark.parametrize("ended_by", ["a worker's error", "a report"])
def test_a_call_that_runs_out_of_memory_after_the_end_does_not_start_again(picture, ended_by):
    """The loop has ended while another worker's call was under way, and that call fails then."""
    under_way, ending, late = threading.Event(), threading.Event(), []

    def first(tiles):
        under_way.wait(5)
        if ended_by == "a report":
            return halved(tiles)
        ending.set()
        raise Interrupted

    def second(tiles):
        late.append(tiles.shape)
        under_way.set()
        ending.wait()
        time.sleep(0.2)  # by then nothing is handed out any more
        raise torch.OutOfMemoryError("CUDA out of memory.")

    def report(told):
        ending.set()
        raise Interrupted

    stage = stage_of([first, second], 2, ReceptiveField(2))
    error = finish(lambda: run_tiled(picture(2, 3, 200, 201), stage, 201, report=report), 5)
    assert isinstance(error, Interrupted)
    assert len(late) == 1


# Numbers


def position(height, width):
    """Return pictures (2, 3, H, W) in [0, 1) that say in the first two channels where a
    pixel lies, by 256ths.
    """
    rows = torch.arange(height).view(1, 1, -1, 1).expand(2, 1, height, width)
    columns = torch.arange(width).view(1, 1, 1, -1).expand(2, 1, height, width)
    number = torch.tensor([64, 128]).view(2, 1, 1, 1).expand(2, 1, height, width)
    return torch.cat([rows, columns, number], dim=1) / 256


class SpoiledInHalf:
    """`halved`, which gives NaN in half precision at one pixel of the second picture."""

    def __init__(self, row, column, always=False):
        self.place, self.always = torch.tensor([row, column, 128]) / 256, always
        self.fallback_calls = []

    def __call__(self, tiles):
        enlarged = halved(tiles)
        there = (tiles == self.place.view(1, 3, 1, 1).to(tiles)).all(dim=1, keepdim=True)
        if tiles.dtype == torch.float32:
            self.fallback_calls.append(tuple(tiles.shape))
        if tiles.dtype != torch.float32 or self.always:
            enlarged = enlarged.masked_fill(halved(there.float()) > 0.5, torch.nan)
        return enlarged


def writes(tile, row, column, blend):
    """Tell whether a tile writes to a pixel of the picture, its mixed borders included."""
    return all(
        span.low - blend <= place < span.high + blend
        for span, place in ((tile.row, row), (tile.column, column))
    )


@pytest.mark.parametrize("field", [ReceptiveField(4), ReceptiveField(8, 1, 4)], ids=["cut", "mixed"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("tile", "workers"), [(48, 1), (48, 2), (200, 1)])
def test_tiles_without_numbers_are_computed_again_in_float32(field, dtype, tile, workers):
    pictures = position(100, 131)
    run = SpoiledInHalf(70, 33)
    reports = []
    stage = stage_of([run] * workers, 2, field, dtype=dtype, fp32_fallback=run)
    result = run_tiled(pictures, stage, tile, report=reports.append)
    assert not any(bool(told.written.isnan().any()) for told in reports)
    torch.testing.assert_close(result, halved(pictures), atol=4e-3, rtol=0)
    again = {id(told) for told in reports if told.written.dtype == torch.float32}
    assert again == {
        id(told) for told in reports if told.tile.picture == 1 and writes(told.tile, 70, 33, field.blend)
    }
    assert len(run.fallback_calls) == len(again) <= 2
    assert all(shape[0] == 1 for shape in run.fallback_calls)


@pytest.mark.parametrize("fp32_fallback", [False, True])
@pytest.mark.parametrize("workers", [1, 2])
def test_no_numbers_in_float32_either_is_an_error_message(fp32_fallback, workers):
    run = SpoiledInHalf(70, 33, always=True)
    half = {"dtype": torch.float16, "fp32_fallback": run} if fp32_fallback else {}
    reports, before = [], threading.active_count()
    with pytest.raises(
        NotANumber, match=r"^upscale_model: expected finite numbers for the tile at \("
    ) as raised:
        run_tiled(
            position(100, 131),
            stage_of([run] * workers, 2, ReceptiveField(4), **half),
            48,
            report=reports.append,
        )
    assert "\n" not in str(raised.value)
    assert not any(bool(told.written.isnan().any()) for told in reports)
    assert threading.active_count() == before


# Memory


class Memory:
    """A network in `cap` pixels: calls of more run out of memory. Counts what passes and what fails."""

    def __init__(self, run, cap):
        self.run, self.cap = run, cap
        self.passed, self.failed = [], []
        self._lock = threading.Lock()

    def __call__(self, tiles):
        pixels = tiles.shape[0] * tiles.shape[2] * tiles.shape[3]
        fits = pixels <= self.cap
        with self._lock:
            (self.passed if fits else self.failed).append(tuple(tiles.shape))
        if not fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return self.run(tiles)

    def recover(self):
        """Return the free bytes as they are."""
        return self.cap * ESTIMATE.peak


def networks(compact):
    """Return (network, scale, field) by name; the last two have no bound, but look nowhere:
    mixing changes nothing.
    """
    return {
        "Compact": (compact(4), 4, ReceptiveField(4)),
        "small Compact": (compact(2, features=4, convs=3), 2, ReceptiveField(3)),
        "blurred": (blurred, 1, ReceptiveField(2)),
        "windowed": (windowed, 1, ReceptiveField(3, 4)),
        "pointwise, mixed": (halved, 2, ReceptiveField(12, 1, 8)),
        "pointwise, mixed, by fours": (halved, 2, ReceptiveField(9, 4, 5)),
    }


class Cell:
    """A picture, a plan and a memory drawn by chance, and what came of it."""

    def __init__(self, random, named, draw):
        self.name = random.choice(list(named))
        self.network, self.scale, self.field = named[self.name]
        height, width = random.randint(20, 150), random.randint(20, 150)
        single = random.random() < 0.5
        tile = max(height, width) if single else random.randint(40, 90)
        self.tile, self.workers = tile, random.choice([1, 1, 2, 3])
        self.batch_pixels = random.choice([0, 0, random.randint(1, 6) * 64 * 64])
        self.pictures = 0.3 + 0.4 * draw(random.randint(1, 3), 3, height, width, seed=height)
        smallest = self.field.smallest_tile**2
        self.cap = random.randint(smallest, max(smallest, min(4 * smallest, height * width * 3 // 2)))

    def run(self, recover):
        """Enlarge; `recover` makes the function that is asked for the free bytes from the memory."""
        self.memory = Memory(self.network, self.cap)
        self.reports = []
        stage = stage_of([self.memory] * self.workers, self.scale, self.field)
        self.result = finish(
            lambda: run_tiled(
                self.pictures,
                stage,
                self.tile,
                batch_pixels=self.batch_pixels,
                report=self.reports.append,
                recover=recover(self.memory),
            )
        )
        if isinstance(self.result, BaseException):
            raise self.result

    def assert_equal(self):
        """Assert that the result is that of one call, and that every core was computed and told of once."""
        torch.testing.assert_close(self.result, self.network(self.pictures), atol=1e-6, rtol=0)
        answered = torch.zeros(len(self.pictures), *self.pictures.shape[-2:])
        for told in self.reports:
            row, column = told.tile.row, told.tile.column
            answered[told.tile.picture, row.low : row.high, column.low : column.high] += 1
        assert bool((answered == 1).all())
        assert sum(shape[0] for shape in self.memory.passed) == len(self.reports)
        assert self.reports[-1].left == 0


@pytest.fixture
def failures(monkeypatch):
    """The tiles that ran out of memory, as the loop was told of them."""
    seen = []
    real = loop._Waiting.failed

    def failed(waiting, tiles, doubt=None):
        seen.extend(tiles)
        return real(waiting, tiles, doubt)

    monkeypatch.setattr(loop._Waiting, "failed", failed)
    return seen


def times_failed(failures):
    """Return how often the pixel that failed most often did."""
    extent = [max(getattr(tile, axis).high for tile in failures) for axis in ("row", "column")]
    count = torch.zeros(1 + max(tile.picture for tile in failures), *extent)
    for tile in failures:
        count[tile.picture, tile.row.low : tile.row.high, tile.column.low : tile.column.high] += 1
    return int(count.max())


def test_any_memory_is_enough_and_no_work_is_lost(compact, draw, failures):
    random, named = Random(11), networks(compact)
    kinds = Counter()
    for _ in range(200):
        cell = Cell(random, named, draw)
        failures.clear()
        cell.run(lambda memory: memory.recover)
        cell.assert_equal()
        # A call fails only if it was begun before the first failure was known.
        assert len(cell.memory.failed) <= cell.workers
        if failures:
            assert times_failed(failures) == 1
            kinds[cell.name] += 1
            kinds["one tile" if cell.tile >= max(cell.pictures.shape[-2:]) else "several tiles"] += 1
            kinds[f"{cell.workers} workers"] += 1
            kinds["batches"] += cell.batch_pixels > 0
    assert len(kinds) == len(named) + 2 + 3 + 1
    assert min(kinds.values()) >= 10, kinds


LIES = {
    "unknown": lambda memory: None,
    "ten times too much": lambda memory: lambda: 10 * memory.recover(),
    "nothing": lambda memory: lambda: 0.0,
}


@pytest.mark.parametrize("lie", LIES)
def test_it_also_ends_well_where_the_free_memory_is_not_known(compact, draw, failures, lie):
    random, named = Random(12), networks(compact)
    failed = 0
    for _ in range(40):
        cell = Cell(random, named, draw)
        failures.clear()
        cell.run(LIES[lie])
        cell.assert_equal()
        failed += bool(failures)
        if failures:
            # Every failure leaves at most a quarter to try, or what has passed.
            most = max(math.prod(shape) // 3 for shape in cell.memory.failed)
            assert times_failed(failures) <= 1 + math.ceil(math.log(most / cell.cap, 4))
    assert failed > 20


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("tile", [64, 150])
def test_a_memory_that_is_too_small_for_the_smallest_tile_is_an_error_message(picture, workers, tile):
    field = ReceptiveField(4)
    memory = Memory(blurred, 10)
    stage = stage_of([memory] * workers, 1, field)
    before = threading.active_count()
    error = finish(lambda: run_tiled(picture(1, 3, 120, 150), stage, tile, recover=memory.recover))
    assert isinstance(error, OutOfMemory)
    assert str(error).startswith("upscale_model: expected memory for a tile of ")
    assert "\n" not in str(error)
    assert not memory.passed
    assert threading.active_count() == before


def test_what_was_done_before_memory_ran_out_stays(small, picture):
    """The last of three pictures finds less memory: the other two are not computed again."""
    pictures = picture(3, 3, 61, 90)
    memory = Memory(small, 61 * 90)

    def run(tiles):
        if len(memory.passed) == 2:
            memory.cap = 50 * 50
        return memory(tiles)

    reports = []
    stage = stage_of([run], 4, ReceptiveField(4))
    result = run_tiled(pictures, stage, 90, report=reports.append, recover=memory.recover)
    torch.testing.assert_close(result, small.model(pictures), atol=1e-6, rtol=0)
    assert len(memory.failed) == 1
    assert [told.tile.picture for told in reports][:2] == [0, 1]
    assert {told.tile.picture for told in reports[2:]} == {2}


def test_without_a_figure_the_next_try_has_half_the_side(picture):
    pictures = picture(1, 3, 200, 200)
    memory = Memory(halved, 100 * 100)
    result = run_tiled(pictures, stage_of([memory], 2, ReceptiveField(2)), 200)
    torch.testing.assert_close(result, halved(pictures), atol=1e-6, rtol=0)
    assert memory.failed == [(1, 3, 200, 200)]
    assert all(max(shape[2:]) <= 100 for shape in memory.passed)


def test_pieces_are_mixed_although_the_plan_of_one_tile_was_not(picture):
    """The network sees a whole tile, so that every piece comes out in a grey of its own:
    no step may be left.
    """
    pictures = picture(1, 1, 150, 201) + torch.linspace(-0.3, 0.3, 201)
    memory = Memory(lambda tiles: tiles.mean(dim=(-2, -1), keepdim=True).expand_as(tiles), 100 * 100)
    stage = stage_of([memory], 1, ReceptiveField(12, 1, 10))
    result = run_tiled(pictures, stage, 201, recover=memory.recover)
    assert memory.failed == [(1, 1, 150, 201)]
    contrast = float(result.max() - result.min())
    assert contrast > 0.2
    assert float(result.diff(dim=-1).abs().max()) < 0.1 * contrast


def test_other_errors_are_not_taken_for_the_end_of_memory(picture):
    calls = []

    def run(tiles):
        calls.append(1)
        raise RuntimeError("CUDA error: device-side assert triggered")

    with pytest.raises(RuntimeError, match="device-side assert"):
        run_tiled(picture(1, 3, 61, 90), stage_of([run], 1, ReceptiveField(4)), 90)
    assert len(calls) == 1


# Errors that may mean that memory is out


DOUBTS = [
    "GET was unable to find an engine to execute this computation",
    "FIND was unable to find an engine to execute this computation",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
]


class Doubtful(Memory):
    """The same with an error that does not say what it means."""

    def __init__(self, run, cap, text):
        super().__init__(run, cap)
        self.text = text

    def __call__(self, tiles):
        try:
            return super().__call__(tiles)
        except torch.OutOfMemoryError:
            raise RuntimeError(f"{self.text} (call {len(self.failed)})") from None


@pytest.mark.parametrize("text", DOUBTS)
@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_that_may_mean_so_is_tried_again_once_with_smaller_tiles(text, workers, picture):
    pictures = picture(2, 3, 120, 150)
    memory = Doubtful(blurred, 80 * 80, text)
    result = run_tiled(
        pictures, stage_of([memory] * workers, 1, ReceptiveField(2)), 150, recover=memory.recover
    )
    torch.testing.assert_close(result, blurred(pictures), atol=1e-6, rtol=0)
    assert 1 <= len(memory.failed) <= workers


@pytest.mark.parametrize("text", DOUBTS)
@pytest.mark.parametrize("tile", [40, 150])
def test_the_first_of_such_errors_is_raised_when_it_comes_again(text, tile, picture):
    memory = Doubtful(blurred, 10, text)
    with pytest.raises(RuntimeError) as raised:
        run_tiled(
            picture(1, 3, 120, 150), stage_of([memory], 1, ReceptiveField(2)), tile, recover=memory.recover
        )
    assert str(raised.value) == f"{text} (call 1)"
    assert len(memory.failed) == 2


# Waiting for a GPU


class Event:
    """A GPU that is done after so many looks."""

    def __init__(self, looks):
        self.looks = looks

    def query(self):
        self.looks -= 1
        return self.looks < 0


def test_while_a_gpu_computes_the_host_is_asked_whether_to_go_on():
    asked = []
    wait_for(Event(5), lambda: asked.append(1))
    assert len(asked) == 5

    def cancel():
        raise Interrupted

    with pytest.raises(Interrupted):
        wait_for(Event(10**9), cancel)


def test_cancel_ends_the_wait_for_workers_that_are_busy(picture):
    busy = threading.Event()

    def slow(tiles):
        busy.wait(10)
        return halved(tiles)

    def cancel():
        busy.set()  # else the test would wait for the threads' end
        raise Interrupted

    before = threading.active_count()
    stage = stage_of([slow, slow], 2, ReceptiveField(2))
    assert isinstance(finish(lambda: run_tiled(picture(1, 3, 90, 91), stage, 48, check=cancel)), Interrupted)
    assert threading.active_count() == before


# What a position needs is computed once


@pytest.mark.parametrize("mixed", [False, True])
def test_weights_are_computed_once_for_each_position_and_before_the_network_runs(mixed, picture, monkeypatch):
    log = []
    real = placement_module.resample_bands
    monkeypatch.setattr(placement_module, "resample_bands", lambda *key: log.append(key) or real(*key))

    def run(tiles):
        log.append("network")
        return halved(tiles)

    field = ReceptiveField(16, 1, 5) if mixed else ReceptiveField(10)
    run_tiled(picture(3, 3, 150, 201), stage_of([run], 2, field), 96, (170, 230))
    keys = [entry for entry in log if entry != "network"]
    plan = plan_tiles(150, 201, field, 96)
    assert len(keys) == len(set(keys)) == len(plan.rows) + len(plan.columns)
    assert log.count("network") == 3 * len(plan.tiles)
    assert "network" not in log[:2]
    last = max(place for place, entry in enumerate(log) if entry != "network")
    assert log[last:].count("network") > 2 * len(plan.tiles)
