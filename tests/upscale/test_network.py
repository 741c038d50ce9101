"""A model made ready: its dtype and memory format, its copies,
what is remembered of it, and what it needs.
"""

from __future__ import annotations

import gc
import json
import re
import threading
import weakref
from dataclasses import replace

import pytest
import torch
from megapixel.upscale import tensor_format as formats
from megapixel.upscale.budget import Budget, BudgetSpent
from megapixel.upscale.float32 import true_float32
from megapixel.upscale.memory import _LivingTensors
from megapixel.upscale.network import Network
from megapixel.upscale.placement import Placement
from megapixel.upscale.tensor_format import TOLERANCE, TensorFormat, copy_descriptor
from megapixel.upscale.upscaler import Hooks, Options, upscale_pictures
from torch import nn

from devhost.tiny.random_upscalers import pictures, random_upscaler

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
PLENTY = 1e15


def load(descriptor, device):
    descriptor.model.to(device)


def choose_tensor_format(descriptor, device, load, precision, store, size=(180, 230)):
    """Choose for a picture of this size, of which all fits in one call."""
    budget = Budget(size[0] * size[1])
    return formats.choose_tensor_format(
        descriptor, device, load, precision, store, size, lambda: size[0] * size[1], budget
    )


@pytest.fixture(autouse=True)
def native(monkeypatch):
    """As on a processor with instructions for half precision; returns a function that takes them away."""
    monkeypatch.setattr(formats, "computes_natively", lambda dtype, device: True)
    return lambda: monkeypatch.setattr(
        formats, "computes_natively", lambda dtype, device: dtype == torch.float32
    )


class Loads:
    """Counts the copies that are brought to a device."""

    def __init__(self):
        self.types = []

    def __call__(self, descriptor, device):
        self.types.append(next(descriptor.model.parameters()).dtype)
        load(descriptor, device)


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.inference_mode():
        yield


@pytest.fixture
def compact():
    """A small Compact of its own for every test."""
    return random_upscaler("Compact 16x4")


def scaled(descriptor, factor):
    """Return the network with features `factor` times as large on the way, and the same result."""
    layers = [layer for layer in descriptor.model.body if isinstance(layer, nn.Conv2d)]
    layers[0].weight.mul_(factor)
    layers[0].bias.mul_(factor)
    for layer in layers[1:]:
        layer.bias.mul_(factor)
    layers[-1].weight.div_(factor)
    layers[-1].bias.div_(factor)
    return descriptor


def rough(descriptor):
    """Return the network with a result that bfloat16 cannot hold: a small difference of large values."""
    last = [layer for layer in descriptor.model.body if isinstance(layer, nn.Conv2d)][-1]
    before = last.bias.clone()
    first = descriptor.model.body[0]
    first.bias.add_(30.0)
    picture = pictures(1, 3, 64, 64)
    last.bias.zero_()
    last.bias.add_(0.5 - float((descriptor.model(picture)).mean()))
    assert not torch.equal(before, last.bias)
    return descriptor


class TestForms:
    def test_one_that_differs_by_more_than_a_step_is_never_chosen(self, compact, monkeypatch):
        bad = rough(compact)
        exact = bad(pictures(1, 3, 64, 64))
        half = copy_descriptor(bad, TensorFormat(torch.bfloat16))
        error = float((half(pictures(1, 3, 64, 64).bfloat16()).float() - exact).abs().max())
        assert error > 2 * TOLERANCE
        # Even where bfloat16 is by far the fastest.
        timed = formats._timed

        def fast_half(probe, tensor_format, limit, exact):
            enlarged, _ = timed(probe, tensor_format, limit, exact)
            return enlarged, formats._Times(*(2 * [1.0 if tensor_format.dtype == torch.float32 else 0.1]))

        monkeypatch.setattr(formats, "_timed", fast_half)
        assert choose_tensor_format(bad, CPU, load, "auto", {}).dtype == torch.float32
        good = random_upscaler("ESRGAN 32x2 2x")
        assert choose_tensor_format(good, CPU, load, "auto", {}).dtype == torch.bfloat16

    def test_one_without_numbers_is_never_chosen(self, compact, monkeypatch):
        timed = formats._timed

        def spoiled(probe, tensor_format, limit, exact):
            enlarged, _ = timed(probe, tensor_format, limit, exact)
            half = tensor_format.dtype != torch.float32
            return enlarged * (torch.nan if half else 1), formats._Times(*(2 * [0.1 if half else 1.0]))

        monkeypatch.setattr(formats, "_timed", spoiled)
        assert choose_tensor_format(compact, CPU, load, "auto", {}).dtype == torch.float32

    def test_the_chosen_one_is_within_a_step_of_float32(self):
        for name in ("Compact 16x4", "SPAN 48"):
            descriptor = random_upscaler(name)
            tensor_format = choose_tensor_format(descriptor, CPU, load, "auto", {})
            ready = copy_descriptor(descriptor, tensor_format)
            picture = pictures(1, 3, 48, 72, seed=5)
            error = float((ready(picture.to(tensor_format.dtype)).float() - descriptor(picture)).abs().max())
            assert error <= 1.5 * TOLERANCE, name

    @pytest.mark.parametrize("name", ["SwinIR", "Swin2SR"])
    def test_auto_leaves_out_what_the_model_allows_but_cannot_do(self, name):
        # spandrel says that these allow bfloat16, but they add a float32 mask on the way.
        descriptor = random_upscaler(name)
        assert descriptor.supports_bfloat16
        with pytest.raises(RuntimeError, match="dtype"):
            copy_descriptor(descriptor, TensorFormat(torch.bfloat16))(pictures(1, 3, 64, 64).bfloat16())
        assert choose_tensor_format(descriptor, CPU, load, "auto", {}).dtype == torch.float32
        with pytest.raises(ValueError, match=r"^precision: expected .*, got bfloat16\. "):
            choose_tensor_format(descriptor, CPU, load, "bfloat16", {})

    def test_is_tried_once_and_then_remembered(self, compact):
        store, loads = {}, Loads()
        first = choose_tensor_format(compact, CPU, loads, "auto", store)
        tried = len(loads.types)
        assert tried >= 2
        remembered = json.loads(json.dumps(store))  # it may be kept in a file
        assert choose_tensor_format(compact, CPU, loads, "auto", remembered) == first
        assert len(loads.types) == tried

    def test_each_precision_is_remembered_for_itself(self, compact):
        store = {}
        chosen = {
            name: choose_tensor_format(compact, CPU, load, name, store)
            for name in ("float32", "bfloat16", "float32")
        }
        assert chosen["float32"].dtype == torch.float32
        assert chosen["bfloat16"].dtype == torch.bfloat16
        assert len(store) == 2

    @pytest.mark.parametrize("precision", ["float16", "bfloat16"])
    def test_a_half_that_the_model_does_not_allow_is_a_sentence(self, compact, precision):
        compact.supports_half = compact.supports_bfloat16 = False
        sentence = (
            f"precision: expected a type that this model supports, got {precision}. Use auto or float32."
        )
        with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
            choose_tensor_format(compact, CPU, load, precision, {})

    def test_auto_leaves_out_what_the_model_does_not_allow(self, compact):
        compact.supports_half = compact.supports_bfloat16 = False
        loads = Loads()
        assert choose_tensor_format(compact, CPU, loads, "auto", {}).dtype == torch.float32
        assert set(loads.types) == {torch.float32}


class Clock:
    """Twentieths of a second as formats need them, by the number of their run: the first one prepares."""

    def __init__(self, monkeypatch, seconds):
        self.runs = {}
        real = formats._Probe.runs

        def runs(probe, tensor_format):
            for number, (enlarged, _) in enumerate(real(probe, tensor_format)):
                self.runs[tensor_format] = number + 1
                yield enlarged, seconds[tensor_format][min(number, 1)] / 20

        monkeypatch.setattr(formats._Probe, "runs", runs)


PLAIN, LAST = TensorFormat(), TensorFormat(torch.float32, True)
HALF, HALF_LAST = TensorFormat(torch.bfloat16), TensorFormat(torch.bfloat16, True)


class TestCost:
    """What may be spent to find the fastest format."""

    @pytest.mark.parametrize("size", [(128, 128), (181, 320)])
    def test_all_candidates_together_cost_one_pass_over_the_picture(self, compact, monkeypatch, size):
        Clock(monkeypatch, {PLAIN: (9, 8), LAST: (8, 7), HALF: (7, 6), HALF_LAST: (6, 5)})  # none is dropped
        spent = []
        budget = Budget(size[0] * size[1], spent.append)
        tensor_format = formats.choose_tensor_format(
            compact, CPU, load, "auto", {}, size, lambda: 10**9, budget
        )
        assert tensor_format == HALF_LAST
        assert len(spent) == 4 * formats.RUNS
        assert 0.8 <= sum(spent) <= 1

    def test_one_is_dropped_after_its_first_run_where_that_is_slower_than_the_best_ones(
        self, compact, monkeypatch
    ):
        clock = Clock(monkeypatch, {PLAIN: (5, 3), LAST: (6, 1), HALF: (4, 2), HALF_LAST: (4.5, 1)})
        assert choose_tensor_format(compact, CPU, load, "auto", {}) == HALF
        assert clock.runs == {PLAIN: formats.RUNS, LAST: 1, HALF: formats.RUNS, HALF_LAST: 1}

    def test_what_a_first_run_prepares_is_forgiven_and_a_slow_second_run_is_not(self, compact, monkeypatch):
        times = {PLAIN: (1, 0.6), LAST: (1.2, 0.4), HALF: (1.2, 0.5), HALF_LAST: (1.2, 0.3)}
        clock = Clock(monkeypatch, times)
        assert choose_tensor_format(compact, CPU, load, "auto", {}) == HALF_LAST
        assert clock.runs == {PLAIN: formats.RUNS, LAST: formats.RUNS, HALF: 2, HALF_LAST: formats.RUNS}

    def test_a_run_that_takes_long_is_not_repeated(self, compact, monkeypatch):
        clock = Clock(monkeypatch, {PLAIN: (40, 1), LAST: (39, 1), HALF: (30, 1), HALF_LAST: (31, 1)})
        assert choose_tensor_format(compact, CPU, load, "auto", {}) == HALF
        assert set(clock.runs.values()) == {1}

    def test_it_ends_where_nothing_is_left_to_spend(self, compact, monkeypatch):
        clock = Clock(monkeypatch, {PLAIN: (9, 8), LAST: (8, 7), HALF: (7, 6), HALF_LAST: (6, 5)})
        budget = Budget(128 * 128)
        budget.spend(1.5 * 128 * 128)
        chosen = formats.choose_tensor_format(
            compact, CPU, load, "auto", {}, (128, 128), lambda: 10**9, budget
        )
        assert chosen in (LAST, HALF)
        assert sum(clock.runs.values()) < 4 * formats.RUNS
        assert 0 <= budget.left < 0.1 * 128 * 128

    @pytest.mark.parametrize("precision", ["auto", "float16", "bfloat16"])
    def test_a_processor_without_instructions_for_half_precision_is_not_asked_for_it(
        self, compact, native, precision
    ):
        native()
        loads = Loads()
        assert choose_tensor_format(compact, CPU, loads, precision, {}).dtype == torch.float32
        assert set(loads.types) == {torch.float32}

    def test_a_probe_has_the_size_that_will_run(self):
        side = formats._side_of_probe
        assert side((128, 128), 10**9, 2, on_cpu=True) == 52  # three runs of two candidates: one pass
        assert side((2000, 3000), 90_000, 2, on_cpu=True) == 300
        assert side((2000, 3000), 10**9, 4, on_cpu=False) == formats.LARGEST_PROBE
        assert side((64, 64), 10**9, 4, on_cpu=False) == formats.SMALLEST_ON_GPU
        assert side((2000, 3000), 500_000, 4, on_cpu=False) == 707

    def test_what_the_processor_can_do_is_asked_of_torch(self, monkeypatch):
        monkeypatch.undo()
        asked = {}
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: asked, raising=False)
        natively = formats.computes_natively
        assert not natively(torch.bfloat16, CPU)
        asked["avx512_bf16"] = True
        assert natively(torch.bfloat16, CPU)
        assert not natively(torch.float16, CPU)
        assert natively(torch.float32, CPU)
        assert natively(torch.float16, torch.device("cuda"))


class TestNoise:
    def test_candidates_differ_by_their_format_alone_and_the_global_generator_stays(self, compact):
        results = []

        def add_noise(layer, given, result):
            results.append(result + torch.randn(result.shape))
            return results[-1]

        compact.model.body[-1].register_forward_hook(add_noise)
        state = torch.get_rng_state()
        choose_tensor_format(compact, CPU, load, "float32", {})
        assert len(results) >= 2
        for result in results[1:]:
            torch.testing.assert_close(result, results[0], rtol=0, atol=1e-5)
        assert torch.equal(torch.get_rng_state(), state)


class TestReachWithinABudget:
    def test_a_reach_that_costs_too_much_is_left_for_later_and_not_tried_for_little_more(self):
        store, descriptor, pixels = {}, random_upscaler("PLKSR 4"), 128 * 128
        stage = Network(descriptor, [CPU], load, store=store).stages[0]
        budget = Budget(pixels)
        with pytest.raises(BudgetSpent):
            stage.receptive_field(budget, must=False)
        assert 0 <= budget.left < 2 * pixels
        again = Budget(pixels)
        with pytest.raises(BudgetSpent):
            stage.receptive_field(again, must=False)
        assert again.left == 2 * pixels


class TestTrueFloat32:
    def seen(self, network, picture):
        """Return what the layers see of the process's settings while a picture goes through, and after it."""
        settings = []
        for layer in network.modules[0].modules():
            if isinstance(layer, nn.Conv2d):
                layer.register_forward_pre_hook(lambda *_: settings.append(torch.backends.cudnn.allow_tf32))
        upscale_pictures(picture, network, Options(tile=32), Hooks(lambda: PLENTY))
        return set(settings), torch.backends.cudnn.allow_tf32

    @pytest.mark.parametrize("workers", [1, 2])
    def test_tf32_is_off_inside_exact_calls_alone(self, compact, monkeypatch, workers):
        network = Network(compact, [CPU], load, exact=True)
        [stage] = network.stages
        network.stages = [replace(stage, workers=stage.workers * workers)]  # two threads
        picture = pictures(1, 3, 45, 70)
        assert torch.backends.cudnn.allow_tf32
        assert self.seen(network, picture) == ({False}, True)
        assert self.seen(Network(compact, [CPU], load), picture) == ({True}, True)

    @pytest.mark.parametrize("workers", [1, 2])
    def test_resampling_a_tile_changes_nothing_for_the_networks_of_other_threads(
        self, compact, monkeypatch, workers
    ):
        seen, real = set(), Placement.fit

        def fit(*arguments):
            seen.add((torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()))
            return real(*arguments)

        monkeypatch.setattr(Placement, "fit", fit)
        network = Network(compact, [CPU], load)
        [stage] = network.stages
        network.stages = [replace(stage, workers=stage.workers * workers)]
        torch.set_float32_matmul_precision("high")
        try:
            upscale_pictures(
                pictures(1, 3, 45, 70), network, Options((80, 100), tile=32), Hooks(lambda: PLENTY)
            )
            assert seen == {(True, "highest")}
            assert torch.get_float32_matmul_precision() == "high"
        finally:
            torch.set_float32_matmul_precision("highest")

    def test_it_is_as_before_after_an_exception_and_between_two_threads(self):
        matmul = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")
        first, second = threading.Event(), threading.Event()

        def stay():
            with true_float32():
                first.set()
                second.wait(5)

        try:
            with true_float32():
                assert torch.get_float32_matmul_precision() == "highest"
            with pytest.raises(ZeroDivisionError), true_float32():
                _ = 1 / 0
            assert torch.get_float32_matmul_precision() == "high"
            other = threading.Thread(target=stay)
            with true_float32():
                other.start()
                first.wait(5)
            assert not torch.backends.cudnn.allow_tf32  # the other one is still inside
            second.set()
            other.join()
            assert torch.backends.cudnn.allow_tf32
            assert torch.get_float32_matmul_precision() == "high"
        finally:
            torch.set_float32_matmul_precision(matmul)

    def test_the_reach_is_measured_without_tf32_whatever_the_precision(self, compact):
        settings = []
        compact.model.body[0].register_forward_pre_hook(
            lambda *_: settings.append(torch.backends.cudnn.allow_tf32)
        )
        network = Network(compact, [CPU], load, TensorFormat(torch.bfloat16))
        settings.clear()
        network.stages[0].receptive_field()
        assert set(settings) == {False}


class TestCompile:
    @pytest.mark.parametrize("name", ["Compact 16x4", "ESRGAN 32x2"])
    @pytest.mark.parametrize("error", [AssertionError("expected stride 9==1"), RuntimeError("inductor")])
    def test_the_layers_run_as_they_are_where_the_compiler_fails(self, name, error):
        descriptor, picture, failed = random_upscaler(name), pictures(2, 3, 33, 40), []

        def compile_badly(*_, **__):
            raise error

        expected = upscale_pictures(
            picture, Network(descriptor, [CPU], load), Options(), Hooks(lambda: PLENTY)
        )
        network = Network(descriptor, [CPU], load)
        network.compile(failed.append)
        for part in network._copies.made[CPU]._modules:
            part._compiled_call_impl = compile_badly  # what torch puts there
        for _ in range(2):
            enlarged = upscale_pictures(picture, network, Options(), Hooks(lambda: PLENTY))
            assert torch.equal(enlarged, expected)
        assert failed == [error]
        assert network.compile_error is error

    def test_an_error_of_the_model_is_its_own(self, compact):
        network = Network(compact, [CPU], load)

        def broken(*_):
            raise RuntimeError("a layer is broken")

        network.modules[0].body[0].register_forward_pre_hook(broken)
        network.compile(lambda error: pytest.fail("it is not the compiler's fault"))
        with torch.compiler.set_stance("force_eager"), pytest.raises(RuntimeError, match="layer is broken"):
            upscale_pictures(pictures(1, 3, 33, 40), network, Options(), Hooks(lambda: PLENTY))


def snapshot(module):
    return {
        name: (weight.clone(), weight.dtype, weight.stride(), weight.data_ptr(), weight.requires_grad)
        for name, weight in module.state_dict(keep_vars=True).items()
    }


class TestCopies:
    @pytest.mark.parametrize(
        "tensor_format", [TensorFormat(), TensorFormat(torch.bfloat16, True), TensorFormat(torch.float16)]
    )
    def test_leave_the_original_as_it_is(self, compact, tensor_format):
        compact.model.train()
        before = snapshot(compact.model)
        copied = copy_descriptor(compact, tensor_format)
        for weight in copied.model.parameters():
            weight.add_(1)
        after = snapshot(compact.model)
        for name, (bits, *rest) in before.items():
            assert torch.equal(after[name][0], bits)
            assert after[name][1:] == tuple(rest)
        assert compact.model.training
        assert not copied.model.training
        assert {weight.dtype for weight in copied.model.parameters()} == {tensor_format.dtype}

    def test_a_whole_run_leaves_the_original_as_it_is(self, compact):
        before = snapshot(compact.model)
        store = {}
        tensor_format = choose_tensor_format(compact, CPU, load, "bfloat16", store)
        network = Network(compact, [CPU], load, tensor_format, store)
        upscale_pictures(pictures(1, 3, 45, 70), network, Options(tile=32), Hooks(lambda: PLENTY))
        after = snapshot(compact.model)
        for name, (bits, *rest) in before.items():
            assert torch.equal(after[name][0], bits)
            assert after[name][1:] == tuple(rest)

    def test_leave_out_the_hosts_handle_on_the_weights(self, compact):
        class Patcher:
            def __deepcopy__(self, memo):
                raise AssertionError("the handle was copied")

        compact.patcher = Patcher()
        copied = copy_descriptor(compact, TensorFormat())
        assert copied.patcher is None
        assert copied.architecture is compact.architecture

    def test_the_original_can_go_while_networks_are_kept_by_it(self):
        networks = weakref.WeakKeyDictionary()
        descriptor = random_upscaler("Compact 16x4")
        model = weakref.ref(descriptor.model)
        networks[descriptor] = Network(descriptor, [CPU], load, TensorFormat(torch.bfloat16))
        upscale_pictures(
            pictures(1, 3, 33, 70), networks[descriptor], Options(tile=32), Hooks(lambda: PLENTY)
        )
        kept = weakref.ref(networks[descriptor])
        del descriptor
        gc.collect()
        assert model() is None
        assert kept() is None
        assert len(networks) == 0

    @pytest.mark.parametrize(
        ("name", "tensor_format", "tile", "count"),
        [
            ("Compact 16x4", TensorFormat(), 48, 2),
            ("Compact 16x4", TensorFormat(torch.bfloat16), 48, 2),
            ("ESRGAN 32x2", TensorFormat(), 0, 1),
        ],
    )
    def test_are_gone_with_their_network_without_the_garbage_collector(
        self, name, tensor_format, tile, count
    ):
        descriptor = random_upscaler(name)
        gc.collect()
        gc.disable()
        try:
            network = Network(descriptor, [CPU], load, tensor_format)
            upscale_pictures(pictures(1, 3, 33, 70), network, Options(tile=tile), Hooks(lambda: PLENTY))
            copies = [*network.modules, *(copied.descriptor.model for copied in network._exact.made.values())]
            assert len(copies) == count  # where tiles are cut, one to measure with
            living = [weakref.ref(network), *map(weakref.ref, copies)]
            del network, copies
            assert [reference() for reference in living] == [None] * (1 + count)
        finally:
            gc.enable()


class TestNumbers:
    """Tiles in which half precision overflows are computed again in float32."""

    @pytest.mark.parametrize("dtype", [torch.float16])
    def test_an_overflow_is_computed_again(self, compact, dtype):
        strong = scaled(compact, 1e6)
        picture = pictures(1, 3, 45, 70)
        expected = strong(picture)
        assert 0 < float(expected.min()) < float(expected.max()) < 1
        half = copy_descriptor(strong, TensorFormat(dtype))
        assert bool(half(picture.to(dtype)).isnan().any())
        loads = Loads()
        network = Network(strong, [CPU], loads, TensorFormat(dtype))
        enlarged = upscale_pictures(picture, network, Options(tile=32), Hooks(lambda: PLENTY))
        assert torch.float32 in loads.types
        assert float((enlarged - expected).abs().max()) <= 1e-6

    def test_no_float32_copy_is_made_where_half_gives_numbers(self, compact):
        loads = Loads()
        network = Network(compact, [CPU], loads, TensorFormat(torch.bfloat16))
        picture = pictures(1, 3, 45, 70)
        enlarged = upscale_pictures(picture, network, Options(), Hooks(lambda: PLENTY))
        assert set(loads.types) == {torch.bfloat16}
        assert float((enlarged - compact(picture)).abs().max()) < 4 * TOLERANCE


class TestWritingNetworks:
    def test_do_no_harm(self, compact):
        """A network that writes into its input: the picture,
        the strips and the neighbours keep what they are.
        """

        def write(module, given):
            return (given[0].mul_(0.5).add_(0.25),)

        compact.model.register_forward_pre_hook(write)
        picture = pictures(1, 3, 45, 70)
        kept = picture.clone()
        expected = compact(picture.clone())
        network = Network(compact, [CPU], load)
        field = network.stages[0].receptive_field()
        assert (field.margin, field.blend) == (6, 0)
        enlarged = upscale_pictures(picture, network, Options(tile=32), Hooks(lambda: PLENTY))
        assert torch.equal(picture, kept)
        assert float((enlarged - expected).abs().max()) <= 1e-6


class TestWhatIsRemembered:
    @pytest.mark.parametrize("name", ["Compact 16x4", "ESRGAN 32x2"])
    def test_is_measured_once_and_can_be_kept_in_a_file(self, name):
        descriptor, store = random_upscaler(name), {}
        for stage in Network(descriptor, [CPU], load, store=store).stages:
            stage.receptive_field()
        again = json.loads(json.dumps(store))
        calls = []

        def load_and_watch(copied, device):
            load(copied, device)
            for layer in copied.model.modules():
                if isinstance(layer, nn.Conv2d):
                    layer.register_forward_pre_hook(lambda _, given: calls.append(tuple(given[0].shape)))

        network = Network(descriptor, [CPU], load_and_watch, store=again)
        probed = len(calls)  # whether it has two parts is tried every time, on 8 by 8 pixels
        assert max([height * width for *_, height, width in calls], default=0) <= 32 * 32
        fresh = Network(descriptor, [CPU], load)
        for stage, other in zip(network.stages, fresh.stages, strict=True):
            assert stage.memory_estimate == other.memory_estimate
            assert stage.receptive_field() == other.receptive_field()
        assert len(calls) == probed
        assert again == store

    def test_the_need_of_each_type_and_layout_is_its_own(self, compact):
        store = {}
        wide = Network(compact, [CPU], load, TensorFormat(), store).stages[0].memory_estimate
        narrow = Network(compact, [CPU], load, TensorFormat(torch.bfloat16), store).stages[0].memory_estimate
        assert len([key for key in store if key.startswith("memory_estimate")]) == 2
        assert narrow.peak == pytest.approx(wide.peak / 2, rel=0.15)


class TestNeed:
    def counted(self, descriptor, height, width):
        """Return the peak in bytes by another way: what the layers hold, from their shapes as they run."""
        peak = 0

        def hold(layer, given, result):
            nonlocal peak
            peak = max(peak, given[0].nbytes + result.nbytes)

        hooks = [
            layer.register_forward_hook(hold)
            for layer in descriptor.model.modules()
            if isinstance(layer, (nn.Conv2d, nn.PReLU, nn.PixelShuffle))
        ]
        descriptor(pictures(1, 3, height, width))
        for hook in hooks:
            hook.remove()
        return peak

    @pytest.mark.parametrize("name", ["Compact 16x4", "Compact 64x16"])
    def test_is_close_to_the_true_peak_at_other_sizes(self, name):
        descriptor = random_upscaler(name)
        estimate = Network(descriptor, [CPU], load).stages[0].memory_estimate
        for height, width in ((64, 64), (150, 90), (301, 211)):
            counted = self.counted(descriptor, height, width)
            # The picture itself, its copy and the result of the picture's own size lie beside the layers.
            beside = 3 * height * width * 4 * 3
            assert counted <= estimate.peak * height * width <= 1.1 * (counted + beside)

    def test_of_a_larger_picture_is_foretold(self):
        for name in ("Compact 64x16", "SPAN 48", "SwinIR", "ESRGAN 32x2"):
            network = Network(random_upscaler(name), [CPU], load)
            stage = network.stages[0]
            picture = pictures(1, 12 if network.shuffle > 1 else 3, 160, 224)
            with _LivingTensors(CPU) as living:
                stage.workers[0](picture)
            pixels = 160 * 224
            assert 0.95 * living.peak <= stage.memory_estimate.peak * pixels <= 1.25 * living.peak, name
