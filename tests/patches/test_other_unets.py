"""UNets of the host that are not SD 1.x, 2.x or SDXL: an effect acts on them, or says in a message why it cannot."""

from __future__ import annotations

import logging

import comfy.supported_models
import pytest
import torch
from megapixel.patches.deep_shrink import DeepShrink, apply_deep_shrink
from megapixel.patches.hidiffusion import HiDiffusion, apply_hidiffusion
from megapixel.patches.msw_msa import apply_msw_msa, original_preset
from megapixel.patches.rau_net import apply_rau_net
from megapixel.patches.rau_net_published import Published
from megapixel.patches.rau_net_settings import RAUNet
from megapixel.patches.topology import topology_in

from devhost.sampling import sample
from devhost.tiny import random_models, topology
from devhost.tiny.unet import build_unet

SIZE = (26, 18)
SD2 = topology.SD15 | topology.SHORT | {"context_dim": 64, "use_linear_in_transformer": True}
KOALA = {
    "num_res_blocks": [1, 1, 1],
    "transformer_depth": [0, 1, 1],
    "transformer_depth_output": [0, 0, 1, 1, 1, 1],
    "transformer_depth_middle": -2,
}
VIDEO = SD2 | {
    "in_channels": 8, "adm_in_channels": 768, "num_classes": "sequential", "use_temporal_attention": True,
    "use_temporal_resblock": True, "extra_ff_mix_layer": True, "use_spatial_context": True, "merge_factor": 0.0,
    "merge_strategy": "learned_with_images", "video_kernel_size": [3, 1, 1], "disable_temporal_crossattention": False,
}  # fmt: skip
TO_TEXT = SD2 | {"disable_self_attentions": [True, False, False]}
EFFECTS = {
    "Deep Shrink": lambda model: apply_deep_shrink(model, DeepShrink(2)),
    "RAU-Net": lambda model: apply_rau_net(
        model, RAUNet((2,), (), ca_input_blocks=(3,), ca_output_blocks=(), ca_latent_pixel_increment=1)
    ),
    "published RAU-Net": lambda model: apply_rau_net(model, Published()),
    "MSW-MSA": lambda model: apply_msw_msa(model, original_preset(topology_in(model), 0.0)),
    "HiDiffusion": lambda model: apply_hidiffusion(model, HiDiffusion(trained_size=96)),
}
SKIPPED = "because its tokens are not those of the image"


def built(family, config):
    return build_unet(family, config, lambda network: random_models.random_state(network, 0))


@pytest.fixture(scope="module")
def models():
    return {
        "without a middle block": random_models.sdxl(**KOALA),
        "for video": built(comfy.supported_models.SVD_img2vid, VIDEO),
        "with attention to the text only": built(comfy.supported_models.SD20, TO_TEXT),
    }


@pytest.mark.parametrize("effect", EFFECTS)
@pytest.mark.parametrize("name", ["without a middle block", "for video"])
def test_an_effect_acts_and_skips_nothing(models, name, effect, caplog):
    model, settings = models[name], {"batch": 2, "steps": 3, "cfg": 1.0}
    plain = sample(model, SIZE, **settings)
    with caplog.at_level(logging.INFO, "megapixel"):
        result = sample(EFFECTS[effect](model), SIZE, **settings)
    assert result.isfinite().all()
    assert not torch.equal(result, plain)
    assert SKIPPED not in caplog.text
    assert torch.equal(sample(model, SIZE, **settings), plain)


def test_windows_are_skipped_where_a_layer_attends_to_the_text_only(models, caplog):
    model = models["with attention to the text only"]
    with caplog.at_level(logging.INFO, "megapixel"):
        result = sample(EFFECTS["MSW-MSA"](model), SIZE)
    assert torch.equal(result, sample(model, SIZE))
    assert caplog.text.count(SKIPPED) == len(topology_in(model).attention_inputs(0)) + 2


@pytest.mark.parametrize("effect", ["published RAU-Net", "MSW-MSA", "HiDiffusion"])
def test_a_unet_without_attention_is_refused_with_an_error_message(effect):
    model = random_models.sdxl(
        transformer_depth=[0] * 6, transformer_depth_output=[0] * 9, transformer_depth_middle=-1
    )
    with pytest.raises(ValueError, match=r"^model: expected a UNet with attention, got one without\. "):
        sample(EFFECTS[effect](model), SIZE)


def test_published_blocks_that_are_missing_are_an_error_message():
    model = random_models.sdxl(
        transformer_depth=[0, 0, 0, 0, 1, 1],
        transformer_depth_output=[0] * 6 + [1] * 3,
        transformer_depth_middle=1,
    )
    with pytest.raises(
        ValueError, match=r"^model: expected a UNet with a Downsample below .*, got one without\. "
    ):
        sample(EFFECTS["published RAU-Net"](model), SIZE)
