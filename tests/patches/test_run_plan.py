from __future__ import annotations

import pytest
import torch
from comfy.samplers import calculate_sigmas
from megapixel.patches import msw_msa
from megapixel.patches.deep_shrink import DeepShrink, apply_deep_shrink
from megapixel.patches.hidiffusion import HiDiffusion, apply_hidiffusion
from megapixel.patches.msw_msa import MSWMSA, apply_msw_msa
from megapixel.patches.rau_net import apply_rau_net
from megapixel.patches.rau_net_published import Published
from megapixel.patches.rau_net_settings import RAUNet
from megapixel.patches.run_plan import plan_run
from megapixel.patches.topology import topology_of

from devhost.sampling import sample

STEPS = 8
EFFECTS = {
    "nothing": lambda model: model,
    "Deep Shrink, fading": lambda model: apply_deep_shrink(
        model, DeepShrink(downscale_factor=1.7, end_percent=0.3, fade_percent=0.5, downscale_after_skip=False)
    ),
    "RAU-Net, published": lambda model: apply_rau_net(model, Published()),
    "RAU-Net, pool fading": lambda model: apply_rau_net(
        model,
        RAUNet(
            input_blocks=(),
            output_blocks=(),
            ca_output_blocks=(),
            ca_end_time=0.8,
            ca_fadeout_start_time=0.2,
            ca_latent_pixel_increment=1,
        ),
    ),
    "HiDiffusion over Deep Shrink": lambda model: apply_hidiffusion(
        apply_deep_shrink(model, DeepShrink(block_number=6, end_percent=0.5)), HiDiffusion(trained_size=128)
    ),
    "Deep Shrink over HiDiffusion": lambda model: apply_deep_shrink(
        apply_hidiffusion(model, HiDiffusion(mode="published", trained_size=128)), DeepShrink(block_number=1)
    ),
}


def sigmas_of(model):
    return calculate_sigmas(model.get_model_object("model_sampling"), "normal", STEPS)


class Watcher:
    """The sizes that enter every block, seen through the host's own hooks ahead of all other patches."""

    def __init__(self, model):
        self.steps = []
        model.set_model_input_block_patch(self.see_input)
        model.set_model_output_block_patch(self.see_output)

    def see_input(self, features, options):
        if options["block"][1] == 0:
            self.steps.append({})
        self.steps[-1][options["block"]] = tuple(features.shape[-2:])
        return features

    def see_output(self, features, skip, options):
        self.steps[-1][options["block"]] = tuple(skip.shape[-2:])
        return features, skip


@pytest.mark.parametrize("effect", EFFECTS.values(), ids=EFFECTS)
@pytest.mark.parametrize(("family", "size"), [("sd15", (37, 29)), ("sdxl", (33, 26))], ids=str)
def test_the_told_sizes_are_those_inside_the_unet_at_every_step(request, family, effect, size):
    base = request.getfixturevalue(family).clone()
    watcher = Watcher(base)
    patched = effect(base)
    plan = plan_run(patched, size, sigmas_of(patched))
    sample(patched, size, steps=STEPS, cfg=1.0)
    assert len(watcher.steps) == len(plan.steps) == STEPS
    for seen, told in zip(watcher.steps, plan.steps, strict=True):
        assert seen == {place: told.sizes[place] for place in seen}


def test_marks_name_the_effect_at_its_blocks(sd15):
    model = apply_msw_msa(apply_rau_net(sd15, RAUNet(end_time=0.5)), MSWMSA(start_time=0.5))
    plan = plan_run(model, (64, 48), sigmas_of(model))
    assert plan.steps[0].marks == {
        ("input", 3): (("rau_net", "stride 4"),),
        ("input", 4): (("rau_net", "pool 2"),),
        ("output", 8): (("rau_net", "x 4, restored"),),
    }
    windows = (("msw_msa", "2x2 windows"),)
    places = [("input", 1), ("input", 2), ("output", 9), ("output", 10), ("output", 11)]
    assert plan.steps[-1].marks == dict.fromkeys(places, windows)
    assert list(plan.words) == ["rau_net", "msw_msa"]


def test_native_windows_are_counted_by_the_size_that_a_level_was_trained_at(sdxl):
    topology = topology_of(sdxl.get_model_object("diffusion_model"))
    model = apply_msw_msa(sdxl, msw_msa.original_preset(topology, 0.0, windows="native", trained_size=128))
    marks = plan_run(model, (64, 48), sigmas_of(model)).steps[0].marks
    assert set(marks.values()) == {(("msw_msa", "4x3 windows"),)}


def test_telling_a_plan_runs_no_model_and_keeps_nothing(sd15):
    model = apply_hidiffusion(sd15, HiDiffusion(trained_size=128))
    before = sample(model, steps=2)
    plans = [plan_run(model, (32, 24), sigmas_of(model)) for _ in range(2)]
    assert plans[0] == plans[1]
    assert torch.equal(sample(model, steps=2), before)
