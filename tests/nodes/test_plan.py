from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from comfy.samplers import KSampler
from megapixel.host import notice
from megapixel.nodes import plan as plan_node
from megapixel.patches.deep_shrink import DeepShrink, apply_deep_shrink
from megapixel.patches.hidiffusion import HiDiffusion, apply_hidiffusion
from megapixel.patches.plan_picture import draw_plan
from megapixel.patches.run_plan import plan_run

ORANGE, PURPLE, GREEN = (214, 118, 20), (158, 44, 138), (20, 132, 74)
SIGMAS = torch.linspace(10.0, 0.0, 11)


def colours(picture):
    return {colour for _, colour in picture.getcolors(1 << 20)}


def drawn(model, size=(64, 48)):
    return draw_plan(plan_run(model, size, SIGMAS))


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_each_effect_has_its_colour_and_a_plain_model_none(request, family):
    model = request.getfixturevalue(family)
    assert not {ORANGE, PURPLE, GREEN} & colours(drawn(model))
    shrink = apply_deep_shrink(model, DeepShrink())
    assert {ORANGE, PURPLE, GREEN} & colours(drawn(shrink)) == {ORANGE}
    trained, size = (1024, (256, 192)) if family == "sdxl" else (128, (64, 48))
    for mode, scaling in (("auto", ORANGE), ("published", PURPLE)):
        ours = apply_hidiffusion(model, HiDiffusion(mode=mode, trained_size=trained))
        assert {ORANGE, PURPLE, GREEN} & colours(drawn(ours, size)) == {scaling, GREEN}


def test_smaller_features_are_drawn_darker(sd15):
    half, quarter = (
        np.asarray(drawn(apply_deep_shrink(sd15, DeepShrink(downscale_factor=factor)))).mean()
        for factor in (2, 4)
    )
    assert np.asarray(drawn(sd15)).mean() > half > quarter


def test_the_picture_grows_with_the_unet_and_takes_many_steps(sd15, sdxl):
    assert drawn(sd15).height > drawn(sdxl).height
    many = draw_plan(plan_run(apply_deep_shrink(sd15, DeepShrink()), (64, 48), torch.linspace(10, 0, 1001)))
    assert many.size == drawn(apply_deep_shrink(sd15, DeepShrink())).size


@pytest.fixture
def planned_sigmas(monkeypatch):
    """The sigmas that the node hands on."""
    seen = []
    monkeypatch.setattr(
        plan_node,
        "plan_run",
        lambda model, size, sigmas: seen.append((size, sigmas)) or plan_run(model, size, sigmas),
    )
    # A preview needs a running server's folders.
    shown = SimpleNamespace(as_dict=lambda: {"images": []})
    monkeypatch.setattr(notice.ui, "PreviewImage", lambda image, cls: shown)
    return seen


@pytest.mark.parametrize("denoise", [1.0, 0.4])
def test_the_steps_are_those_of_the_sampler(sd15, planned_sigmas, denoise):
    latent = {"samples": torch.zeros(1, 4, 40, 24)}
    output = plan_node.MegapixelPlan.execute(sd15, latent, 10, "karras", denoise)
    [(size, sigmas)] = planned_sigmas
    assert size == (40, 24)
    assert torch.equal(sigmas, KSampler(sd15, 10, torch.device("cpu"), "euler", "karras", denoise).sigmas)
    image = output.args[0]
    assert image.shape[0] == 1
    assert image.shape[2:] == (1280, 3)
    assert image.dtype == torch.float32
    assert 0 <= image.min() < image.max() <= 1


def test_sigmas_replace_the_steps(sd15, planned_sigmas):
    plan_node.MegapixelPlan.execute(sd15, {"samples": torch.zeros(1, 4, 8, 8)}, 10, "karras", 1.0, SIGMAS)
    assert planned_sigmas[0][1] is SIGMAS


def test_too_few_sigmas_are_one_sentence(sd15):
    with pytest.raises(ValueError, match=r"^sigmas: expected at least 2 noise levels, got 1\. A single step"):
        plan_node.MegapixelPlan.execute(
            sd15, {"samples": torch.zeros(1, 4, 8, 8)}, 10, "karras", 1.0, SIGMAS[:1]
        )
