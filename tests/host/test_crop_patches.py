"""Patches on a model, in the host's own classes: what each segment's patch sees is the cut of the picture."""

from __future__ import annotations

import importlib.util
import types
from pathlib import Path

import comfy.ldm.anima.lllite as lllite
import comfy.ldm.lumina.controlnet as lumina_controlnet
import comfy.model_patcher
import comfy.ops
import comfy.utils
import pytest
import torch
from comfy.ldm.supir.supir_patch import SUPIRPatch
from comfy.ldm.wan import model_multitalk
from comfy.patcher_extension import WrappersMP
from comfy_extras import nodes_model_patch
from megapixel.host.canvas import Canvas
from megapixel.host.crop_patches import (
    CUTTERS,
    PLACELESS,
    crop_patches,
    name_of,
    patch_notices,
    patches_in,
    takes_batches,
)
from megapixel.scaling.box import Box
from megapixel.segs.crop import Crop

from devhost.tiny.families import CELL, FAMILIES, IdentityVae
from devhost.tiny.random_models import random_state

from .patches_in_source import patches_in_source
from .test_segment_families import (  # noqa: F401
    BOXES,
    SIZE,
    TILES,
    coordinates,
    identity_sampler,
    latent,
    model_of,
    parts,
    refine,
    segs,
)

ROOT = Path(comfy.utils.__file__).parents[1]
CANVAS = Canvas(SIZE, SIZE, CELL)
CROPS = [Crop(Box(y1, x1, y2, x2)) for x1, y1, x2, y2 in BOXES]

# The host's functions and classes that hold nothing that lies over the picture.
WITHOUT_A_PLACE = {
    "nodes_hypernetwork.hypernetwork_patch", "nodes_advanced_samplers.sample_euler_pp.<locals>.post_cfg_function",
    "nodes_apg.APG.execute.<locals>.pre_cfg_function", "nodes_cfg.CFGNorm.execute.<locals>.cfg_norm",
    "nodes_cfg.CFGNorm.execute.<locals>.cfg_norm_pre", "nodes_cfg.CFGZeroStar.execute.<locals>.cfg_zero_star",
    "nodes_chroma_radiance.ChromaRadianceOptions.execute.<locals>.model_function_wrapper",
    "nodes_custom_sampler.CFGOverride.execute.<locals>.predict_noise_wrapper",
    "nodes_differential_diffusion.DifferentialDiffusion.execute.<locals>.<lambda>",
    "nodes_easycache.easycache_calc_cond_batch_wrapper", "nodes_easycache.easycache_forward_wrapper",
    "nodes_easycache.easycache_sample_wrapper", "nodes_easycache.lazycache_predict_noise_wrapper",
    "nodes_eps.EpsilonScaling.execute.<locals>.epsilon_scaling_function",
    "nodes_eps.TemporalScoreRescaling.execute.<locals>.temporal_score_rescaling",
    "nodes_flux.FluxKVCache.execute.<locals>.model_input_patch",
    "nodes_freelunch.FreeU.execute.<locals>.output_block_patch",
    "nodes_freelunch.FreeU_V2.execute.<locals>.output_block_patch",
    "nodes_fresca.FreSca.execute.<locals>.custom_cfg_function",
    "nodes_hypertile.HyperTile.execute.<locals>.hypertile_in", "nodes_hypertile.HyperTile.execute.<locals>.hypertile_out",
    "nodes_latent.LatentApplyOperationCFG.execute.<locals>.pre_cfg_function",
    "nodes_lt.LTXVReferenceAudio.execute.<locals>.post_cfg_function",
    "nodes_lumina2.RenormCFG.execute.<locals>.renorm_cfg_func", "nodes_mahiro.Mahiro.execute.<locals>.mahiro_normd",
    "nodes_model_advanced.RescaleCFG.patch.<locals>.rescale_cfg",
    "nodes_model_downscale.PatchModelAddDownscale.execute.<locals>.input_block_patch",
    "nodes_model_downscale.PatchModelAddDownscale.execute.<locals>.output_block_patch",
    "nodes_nag.NAGuidance.execute.<locals>.nag_attention_output_patch",
    "nodes_pag.PerturbedAttentionGuidance.execute.<locals>.perturbed_attention",
    "nodes_pag.PerturbedAttentionGuidance.execute.<locals>.post_cfg_function",
    "nodes_perpneg.PerpNeg.execute.<locals>.cfg_function",
    "nodes_sag.SelfAttentionGuidance.execute.<locals>.attn_and_record",
    "nodes_sag.SelfAttentionGuidance.execute.<locals>.post_cfg_function",
    "nodes_slg.SkipLayerGuidanceDiT.execute.<locals>.post_cfg_function",
    "nodes_slg.SkipLayerGuidanceDiT.execute.<locals>.skip",
    "nodes_slg.SkipLayerGuidanceDiTSimple.execute.<locals>.calc_cond_batch_function",
    "nodes_slg.SkipLayerGuidanceDiTSimple.execute.<locals>.skip",
    "nodes_tcfg.TCFG.execute.<locals>.tangential_damping_cfg",
    "nodes_tomesd.TomePatchModel.execute.<locals>.tomesd_m", "nodes_tomesd.TomePatchModel.execute.<locals>.tomesd_u",
    "nodes_triposplat.TripoSplatSamplingPreview.execute.<locals>.outer_sample_wrapper",
    "nodes_video_model.VideoLinearCFGGuidance.patch.<locals>.linear_cfg",
    "nodes_video_model.VideoTriangleCFGGuidance.patch.<locals>.linear_cfg",
}  # fmt: skip


def test_each_patch_of_the_host_is_cut_or_has_no_place():
    found = patches_in_source(ROOT)
    assert len(found) > 50
    assert found - {*CUTTERS, *PLACELESS, *WITHOUT_A_PLACE} == set()


def test_no_patch_is_listed_that_the_host_does_not_have():
    for name in {*CUTTERS, *PLACELESS, *WITHOUT_A_PLACE}:
        stem = name.partition(".")[0]
        assert [*ROOT.glob(f"comfy_extras/{stem}.py"), *ROOT.glob(f"comfy/ldm/**/{stem}.py")]


def test_a_name_is_the_same_however_the_host_loaded_the_module():
    path = Path(nodes_model_patch.__file__)
    spec = importlib.util.spec_from_file_location(str(path).replace(".", "_x_"), path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (
        name_of(object.__new__(module.UsoStyleProjectorPatch)) == "nodes_model_patch.UsoStyleProjectorPatch"
    )


def patcher(network):
    """Return a network with random weights in the host's patcher."""
    network.load_state_dict(random_state(network, 0), strict=False)
    cpu = torch.device("cpu")
    return comfy.model_patcher.CoreModelPatcher(network.eval(), load_device=cpu, offload_device=cpu)


def diffsynth(vae, image):
    network = nodes_model_patch.QwenImageBlockWiseControlNet(
        1, 4 * 3 * CELL**2, 0, 32, operations=comfy.ops.manual_cast
    )
    return nodes_model_patch.DiffSynthCnetPatch(patcher(network), vae, image, 1.0)


def all_tensors(value):
    return [each for each in vars(value).values() if isinstance(each, torch.Tensor)]


def test_the_hint_of_a_qwen_image_controlnet_is_encoded_for_each_segment_from_its_cut():
    vae = IdentityVae(has_time=True)
    patch = diffsynth(vae, coordinates())
    before = dict(vars(patch))
    model = model_of("Qwen-Image").clone()
    model.set_model_double_block_patch(patch)
    vae.encoded.clear()
    refine("Qwen-Image", model, batch_size=3)
    assert torch.equal(
        torch.cat(vae.encoded), torch.cat(parts(coordinates()))
    )  # one by one: a batch would be a video
    assert all(vars(patch)[name] is value for name, value in before.items())
    assert model.model_options["transformer_options"]["patches"]["double_block"] == [patch]


def test_sampled_jointly_the_hint_is_cut_to_each_tile_and_encoded_once():
    vae = IdentityVae(has_time=True)
    model = model_of("Qwen-Image").clone()
    model.set_model_double_block_patch(diffsynth(vae, coordinates()))
    vae.encoded.clear()
    refine(
        "Qwen-Image", model, found=segs(TILES), overlaps="joint", sampler_name="euler", steps=2, batch_size=2
    )
    expected = [coordinates()[:, y1:y2, x1:x2] for x1, y1, x2, y2 in TILES]
    assert [each.shape for each in vae.encoded] == [each.shape for each in expected]
    assert torch.equal(torch.cat(vae.encoded), torch.cat(expected))


def test_a_hint_that_is_not_cut_would_be_seen_whole():
    """The fault that cutting removes: the host's patch itself gives each crop the whole hint, squeezed."""
    vae = IdentityVae(has_time=True)
    patch = diffsynth(vae, coordinates())
    x = torch.zeros(1, 3 * CELL**2, 1, 6, 6)
    vae.encoded.clear()
    patch({"x": x, "img": torch.zeros(1, 9, 32), "block_index": 0})
    assert not any(torch.equal(vae.encoded[0], part) for part in parts(coordinates()))
    [cut] = patches_of(crop_patches(with_patch(patch), CROPS[:1], CANVAS))
    vae.encoded.clear()
    cut({"x": x, "img": torch.zeros(1, 9, 32), "block_index": 0})
    assert torch.equal(vae.encoded[0], parts(coordinates())[0])


def with_patch(*patches, name="Qwen-Image"):
    model = model_of(name).clone()
    for patch in patches:
        model.set_model_double_block_patch(patch)
    return model


def patches_of(model):
    return model.model_options["transformer_options"]["patches"]["double_block"]


@pytest.mark.parametrize("inpaint", [False, True])
def test_the_pictures_and_the_mask_of_a_z_image_controlnet_are_cut(inpaint):
    extra = {"additional_in_dim": 17} if inpaint else {}
    network = lumina_controlnet.ZImage_Control(
        dim=32, n_heads=2, n_kv_heads=2, multiple_of=16, n_control_layers=1, control_in_dim=3 * CELL**2, **extra,
        operations=comfy.ops.manual_cast,
    )  # fmt: skip
    vae = IdentityVae()
    mask = coordinates()[..., 0][:, None, None]
    given = {"inpaint_image": coordinates() / 2, "mask": mask} if inpaint else {}
    patch = nodes_model_patch.ZImageControlPatch(patcher(network), vae, coordinates(), 1.0, **given)
    model = model_of("Z-Image").clone()
    model.set_model_noise_refiner_patch(patch)
    model.set_model_double_block_patch(patch)
    for crop, part in zip(CROPS, parts(coordinates()), strict=True):
        options = crop_patches(model, [crop], CANVAS).model_options["transformer_options"]["patches"]
        [refiner], [cut] = options["noise_refiner"], options["double_block"]
        assert refiner is cut  # it counts its blocks: both hooks are one patch
        assert cut.to(torch.device("cpu")) is cut
        assert torch.equal(cut.image, part)
        assert cut.encoded_image is None
        if inpaint:
            assert torch.equal(cut.inpaint_image, part / 2)
            assert torch.equal(cut.mask, part[..., 0][:, None, None])
    assert not takes_batches(model)


def test_the_render_of_a_camera_controlnet_is_cut_and_each_frame_gets_its_own():
    network = torch.nn.Identity()
    video = torch.cat([coordinates(), coordinates() / 2, coordinates() / 4])
    patch = nodes_model_patch.WanUni3CCnetPatch(
        patcher(network), video, IdentityVae(True), None, 1.0, 1.0, 0.0
    )
    [cut] = patches_of(crop_patches(with_patch(patch), [Crop(CROPS[1].box, 1)], CANVAS))
    assert torch.equal(cut.render_video, parts(coordinates() / 2)[1])


def test_the_picture_of_animas_lllite_is_cut_once_for_all_its_hooks():
    patch = lllite.AnimaLLLitePatch(None, coordinates(), coordinates()[..., 0], 1.0, 1.0, 0.0)
    model = model_of("Anima").clone()
    model.set_model_post_input_patch(patch)
    model.set_model_attn1_patch(lllite.AnimaLLLiteAttentionPatch(patch, {"q": "self_attn_q_proj"}))
    model.set_model_patch(lllite.AnimaLLLiteMLPPatch(patch), "mlp_patch")
    options = crop_patches(model, CROPS[:2], CANVAS).model_options["transformer_options"]["patches"]
    [cut], [attention], [mlp] = options["post_input"], options["attn1_patch"], options["mlp_patch"]
    assert torch.equal(cut.image, torch.cat(parts(coordinates())[:2]))
    assert torch.equal(cut.mask, torch.cat(parts(coordinates())[:2])[..., 0])
    assert attention.patch is cut  # the features are looked up by the patch itself
    assert mlp.patch is cut
    assert takes_batches(model)


def function_inside(outer, name, **values):
    """Return a function that a node of the host defines inside itself, with these values in its closure."""
    code = next(each for each in outer.__func__.__code__.co_consts if getattr(each, "co_name", "") == name)
    cells = tuple(types.CellType(values[free]) for free in code.co_freevars)
    return types.FunctionType(code, vars(nodes_model_patch), name, None, cells)


def test_the_hint_of_supir_is_cut_in_its_methods_and_in_the_function_that_pulls_to_it():
    hint = latent(coordinates(), False)
    model = model_of("Flux").clone()
    SUPIRPatch(None, torch.nn.ModuleList(), hint, 1.0, 1.0).register(model)
    restore = function_inside(
        nodes_model_patch.SUPIRApply.execute, "restore_cfg_function",
        x_center=hint, restore_cfg_s_tmin=0.05, sigma_max=14.6146, restore_cfg=4.0,
    )  # fmt: skip
    model.set_model_sampler_post_cfg_function(restore)
    cut = crop_patches(model, CROPS[:2], CANVAS)
    options = cut.model_options["transformer_options"]["patches"]
    expected = torch.cat([latent(part, False) for part in parts(coordinates())[:2]])
    owners = {
        options["middle_block_after_patch"][0].__self__, options["output_block_patch"][0].__self__,
        options["forward_timestep_embed_patch"][0][1].__self__,
    }  # fmt: skip
    [owner] = owners
    assert torch.equal(owner.hint_latent, expected)
    [pull] = cut.model_options["sampler_post_cfg_function"]
    denoised, sigma = torch.zeros_like(expected), torch.tensor([14.6146])
    assert torch.equal(pull({"denoised": denoised, "sigma": sigma}), expected)
    assert takes_batches(model)


def test_the_start_of_a_talking_video_and_the_masks_of_its_speakers_are_cut():
    start = latent(coordinates(), True)
    tokens = coordinates()[:, :: 2 * CELL, :: 2 * CELL, 1] > 0.3  # (1, H / 8, W / 8)
    masks = torch.cat([tokens, ~tokens]).flatten(1)
    model = model_of("Wan").clone()
    model.add_wrapper_with_key(
        WrappersMP.OUTER_SAMPLE, "talk", model_multitalk.InfiniteTalkOuterSampleWrapper(start, None)
    )
    model.set_model_patch(model_multitalk.MultiTalkGetAttnMapPatch(masks), "attn1_patch")
    cut = crop_patches(model, [CROPS[1]], CANVAS)
    [wrapper] = cut.wrappers[WrappersMP.OUTER_SAMPLE]["talk"]
    assert torch.equal(wrapper.motion_frames_latent, latent(parts(coordinates())[1], True))
    [speakers] = cut.model_options["transformer_options"]["patches"]["attn1_patch"]
    assert torch.equal(speakers.ref_target_masks[0], tokens[0, 3:6, 3:6].flatten())
    assert torch.equal(speakers.ref_target_masks[1], ~tokens[0, 3:6, 3:6].flatten())


def test_a_style_is_not_cut_and_such_a_model_stays_itself():
    style = nodes_model_patch.UsoStyleProjectorPatch(None, torch.zeros(3, 1, 48, 64))
    model = with_patch(style)
    assert crop_patches(model, CROPS, CANVAS) is model
    assert takes_batches(model)
    assert patch_notices(model, CANVAS) == []


class OfAnotherPack:
    """What another pack may put into a model."""

    def __init__(self, held):
        self.held = held

    def __call__(self, *args):
        return args[0]


@pytest.mark.parametrize(
    ("held", "reported"),
    [
        (torch.zeros(1, 3, 48, 64), True),
        ([{"mask": torch.zeros(1, 96, 128)}], True),
        (OfAnotherPack(torch.zeros(1, 48, 64)), True),
        (torch.zeros(1, 16, 2048), False),
        (torch.zeros(77, 768), False),
        (torch.nn.Conv2d(3, 3, 3), False),
        ("a text", False),
    ],
    ids=["picture", "mask in a list", "mask inside an object", "embedding", "matrix", "weights", "text"],
)
def test_a_class_that_is_not_known_is_reported_once_where_it_may_lie_over_the_picture(held, reported):
    model = with_patch(OfAnotherPack(held), OfAnotherPack(held))
    texts = patch_notices(model, CANVAS)
    assert len(texts) == reported
    assert all("test_crop_patches.OfAnotherPack" in text for text in texts)


def test_what_another_packs_function_holds_is_found_too():
    held = torch.zeros(1, 3, 48, 64)
    model = with_patch(lambda args: (args, held)[0])
    assert len(patch_notices(model, CANVAS)) == 1


def test_all_the_host_puts_into_a_clone_stays_there():
    model = with_patch(diffsynth(IdentityVae(True), coordinates()))
    model.set_model_patch_replace(len, "attn1", "middle", 0)
    cut = crop_patches(model, CROPS[:1], CANVAS)
    assert type(cut) is type(model)
    assert [name_of(patch) for patch in patches_in(cut)] == [name_of(patch) for patch in patches_in(model)]
    assert FAMILIES["Qwen-Image"].has_time
