"""UNets of the host that are not SD 1.x, 2.x or SDXL: an effect acts on them, or says in a message why it cannot."""

from __future__ import annotations

import logging
from itertools import product

import comfy.supported_models
import pytest
import torch
from comfy.samplers import calculate_sigmas
from comfy_extras.nodes_sdupscale import SD_4XUpscale_Conditioning
from megapixel.attention.instant_id import FaceKeys
from megapixel.patches.deep_shrink import DeepShrink, apply_deep_shrink
from megapixel.patches.hidiffusion import HiDiffusion, apply_hidiffusion
from megapixel.patches.instant_id import Person, apply_instant_id, cross_attentions
from megapixel.patches.msw_msa import apply_msw_msa, original_preset
from megapixel.patches.rau_net import apply_rau_net
from megapixel.patches.rau_net_published import Published
from megapixel.patches.rau_net_settings import RAUNet
from megapixel.patches.run_plan import plan_run
from megapixel.patches.topology import topology_in
from megapixel.patches.trained_size import Trained, trained_side

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
UPSCALER = SD2 | {"in_channels": 7, "num_classes": 1000, "disable_self_attentions": [True, True, False]}
TO_TEXT = SD2 | {"disable_self_attentions": [True, False, False]}
EFFECTS = {
    "Deep Shrink": lambda model: apply_deep_shrink(model, DeepShrink(2)),
    "RAU-Net": lambda model: apply_rau_net(
        model, RAUNet((2,), (), ca_input_blocks=(3,), ca_output_blocks=(), ca_latent_pixel_increment=1)
    ),
    "published RAU-Net": lambda model: apply_rau_net(model, Published()),
    "MSW-MSA": lambda model: apply_msw_msa(model, original_preset(topology_in(model), 0.0)),
    "HiDiffusion": lambda model: apply_hidiffusion(model, HiDiffusion(trained_size=96)),
    "HiDiffusion published": lambda model: apply_hidiffusion(
        model, HiDiffusion(mode="published", trained_size=96)
    ),
    "Deep Shrink auto": lambda model: apply_deep_shrink(model, DeepShrink(mode="auto", trained_size=96)),
}
SKIPPED = "because its tokens are not those of the image"


def built(family, config):
    return build_unet(family, config, lambda network: random_models.random_state(network, 0))


@pytest.fixture(scope="module")
def models():
    return {
        "without a middle block": random_models.sdxl(**KOALA),
        "for video": built(comfy.supported_models.SVD_img2vid, VIDEO),
        "short": random_models.sd15(**topology.SHORT),
        "that upscales by 4": built(comfy.supported_models.SD_X4Upscaler, UPSCALER),
        "with attention to the text only": built(comfy.supported_models.SD20, TO_TEXT),
    }


@pytest.mark.filterwarnings("ignore:To copy construct")  # the host's own, of the upscaler
@pytest.mark.parametrize(
    ("name", "effect"),
    [
        *product(("without a middle block", "for video"), EFFECTS),
        *product(("that upscales by 4",), ("Deep Shrink", "RAU-Net", "published RAU-Net")),
    ],
)
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


@pytest.mark.parametrize("levels", ["attention at the deepest alone", "two"])
@pytest.mark.parametrize("effect", ["published RAU-Net", "HiDiffusion published"])
def test_published_blocks_that_are_missing_are_an_error_message_of_the_node(levels, effect):
    config = topology.TWO_LEVELS if levels == "two" else {
        "transformer_depth": [0, 0, 0, 0, 1, 1], "transformer_depth_output": [0] * 6 + [1] * 3, "transformer_depth_middle": 1,
    }  # fmt: skip
    with pytest.raises(
        ValueError, match=r"^model: expected a UNet with a Downsample below .*, got one without\. "
    ):
        EFFECTS[effect](random_models.sdxl(**config))


@pytest.mark.parametrize("name", ["Deep Shrink auto", "HiDiffusion"])
def test_automatic_settings_are_refused_where_no_block_halves_the_features(name):
    one_level = {
        "num_res_blocks": [1], "channel_mult": (1,), "transformer_depth": [1],
        "transformer_depth_output": [1, 1], "transformer_depth_middle": 1,
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"^model: expected a UNet with a Downsample, got one without\. "):
        EFFECTS[name](random_models.sd15(**one_level))


@pytest.mark.parametrize(
    ("config", "block"), [(KOALA, 2), (topology.SHORT, 2), (topology.SDXL | topology.SHALLOW, 3)]
)
def test_automatic_settings_shrink_after_the_first_downsample(config, block):
    model = EFFECTS["Deep Shrink auto"](random_models.sdxl(**config))
    [first, *_] = plan_run(
        model, SIZE, calculate_sigmas(model.get_model_object("model_sampling"), "normal", 3)
    ).steps
    assert list(first.marks) == [("input", block)]


@pytest.mark.filterwarnings("ignore:To copy construct")
@pytest.mark.parametrize(("pixels", "side"), [(0, 128), (256, 64)])
def test_a_latent_pixel_of_the_x4_upscaler_has_four_image_pixels(models, pixels, side):
    model = models["that upscales by 4"].model
    assert trained_side(model, pixels) == side
    image = torch.zeros(1, 16, 16, 3)
    _, _, latent = SD_4XUpscale_Conditioning.execute(image, [], [], 4.0, 0.0).result
    assert latent["samples"].shape[-1] == 64 // Trained.latent_pixel * 2


def face(model):
    widths = tuple(cross_attentions(model.get_model_object("diffusion_model")).values())
    return apply_instant_id(model, Person(FaceKeys(torch.ones(2, 2, 16, sum(widths)), widths)))


@pytest.mark.parametrize("shape", [(1, 4, 3, 16, 16), (1, 4, 300)], ids=["frames", "packed with audio"])
@pytest.mark.parametrize("effect", [*EFFECTS, "InstantID"])
def test_a_latent_of_another_kind_of_model_is_an_error_message(models, effect, shape):
    apply = EFFECTS.get(effect, face)
    with pytest.raises(
        ValueError, match=rf"^latent_image: expected a latent B x C x H x W, got {len(shape)} dimensions"
    ):
        sample(apply(models["short"]), latent=torch.zeros(shape))
