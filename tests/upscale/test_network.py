"""A model made ready: its type and layout, its copies, what is remembered of it, and what it needs."""

from __future__ import annotations

import gc
import json
import re
import weakref

import pytest
import torch
from megapixel.upscale import network as network_module
from megapixel.upscale.memory import _LivingTensors
from megapixel.upscale.network import TOLERANCE, Form, Network, choose_form, copy_descriptor
from megapixel.upscale.upscaler import Hooks, Options, upscale_pictures
from torch import nn

from devhost.tiny.random_upscalers import pictures, random_upscaler

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
PLENTY = 1e15


def load(descriptor, device):
    descriptor.model.to(device)


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
        half = copy_descriptor(bad, Form(torch.bfloat16))
        error = float((half(pictures(1, 3, 64, 64).bfloat16()).float() - exact).abs().max())
        assert error > 2 * TOLERANCE
        # Even where bfloat16 is by far the fastest.
        timed = network_module._timed

        def fast_half(descriptor, form, probe, load):
            enlarged, _ = timed(descriptor, form, probe, load)
            return enlarged, 1.0 if form.dtype == torch.float32 else 0.1

        monkeypatch.setattr(network_module, "_timed", fast_half)
        assert choose_form(bad, CPU, load, "auto", {}).dtype == torch.float32
        good = random_upscaler("ESRGAN 32x2 2x")
        assert choose_form(good, CPU, load, "auto", {}).dtype == torch.bfloat16

    def test_one_without_numbers_is_never_chosen(self, compact, monkeypatch):
        timed = network_module._timed

        def spoiled(descriptor, form, probe, load):
            enlarged, _ = timed(descriptor, form, probe, load)
            half = form.dtype != torch.float32
            return enlarged * (torch.nan if half else 1), 0.1 if half else 1.0

        monkeypatch.setattr(network_module, "_timed", spoiled)
        assert choose_form(compact, CPU, load, "auto", {}).dtype == torch.float32

    def test_the_chosen_one_is_within_a_step_of_float32(self):
        for name in ("Compact 16x4", "SPAN 48"):
            descriptor = random_upscaler(name)
            form = choose_form(descriptor, CPU, load, "auto", {})
            ready = copy_descriptor(descriptor, form)
            picture = pictures(1, 3, 48, 72, seed=5)
            error = float((ready(picture.to(form.dtype)).float() - descriptor(picture)).abs().max())
            assert error <= 1.5 * TOLERANCE, name

    @pytest.mark.parametrize("name", ["SwinIR", "Swin2SR"])
    def test_auto_leaves_out_what_the_model_allows_but_cannot_do(self, name):
        # spandrel says that these allow bfloat16, but they add a float32 mask on the way.
        descriptor = random_upscaler(name)
        assert descriptor.supports_bfloat16
        with pytest.raises(RuntimeError, match="dtype"):
            copy_descriptor(descriptor, Form(torch.bfloat16))(pictures(1, 3, 64, 64).bfloat16())
        assert choose_form(descriptor, CPU, load, "auto", {}).dtype == torch.float32
        with pytest.raises(ValueError, match=r"^precision: expected .*, got bfloat16\. "):
            choose_form(descriptor, CPU, load, "bfloat16", {})

    def test_is_tried_once_and_then_remembered(self, compact):
        store, loads = {}, Loads()
        first = choose_form(compact, CPU, loads, "auto", store)
        tried = len(loads.types)
        assert tried >= 2
        remembered = json.loads(json.dumps(store))  # it may be kept in a file
        assert choose_form(compact, CPU, loads, "auto", remembered) == first
        assert len(loads.types) == tried

    def test_each_precision_is_remembered_for_itself(self, compact):
        store = {}
        chosen = {
            name: choose_form(compact, CPU, load, name, store) for name in ("float32", "bfloat16", "float32")
        }
        assert chosen["float32"].dtype == torch.float32
        assert chosen["bfloat16"].dtype == torch.bfloat16
        assert len(store) == 2

    @pytest.mark.parametrize("precision", ["float16", "bfloat16"])
    def test_a_half_that_the_model_does_not_allow_is_a_sentence(self, compact, precision):
        compact.supports_half = compact.supports_bfloat16 = False
        sentence = f"precision: expected a type that this model allows, got {precision}. Use auto or float32."
        with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
            choose_form(compact, CPU, load, precision, {})

    def test_auto_leaves_out_what_the_model_does_not_allow(self, compact):
        compact.supports_half = compact.supports_bfloat16 = False
        loads = Loads()
        assert choose_form(compact, CPU, loads, "auto", {}).dtype == torch.float32
        assert set(loads.types) == {torch.float32}


def snapshot(module):
    return {
        name: (weight.clone(), weight.dtype, weight.stride(), weight.data_ptr(), weight.requires_grad)
        for name, weight in module.state_dict(keep_vars=True).items()
    }


class TestCopies:
    @pytest.mark.parametrize("form", [Form(), Form(torch.bfloat16, True), Form(torch.float16)])
    def test_leave_the_original_as_it_is(self, compact, form):
        compact.model.train()
        before = snapshot(compact.model)
        copied = copy_descriptor(compact, form)
        for weight in copied.model.parameters():
            weight.add_(1)
        after = snapshot(compact.model)
        for name, (bits, *rest) in before.items():
            assert torch.equal(after[name][0], bits)
            assert after[name][1:] == tuple(rest)
        assert compact.model.training
        assert not copied.model.training
        assert {weight.dtype for weight in copied.model.parameters()} == {form.dtype}

    def test_a_whole_run_leaves_the_original_as_it_is(self, compact):
        before = snapshot(compact.model)
        store = {}
        form = choose_form(compact, CPU, load, "bfloat16", store)
        network = Network(compact, [CPU], load, form, store)
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
        copied = copy_descriptor(compact, Form())
        assert copied.patcher is None
        assert copied.architecture is compact.architecture

    def test_the_original_can_go_while_networks_are_kept_by_it(self):
        networks = weakref.WeakKeyDictionary()
        descriptor = random_upscaler("Compact 16x4")
        model = weakref.ref(descriptor.model)
        networks[descriptor] = Network(descriptor, [CPU], load, Form(torch.bfloat16))
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
        ("name", "form", "tile", "count"),
        [
            ("Compact 16x4", Form(), 48, 2),
            ("Compact 16x4", Form(torch.bfloat16), 48, 2),
            ("ESRGAN 32x2", Form(), 0, 1),
        ],
    )
    def test_are_gone_with_their_network_without_the_garbage_collector(self, name, form, tile, count):
        descriptor = random_upscaler(name)
        gc.collect()
        gc.disable()
        try:
            network = Network(descriptor, [CPU], load, form)
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
        half = copy_descriptor(strong, Form(dtype))
        assert bool(half(picture.to(dtype)).isnan().any())
        loads = Loads()
        network = Network(strong, [CPU], loads, Form(dtype))
        enlarged = upscale_pictures(picture, network, Options(tile=32), Hooks(lambda: PLENTY))
        assert torch.float32 in loads.types
        assert float((enlarged - expected).abs().max()) <= 1e-6

    def test_no_float32_copy_is_made_where_half_gives_numbers(self, compact):
        loads = Loads()
        network = Network(compact, [CPU], loads, Form(torch.bfloat16))
        picture = pictures(1, 3, 45, 70)
        enlarged = upscale_pictures(picture, network, Options(), Hooks(lambda: PLENTY))
        assert set(loads.types) == {torch.bfloat16}
        assert float((enlarged - compact(picture)).abs().max()) < 4 * TOLERANCE


class TestWritingNetworks:
    def test_do_no_harm(self, compact):
        """A network that writes into its input: the picture, the strips and the neighbours keep what they are."""

        def write(module, given):
            return (given[0].mul_(0.5).add_(0.25),)

        compact.model.register_forward_pre_hook(write)
        picture = pictures(1, 3, 45, 70)
        kept = picture.clone()
        expected = compact(picture.clone())
        network = Network(compact, [CPU], load)
        reach = network.stages[0].reach()
        assert (reach.margin, reach.blend) == (6, 0)
        enlarged = upscale_pictures(picture, network, Options(tile=32), Hooks(lambda: PLENTY))
        assert torch.equal(picture, kept)
        assert float((enlarged - expected).abs().max()) <= 1e-6


class TestWhatIsRemembered:
    @pytest.mark.parametrize("name", ["Compact 16x4", "ESRGAN 32x2"])
    def test_is_measured_once_and_can_be_kept_in_a_file(self, name):
        descriptor, store = random_upscaler(name), {}
        for stage in Network(descriptor, [CPU], load, store=store).stages:
            stage.reach()
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
            assert stage.need == other.need
            assert stage.reach() == other.reach()
        assert len(calls) == probed
        assert again == store

    def test_the_need_of_each_type_and_layout_is_its_own(self, compact):
        store = {}
        wide = Network(compact, [CPU], load, Form(), store).stages[0].need
        narrow = Network(compact, [CPU], load, Form(torch.bfloat16), store).stages[0].need
        assert len([key for key in store if key.startswith("need")]) == 2
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
        need = Network(descriptor, [CPU], load).stages[0].need
        for height, width in ((64, 64), (150, 90), (301, 211)):
            counted = self.counted(descriptor, height, width)
            # The picture itself, its copy and the result of the picture's own size lie beside the layers.
            beside = 3 * height * width * 4 * 3
            assert counted <= need.peak * height * width <= 1.1 * (counted + beside)

    def test_of_a_larger_picture_is_foretold(self):
        for name in ("Compact 64x16", "SPAN 48", "SwinIR", "ESRGAN 32x2"):
            network = Network(random_upscaler(name), [CPU], load)
            stage = network.stages[0]
            picture = pictures(1, 12 if network.shuffle > 1 else 3, 160, 224)
            with _LivingTensors(CPU) as living:
                stage.workers[0](picture)
            pixels = 160 * 224
            assert 0.95 * living.peak <= stage.need.peak * pixels <= 1.25 * living.peak, name
