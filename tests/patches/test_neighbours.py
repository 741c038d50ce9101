"""Effects beside the host's own nodes that look into the same UNet."""

from __future__ import annotations

import comfy.samplers
import pytest
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample, Upsample
from comfy.ldm.supir.supir_patch import SUPIRPatch
from comfy_extras.nodes_cfg import CFGNorm
from comfy_extras.nodes_custom_sampler import Guider_DualCFG
from comfy_extras.nodes_hypertile import HyperTile
from comfy_extras.nodes_tomesd import TomePatchModel
from megapixel.patches.deep_shrink import DeepShrink, apply_deep_shrink
from megapixel.patches.hidiffusion import HiDiffusion, apply_hidiffusion
from megapixel.patches.msw_msa import MSWMSA, apply_msw_msa
from megapixel.patches.rau_net import apply_rau_net
from megapixel.patches.rau_net_settings import RAUNet

from devhost.sampling import sample
from devhost.tiny import random_models

SIZE = (32, 26)
SHRINKS = {
    "a factor below the root of 2": DeepShrink(1, 1.2, end_percent=1.0),
    "a fade": DeepShrink(1, 2.0, end_percent=0.2, fade_percent=0.7),
    "features that grow": DeepShrink(1, 0.8, end_percent=1.0),
    "block 3": DeepShrink(),
}
MERGING = {
    "ToMe": lambda model: TomePatchModel.execute(model, 0.3)[0],
    "HyperTile": lambda model: HyperTile.execute(model, 64, 4, 1, False)[0],
}


def repeatable(model, size=SIZE, steps=5):
    """Sample with the global random state set, for neighbours that draw from it, and left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return sample(model, size, steps=steps, cfg=1.0)


@pytest.mark.parametrize("neighbour", MERGING)
@pytest.mark.parametrize("shrink", SHRINKS)
def test_merged_tokens_on_features_of_any_size(sd15, shrink, neighbour):
    merge = MERGING[neighbour]
    one = repeatable(merge(apply_deep_shrink(sd15, SHRINKS[shrink])))
    other = repeatable(apply_deep_shrink(merge(sd15), SHRINKS[shrink]))
    assert one.isfinite().all()
    assert torch.equal(one, other)
    for part in (merge(sd15), apply_deep_shrink(sd15, SHRINKS[shrink])):
        assert not torch.equal(one, repeatable(part))


def test_a_layer_on_small_features_is_given_the_latent_that_has_them(sd15):
    shapes = {}

    def note(tokens, context, value, options):
        grid = options["activations_shape"][-2:]
        shapes[options["block"]] = tuple(options["original_shape"][-2:]), tuple(grid)
        return tokens, context, value

    def seen(model, size):
        shapes.clear()
        clone = model.clone()
        clone.set_model_attn1_patch(note)
        sample(clone, size, steps=1, cfg=1.0)
        return dict(shapes)

    plain = seen(sd15, (33, 26))
    assert {shape for shape, _ in plain.values()} == {(33, 26)}
    ours = seen(apply_deep_shrink(sd15, DeepShrink(3, 2.0)), (33, 26))
    assert ours["input", 1] == plain["input", 1]
    assert ours["input", 4] == ((16, 12), (8, 6))
    assert seen(apply_deep_shrink(sd15, DeepShrink(3, 1.0)), (33, 26)) == plain


class Control:
    """SUPIR's control network, in shapes alone: a feature of one channel for each input
    block and the middle.
    """

    SIDES = (1, 1, 1, 2, 2, 2, 4, 4, 4, 4)

    def control_model(self, hint, timesteps, x, context, y):
        height, width = x.shape[-2:]
        return [torch.full((x.shape[0], 1, -(-height // n), -(-width // n)), 0.3) for n in self.SIDES]


def adapter(control, h, h_ori=None, control_scale=1.0):
    h = h + control
    return h if h_ori is None else torch.cat([h_ori, h], 1)


class Crossing:
    """The adapter before an Upsample, which is given nothing but the features."""

    def __call__(self, control, h, control_scale=1.0):
        assert control.shape[-2:] == h.shape[-2:]
        return h * 1.1


def supir(model):
    """Return a clone with the host's SUPIR, whose networks are small stand-ins."""
    modules = [adapter] * 10
    for place in (6, 3):
        modules.insert(place, Crossing())
    holder = type("Holder", (), {"model": Control()})()
    patch, clone = SUPIRPatch(holder, modules, torch.zeros(1, 4, 1, 1), 1.0, 1.0), model.clone()
    patch.register(clone)
    return clone


IDLE = {
    "HiDiffusion published": lambda model: apply_hidiffusion(model, HiDiffusion(mode="published")),
    "RAU-Net": lambda model: apply_rau_net(
        model, RAUNet(output_blocks=(), start_time=0.999, end_time=0.999, ca_input_blocks=())
    ),
    "Deep Shrink auto": lambda model: apply_deep_shrink(model, DeepShrink(mode="auto")),
}


@pytest.mark.parametrize("ours_first", [True, False], ids=["ours first", "ours last"])
@pytest.mark.parametrize("effect", IDLE)
def test_supir_is_not_silenced_by_an_effect_with_nothing_to_do(sdxl, effect, ours_first):
    expected = sample(supir(sdxl), (16, 12))
    assert not torch.equal(expected, sample(sdxl, (16, 12)))
    both = supir(IDLE[effect](sdxl)) if ours_first else IDLE[effect](supir(sdxl))
    assert torch.equal(sample(both, (16, 12)), expected)


@pytest.mark.parametrize("ours_first", [True, False], ids=["ours first", "ours last"])
def test_small_features_beside_supir_are_an_error_before_the_first_step(sdxl, ours_first):
    def shrink(model):
        return apply_deep_shrink(model, DeepShrink())

    both = supir(shrink(sdxl)) if ours_first else shrink(supir(sdxl))
    message = r"^model: expected a model without SUPIR for Deep Shrink, got one with SUPIR\. "
    with pytest.raises(ValueError, match=message):
        sample(both, (16, 12))
    windows = apply_msw_msa(supir(sdxl), MSWMSA((4, 5), (), (3, 4, 5)))  # these change no size
    assert sample(windows, (16, 12)).isfinite().all()


ESTIMATES = {
    "Deep Shrink auto": lambda model: apply_deep_shrink(model, DeepShrink(mode="auto", trained_size=128)),
    "RAU-Net": lambda model: apply_rau_net(model, RAUNet()),
    "HiDiffusion": lambda model: apply_hidiffusion(model, HiDiffusion(trained_size=128)),
    "HiDiffusion published": lambda model: apply_hidiffusion(
        model, HiDiffusion(mode="published", trained_size=128)
    ),
}


@pytest.mark.parametrize("effect", ESTIMATES)
def test_a_nested_guidance_of_one_prompt_twice_is_plain_guidance(sd15, effect):
    model = ESTIMATES[effect](sd15)
    positive, negative = (random_models.conditioning(sd15, seed) for seed in (1, 2))
    guider = Guider_DualCFG(model)
    guider.set_conds(positive, positive, negative)
    guider.set_cfg(5.0, 3.0, True)
    noise = torch.randn(1, 4, *SIZE, generator=torch.Generator().manual_seed(0))
    sigmas = torch.tensor([9.0, 4.0, 1.0, 0.0])
    with torch.inference_mode():
        euler = comfy.samplers.sampler_object("euler")
        nested = guider.sample(noise, torch.zeros_like(noise), euler, sigmas, disable_pbar=True, seed=0)
    plain = sample(model, SIZE, sigmas=sigmas, cfg=3.0, positive=positive, negative=negative)
    assert (nested - plain).norm() < 1e-5 * plain.norm()
    assert not torch.equal(plain, sample(sd15, SIZE, sigmas=sigmas, cfg=3.0))


@pytest.mark.parametrize("effect", ESTIMATES)
def test_what_is_done_to_the_estimate_does_not_depend_on_the_order_of_nodes(sd15, effect):
    def norm(model):
        return CFGNorm.execute(model, 1.0)[0]

    one, other = sample(norm(ESTIMATES[effect](sd15)), SIZE), sample(ESTIMATES[effect](norm(sd15)), SIZE)
    assert torch.equal(one, other)
    assert not torch.equal(one, sample(norm(sd15), SIZE))


class Handler:
    """Another pack's handler of a layer: it does something around the layer,
    and reads the layer's own parts.
    """

    def __init__(self):
        self.calls = 0

    def __call__(self, layer, x, emb, context, options, output_shape, *rest):
        self.calls += 1
        assert layer.channels == x.shape[1]
        return (
            layer(x, output_shape=output_shape) if isinstance(output_shape, torch.Size) else layer(x)
        ) * 1.1


@pytest.mark.parametrize("ours_first", [True, False], ids=["ours first", "ours last"])
@pytest.mark.parametrize("layer", [Downsample, Upsample])
def test_two_handlers_of_one_layer_both_run(sd15, record_sizes, layer, ours_first):
    def handled(model):
        handler, clone = Handler(), model.clone()
        clone.set_model_patch((layer, handler), "forward_timestep_embed_patch")
        return clone, handler

    ours = RAUNet(end_time=0.5, ca_input_blocks=(), ca_output_blocks=())
    alone, _ = handled(sd15)
    if ours_first:
        both, handler = handled(apply_rau_net(sd15, ours))
    else:
        both, handler = handled(sd15)
        both = apply_rau_net(both, ours)
    recorder = record_sizes(both, 4)
    result = sample(both, SIZE, steps=4, cfg=1.0)
    assert handler.calls == 4 * 3
    assert set(recorder.sizes) == {(16, 13), (8, 7)}
    for other in (alone, apply_rau_net(sd15, ours)):
        assert not torch.equal(result, sample(other, SIZE, steps=4, cfg=1.0))
    never = RAUNet(start_time=0.999, end_time=0.999, ca_input_blocks=(), ca_output_blocks=())
    idle, _ = handled(apply_rau_net(sd15, never))
    assert torch.equal(sample(idle, SIZE, cfg=1.0), sample(alone, SIZE, cfg=1.0))
