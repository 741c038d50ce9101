"""What several tests of patches watch a run with, and the models that several of them share."""

from __future__ import annotations

import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_extras.nodes_torch_compile import skip_torch_compile_dict
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from devhost.sampling import sample
from devhost.tiny import random_models, topology


@pytest.fixture(scope="session")
def two_levels():
    """A tiny SD 1.5 of two levels, for tests that compile it."""
    return random_models.sd15(**topology.TWO_LEVELS)


class CountingBackend:
    """A backend that runs what was traced as it is, and counts the graphs;
    `added` has those of each step of a run.
    """

    def __init__(self):
        self.graphs = 0
        self.added = []

    def watch_step(self, executor, *args, **kwargs):
        before = self.graphs
        result = executor(*args, **kwargs)
        self.added.append(self.graphs - before)
        return result

    def __call__(self, module, inputs):
        self.graphs += 1
        return module.forward


@pytest.fixture
def compiled():
    """A function (model) that returns a clone as the host's node compiles it,
    and the backend that counts its graphs.
    """

    def compile_as_the_host_does(model):
        torch._dynamo.reset()
        clone, backend = model.clone(), CountingBackend()
        set_torch_compile_wrapper(
            clone, backend=backend, options={"guard_filter_fn": skip_torch_compile_dict}
        )
        clone.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "count graphs", backend.watch_step)
        return clone, backend

    yield compile_as_the_host_does
    torch._dynamo.reset()


def uniform_attention(attention, q, k, v, heads, mask=None, **kwargs):
    """Attend to all tokens alike: the shapes of attention at a cost that does not grow with their square."""
    assert q.shape[0] == k.shape[0] == v.shape[0]
    assert k.shape == v.shape
    return v.mean(1, keepdim=True).expand(-1, q.shape[1], -1)


@pytest.fixture(scope="session")
def light_model():
    model = random_models.sd15().clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = uniform_attention
    return model


@pytest.fixture(scope="session")
def light_controlnet():
    """A ControlNet with attention at the third level alone: the host gives it no attention override."""
    return random_models.controlnet(topology.SD15 | {"transformer_depth": [0, 0, 0, 0, 1, 1, 0, 0]})


@pytest.fixture(scope="session")
def with_control():
    """A function (model, controlnet, size) that returns conditioning under a ControlNet
    with a hint of that size.
    """

    def condition(model, controlnet, size):
        height, width = size
        hint = torch.linspace(0, 1, 3 * 64).reshape(1, 3, 8, 8).repeat(1, 1, height, width)
        conditioning = random_models.conditioning(model, 1)
        control = controlnet.copy().set_cond_hint(hint, 1.0, (0.0, 1.0))
        conditioning[0][1].update(control=control, control_apply_to_uncond=True)
        return conditioning

    return condition


class UnetCall:
    """One call of the UNet: its batch, its noise level, and the sizes of the features at each block."""

    def __init__(self, batch, sigma):
        self.batch = batch
        self.sigma = sigma
        self.sizes = {}
        self.attention = {}  # (height, width) by (kind of block, its number), where it has attention


class UnetWatcher:
    """The calls of a clone's UNet, seen through the host's own hooks: ahead of all patches that follow."""

    def __init__(self, model):
        self.calls = []
        model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "watch", self.begin)
        model.set_model_input_block_patch(self.see_input)
        model.set_model_output_block_patch(self.see_output)
        model.set_model_attn2_patch(self.see_attention)

    def begin(self, executor, x, timesteps, context, y, control, options, **kwargs):
        self.calls.append(UnetCall(x.shape[0], options["sigmas"][0].item()))
        return executor(x, timesteps, context, y, control, options, **kwargs)

    def see_input(self, features, options):
        self.calls[-1].sizes[options["block"]] = tuple(features.shape[-2:])
        return features

    def see_output(self, features, skip, options):
        self.calls[-1].sizes[options["block"]] = tuple(skip.shape[-2:])
        return features, skip

    def see_attention(self, tokens, context, value, options):
        size = tuple(options["activations_shape"][-2:])
        assert tokens.shape[1] == size[0] * size[1]
        self.calls[-1].attention[options["block"]] = size
        return tokens, context, value


@pytest.fixture(scope="session")
def watch():
    """A class (model) that starts to watch the UNet's calls on a clone; apply it ahead of the effects."""
    return UnetWatcher


def split(model, monkeypatch):
    """Let the host call the UNet once for each condition, as if memory were short."""
    monkeypatch.setattr(model.model, "memory_required", lambda *args, **kwargs: float("inf"))


@pytest.fixture
def apart(monkeypatch):
    """A function (model) after which the host calls the UNet once for each condition."""
    return lambda model: split(model, monkeypatch)


class HostSyncs(TorchFunctionMode):
    """Counts what would wait for the device: numbers taken out of tensors,
    and shapes that depend on values.
    """

    METHODS = "item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__", "nonzero"

    class Dispatched(TorchDispatchMode):
        OPS = torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.count += func in self.OPS
            return func(*args, **(kwargs or {}))

    def __init__(self):
        super().__init__()
        self.methods = 0
        self.dispatched = self.Dispatched()

    @property
    def count(self):
        return self.methods + self.dispatched.count

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        self.methods += name in self.METHODS or (name == "to" and self.moves(*args[1:], **kwargs))
        return func(*args, **kwargs)

    @staticmethod
    def moves(*args, non_blocking=False, **kwargs):
        """Return whether a `to` with these arguments may copy between devices, and waits for it."""
        others = (*args, *kwargs.values())
        return not non_blocking and any(
            isinstance(each, (torch.device, str, torch.Tensor)) for each in others
        )

    def watch(self, executor, *args, **kwargs):
        with self, self.dispatched:
            return executor(*args, **kwargs)


def syncs_inside_the_unet(model):
    return syncs_inside(model, WrappersMP.DIFFUSION_MODEL)


def syncs_inside(model, kind):
    """Count them in what the host calls through that kind of wrapper, in a run of three steps."""
    clone, syncs = model.clone(), HostSyncs()
    clone.add_wrapper_with_key(kind, "syncs", syncs.watch)
    sample(clone, (37, 29), steps=3)
    return syncs.count
