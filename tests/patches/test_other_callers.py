"""Effects beside packs that do not call the model as the host does:
stand-ins with the calling patterns of real ones.
"""

from __future__ import annotations

import logging

import pytest
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import forward_timestep_embed, timestep_embedding
from comfy.patcher_extension import WrappersMP
from megapixel.patches.deep_shrink import DeepShrink, apply_deep_shrink
from megapixel.patches.hidiffusion import HiDiffusion, apply_hidiffusion
from megapixel.patches.msw_msa import MSWMSA, apply_msw_msa
from megapixel.patches.rau_net import apply_rau_net
from megapixel.patches.rau_net_settings import RAUNet

from devhost.sampling import sample

EFFECTS = {
    "Deep Shrink": lambda model: apply_deep_shrink(model, DeepShrink()),
    "Deep Shrink auto": lambda model: apply_deep_shrink(model, DeepShrink(mode="auto", trained_size=128)),
    "RAU-Net": lambda model: apply_rau_net(model, RAUNet()),
    "MSW-MSA": lambda model: apply_msw_msa(model, MSWMSA((1, 2), (), (9, 10, 11))),
    "HiDiffusion": lambda model: apply_hidiffusion(model, HiDiffusion(trained_size=128)),
    "HiDiffusion published": lambda model: apply_hidiffusion(
        model, HiDiffusion(mode="published", trained_size=128)
    ),
}
BY_SIZE = [name for name in EFFECTS if "auto" in name or "HiDiffusion" in name]
SIZE = (32, 28)
DID_NOTHING = "did nothing in this run"


def around(model, function):
    """Return a clone whose model calls go through `function(apply_model, x, t, c)`."""
    clone = model.clone()
    clone.set_model_unet_function_wrapper(
        lambda apply_model, call: function(apply_model, call["input"], call["timestep"], call["c"])
    )
    return clone


def call_unet_itself(apply_model, x, t, c):
    """Everything that `apply_model` does, without it and so without its wrappers."""
    return apply_model.__self__._apply_model(x, t, **c)


def walk_blocks(apply_model, x, t, c, cached=None, interval=1, depth=3):
    """Run the blocks one after another; with `cached`, the deep ones only in every `interval`-th step."""
    base, options = apply_model.__self__, c["transformer_options"]
    unet, sampling, patches = base.diffusion_model, base.model_sampling, options.get("patches", {})
    h = sampling.calculate_input(t, x)
    options["original_shape"] = list(h.shape)
    emb = unet.time_embed(timestep_embedding(sampling.timestep(t).float(), unet.model_channels))
    whole = cached is None or cached.setdefault("calls", 0) % interval == 0
    skips = []
    for number, block in enumerate(unet.input_blocks[: None if whole else depth + 1]):
        options["block"] = ("input", number)
        h = forward_timestep_embed(block, h, emb, c["c_crossattn"], options)
        for patch in patches.get("input_block_patch", ()):
            h = patch(h, options)
        skips.append(h)
        for patch in patches.get("input_block_patch_after_skip", ()):
            h = patch(h, options)
    if whole:
        options["block"] = ("middle", 0)
        h = forward_timestep_embed(unet.middle_block, h, emb, c["c_crossattn"], options)
    first = len(unet.output_blocks) - 1 - depth
    for number, block in enumerate(unet.output_blocks):
        if not whole and number < first:
            continue
        if cached is not None and number == first:
            h = cached["h"] = h if whole else cached["h"]
        options["block"] = ("output", number)
        skip = skips.pop()
        for patch in patches.get("output_block_patch", ()):
            h, skip = patch(h, skip, options)
        shape = skips[-1].shape if skips else None
        h = forward_timestep_embed(block, torch.cat([h, skip], 1), emb, c["c_crossattn"], options, shape)
    if cached is not None:
        cached["calls"] += 1
    return sampling.calculate_denoised(t, unet.out(h), x)


def tile(apply_model, x, t, c):
    """Two tiles of half the width, one after another."""
    return torch.cat([apply_model(part.contiguous(), t, **c) for part in x.chunk(2, -1)], -1)


def tile_in_batch(apply_model, x, t, c):
    """The same two in one batch: tile 0 (cond, uncond), tile 1 (cond, uncond)."""
    both = {
        name: torch.cat([value] * 2) if isinstance(value, torch.Tensor) else value
        for name, value in c.items()
    }
    result = apply_model(torch.cat(x.chunk(2, -1)), torch.cat([t, t]), **both)
    return torch.cat(result.chunk(2), -1)


def tile_inside(model):
    """Return a clone that tiles below `apply_model`, at the UNet."""
    clone = model.clone()

    def run(executor, x, *args, **kwargs):
        unet = executor.class_obj
        args = (
            *args,
            *(
                kwargs.pop(name)
                for name in ("context", "y", "control", "transformer_options")
                if name in kwargs
            ),
        )
        return torch.cat([unet(part.contiguous(), *args, **kwargs) for part in x.chunk(2, -1)], -1)

    inside = []

    def once(executor, x, *args, **kwargs):
        if inside:
            return executor(x, *args, **kwargs)
        inside.append(True)
        try:
            return run(executor, x, *args, **kwargs)
        finally:
            inside.pop()

    clone.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "tiles", once)
    return clone


def logged(caplog, model, size=SIZE, **settings):
    caplog.clear()
    with caplog.at_level(logging.INFO, "megapixel"):
        result = sample(model, size, **settings)
    return result, caplog.text


@pytest.mark.parametrize("effect", EFFECTS)
def test_effects_act_where_a_pack_runs_the_unet_itself(sd15, caplog, effect):
    apply = EFFECTS[effect]
    expected = sample(apply(sd15), SIZE, steps=3)
    for caller in (call_unet_itself, walk_blocks):
        for both in (around(apply(sd15), caller), apply(around(sd15, caller))):
            result, text = logged(caplog, both, steps=3)
            torch.testing.assert_close(result, expected, rtol=0, atol=0)
            assert DID_NOTHING not in text


@pytest.mark.parametrize("caller", [call_unet_itself, walk_blocks])
def test_without_an_effect_these_give_the_plain_bits(sd15, caller):
    assert torch.equal(sample(around(sd15, caller), SIZE, steps=3), sample(sd15, SIZE, steps=3))


@pytest.mark.parametrize("effect", EFFECTS)
def test_a_pack_that_caches_deep_features_over_steps(sd15, effect):
    """Their sizes change between two steps, where the effect ends."""

    def cached(model):
        kept = {}
        return sample(around(model, lambda *call: walk_blocks(*call, cached=kept, interval=2)), SIZE, steps=4)

    ours = EFFECTS[effect](sd15)
    result = cached(ours)
    assert result.isfinite().all()
    assert torch.equal(cached(ours), result)
    assert not torch.equal(result, cached(sd15))


@pytest.mark.parametrize("tiles", [tile, tile_in_batch])
@pytest.mark.parametrize("effect", BY_SIZE)
def test_tiles_of_the_trained_size_are_left_alone_and_the_log_says_so(sd15, caplog, effect, tiles):
    size = (16, 32)
    result, text = logged(caplog, around(EFFECTS[effect](sd15), tiles), size)
    assert torch.equal(result, sample(around(sd15, tiles), size))
    assert DID_NOTHING in text


@pytest.mark.parametrize("effect", EFFECTS)
def test_tiles_in_one_batch_are_as_one_after_another(sd15, effect):
    """Larger than the trained size, so that effects act on them."""
    size = (28, 48)
    one, batch = (sample(around(EFFECTS[effect](sd15), tiles), size) for tiles in (tile, tile_in_batch))
    assert (batch - one).norm() < 1e-3 * one.norm()  # other batches round otherwise
    assert not torch.equal(one, sample(around(sd15, tile), size))


@pytest.mark.parametrize("effect", BY_SIZE)
def test_tiles_below_the_model_call_are_planned_by_their_own_size(sd15, effect):
    for size in ((16, 32), (28, 48)):
        ours_inside = sample(tile_inside(EFFECTS[effect](sd15)), size)
        by_tiles = sample(around(EFFECTS[effect](sd15), tile), size)
        torch.testing.assert_close(ours_inside, by_tiles, rtol=0, atol=1e-5)


def test_a_pack_that_skips_calls_gets_the_same_image_twice(sd15):
    """The result of one call serves the next, as packs that cache the first block or the whole model do."""

    def run():
        kept = []

        def skipping(apply_model, x, t, c):
            result = kept.pop() if kept else apply_model(x, t, **c)
            if result is not None and not getattr(result, "served", False):
                kept.append(result)
            return result

        return sample(around(EFFECTS["HiDiffusion"](sd15), skipping), SIZE, steps=4)

    first = run()
    assert first.isfinite().all()
    assert torch.equal(run(), first)


def test_nothing_is_left_of_a_run_that_failed_inside_another_packs_call(sd15):
    from megapixel.patches import wrapper

    expected = sample(EFFECTS["HiDiffusion"](sd15), SIZE)

    def fail(apply_model, x, t, c):
        call_unet_itself(apply_model, x, t, c)
        raise RuntimeError("inside the pack")

    with pytest.raises(RuntimeError, match="inside the pack"):
        sample(around(EFFECTS["HiDiffusion"](sd15), fail), SIZE)
    assert wrapper._PLANS == wrapper._PUBLISHED == {}
    assert torch.equal(sample(EFFECTS["HiDiffusion"](sd15), SIZE), expected)
