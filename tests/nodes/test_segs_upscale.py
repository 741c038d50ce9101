"""The node on the real host: the host's own nodes beside it, real architectures with random weights."""

from __future__ import annotations

import copy
import gc
from types import SimpleNamespace

import comfy.model_management
import comfy.sampler_helpers
import comfy.utils
import numpy as np
import pytest
import torch
from comfy_execution.utils import CurrentNodeContext
from comfy_extras.nodes_differential_diffusion import DifferentialDiffusion
from megapixel.host import run_again, unfinished
from megapixel.host.segment_sampler import AGAINST_NAN, stack_masks
from megapixel.nodes.deep_shrink import MegapixelDeepShrink
from megapixel.nodes.hidiffusion import MegapixelHiDiffusion
from megapixel.nodes.msw_msa import MegapixelMSWMSASimple
from megapixel.nodes.rau_net import MegapixelRAUNetSimple
from megapixel.nodes.segs_share import MegapixelSEGSSlice
from megapixel.nodes.segs_upscale import MegapixelSEGSUpscale, MegapixelSEGSUpscalePipe
from megapixel.scaling.resized import resize_pictures
from megapixel.segs.blur import blur_mask
from megapixel.segs.segment import SEG, FrameSEG

import nodes as host_nodes
from devhost.sampling import sample
from devhost.tiny import random_models
from devhost.tiny.model_file import load_model
from devhost.tiny.node import ASSETS
from devhost.tiny.random_models import conditioning, controlnet
from devhost.tiny.scenes import random_scenes
from devhost.tiny.vae import load_vae

SIZE = (48, 120)
BOXES = [
    (0, 0, 32, 40),
    (40, 4, 72, 44),
    (80, 8, 112, 48),
]  # x1, y1, x2, y2: equal sizes, apart from each other
SETTINGS = {
    "rescale_factor": 1.0, "resampling_method": "lanczos", "supersample": "true", "rounding_modulus": 8,
    # smaller crops are a single latent pixel, and the tiny VAE has too few channels to norm that
    "seed": 5, "steps": 2, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 0.5,
    "feather": 2, "inpaint_model": False, "noise_mask_feather": 4, "smallest_crop": 16, "batch_size": 1,
}  # fmt: skip


def segment(box, mask=None, wrapper=None):
    x1, y1, x2, y2 = box
    mask = np.ones((y2 - y1, x2 - x1), np.float32) if mask is None else mask
    return SEG(None, mask, 0.9, box, box, "thing", wrapper)


def segs_of(*boxes, size=SIZE):
    return size, [segment(box) for box in boxes or BOXES]


def soft_vae():
    """Return a tiny VAE whose pictures hardly leave (0, 1), so that no difference is clamped away."""
    vae = random_models.vae()
    with torch.no_grad():
        vae.first_stage_model.decoder.conv_out.weight *= 0.25
    return vae


@pytest.fixture(scope="module")
def vae():
    return soft_vae()


@pytest.fixture(scope="module")
def image(draw):
    return draw(1, *SIZE, 3) * 0.6 + 0.2


@pytest.fixture(scope="module")
def texts(short_sd15):
    return [conditioning(short_sd15, seed, tokens=8) for seed in (1, 2)]


@pytest.fixture(scope="module")
def upscale(short_sd15, vae, texts, image):
    """A function that runs the node as the host does; all inputs have defaults."""

    def run(
        segs=None, image=image, model=short_sd15, vae=vae, positive=texts[0], negative=texts[1], **settings
    ):
        with torch.inference_mode():
            [result] = MegapixelSEGSUpscale.execute(
                image,
                segs_of() if segs is None else segs,
                model,
                vae,
                positive,
                negative,
                **SETTINGS | settings,
            ).args
        return result

    return run


@pytest.fixture
def host_refine(short_sd15, vae, texts):
    """A function that refines a whole picture (1, H, W, 3) under a mask (H, W) with the host's own nodes."""

    def run(pixels, mask, seed, model=short_sd15, texts=texts, **changed):
        settings = SETTINGS | changed
        names = ("steps", "cfg", "sampler_name", "scheduler")
        with torch.random.fork_rng(), torch.inference_mode():
            [latent] = host_nodes.VAEEncode().encode(vae, pixels)
            [latent] = host_nodes.SetLatentNoiseMask().set_mask(latent, mask)
            [latent] = host_nodes.KSampler().sample(
                model, seed, *(settings[name] for name in names), *texts, latent, denoise=settings["denoise"]
            )
            [result] = host_nodes.VAEDecode().decode(vae, latent)
        return result

    return run


def assert_close(result, expected, tolerance=1e-5):
    assert ((expected > 0) & (expected < 1)).float().mean() > 0.98  # hardly anything was clamped away
    assert expected.std() > 0.05
    torch.testing.assert_close(result, expected, rtol=0, atol=tolerance)


def part(picture, box):
    x1, y1, x2, y2 = box
    return picture[:, y1:y2, x1:x2].contiguous()


def covered(boxes=BOXES):
    """Return (H, W), true where a box is."""
    inside = torch.zeros(SIZE, dtype=torch.bool)
    for x1, y1, x2, y2 in boxes:
        inside[y1:y2, x1:x2] = True
    return inside


# The host's own path


@pytest.mark.parametrize("sampler", ["euler", "ddim", "dpmpp_2m_sde", "lcm", "uni_pc"])
def test_each_segment_under_a_mask_of_ones_is_what_the_hosts_nodes_make_of_it(
    sampler, upscale, image, host_refine
):
    ours = {
        size: upscale(sampler_name=sampler, feather=0, noise_mask_feather=0, batch_size=size)
        for size in (1, 3)
    }
    for number, box in enumerate(BOXES):
        pixels = part(image, box)
        expected = host_refine(pixels, torch.ones(pixels.shape[1:3]), 5 + number, sampler_name=sampler)
        assert (expected - pixels).abs().mean() > 0.1
        for result in ours.values():
            assert_close(part(result, box), expected)


@pytest.mark.parametrize("feather", [4, 20])
def test_one_segment_over_everything_is_the_hosts_differential_diffusion(
    feather, upscale, short_sd15, image, host_refine, draw
):
    mask = draw(*SIZE, seed=3)
    mask[:, :60] = 1
    segs = SIZE, [segment((0, 0, 120, 48), mask.numpy())]
    ours = upscale(segs, feather=0, noise_mask_feather=feather, steps=3)
    soft = DifferentialDiffusion.execute(short_sd15).args[0]
    refined = host_refine(image, blur_mask(mask, feather), 5, soft, steps=3)
    expected = torch.lerp(image, refined, mask[None, ..., None])
    assert_close(ours, expected, 5e-6)  # sampled alike; what differs is float32 noise, by processor


@pytest.mark.parametrize("feather", [1, 4, 19, 20, 21, 50])
def test_under_a_mask_of_ones_a_soft_edge_of_the_noise_takes_no_step_away(feather, upscale):
    everything = segs_of((0, 0, 120, 48))
    sharp = upscale(everything, feather=0, noise_mask_feather=0)
    assert torch.equal(upscale(everything, feather=0, noise_mask_feather=feather), sharp)


def test_a_model_for_inpainting_is_shown_what_the_hosts_node_shows_it(upscale, vae, image, draw):
    model = random_models.sd15(in_channels=9)
    assert model.model.concat_keys == ("mask", "masked_image")
    texts = [conditioning(model, seed, tokens=8) for seed in (1, 2)]
    masks = [(draw(40, 32, seed=seed) > 0.4).float() for seed in (1, 2, 3)]
    segs = SIZE, [segment(box, mask.numpy()) for box, mask in zip(BOXES, masks, strict=True)]
    settings = {"model": model, "feather": 0, "noise_mask_feather": 0, "inpaint_model": True}
    ours = {size: upscale(segs, batch_size=size, **settings) for size in (1, 3)}
    for number, (box, mask) in enumerate(zip(BOXES, masks, strict=True)):
        pixels = part(image, box)
        with torch.random.fork_rng(), torch.inference_mode():
            *seen, latent = host_nodes.InpaintModelConditioning().encode(*texts, pixels, vae, mask)
            [latent] = host_nodes.KSampler().sample(
                model, 5 + number, 2, 2.0, "euler", "normal", *seen, latent, denoise=0.5
            )
            [refined] = host_nodes.VAEDecode().decode(vae, latent)
        expected = torch.lerp(pixels, refined, mask[None, ..., None])
        for result in ours.values():
            assert_close(part(result, box), expected)
    assert (upscale(segs, **settings | {"inpaint_model": False}) - ours[1]).abs().max() > 1e-2


def test_near_denoise_0_a_segment_is_the_picture_within_the_error_of_its_vae():
    picture = random_scenes(1, (8, 11), torch.Generator().manual_seed(4)).pictures().movedim(1, -1)
    vae = load_vae(ASSETS / "vae.safetensors")
    tiny = load_model(ASSETS / "sd15.safetensors")
    model, tokens = tiny.patcher, tiny.class_tokens
    texts = [[[tokens[number : number + 1], {}]] for number in (3, 12)]  # an object, and no text
    segs = (64, 88), [segment((0, 0, 88, 64))]
    settings = SETTINGS | {"rescale_factor": 2.0, "denoise": 0.0001, "steps": 1, "noise_mask_feather": 0}
    with torch.inference_mode():
        plain, refined = (
            MegapixelSEGSUpscale.execute(picture, found, model, vae, *texts, **settings).args[0]
            for found in (((64, 88), []), segs)
        )
        there_and_back = vae.decode(vae.encode(plain))
    own = (there_and_back - plain).abs().mean()
    assert own < 0.1
    assert 0 < (refined - plain).abs().mean() < 1.3 * own


# Geometry and pixels


def test_outside_all_masks_is_the_plain_upscale_bit_for_bit(upscale, draw):
    image = draw(1, 51, 37, 3)
    mask = np.zeros((30, 20), np.float32)
    mask[5:25, 4:19] = 1
    segs = (51, 37), [segment((7, 9, 27, 39), mask), segment((30, 45, 37, 51))]
    for factor in (1.0, 2.3, 0.5):
        for overlaps in ("independent", "in order"):
            settings = {"image": image, "rescale_factor": factor, "overlaps": overlaps, "feather": 0}
            plain = upscale(((51, 37), []), **settings)
            refined = upscale(segs, **settings)
            height, width = plain.shape[1:3]
            inside = torch.zeros(height, width, dtype=torch.bool)
            for x1, y1, x2, y2 in ((11, 14, 26, 34), (30, 45, 37, 51)):
                rows, columns = (
                    slice(max(0, int((low - 1) * new / old) - 1), int(np.ceil((high + 1) * new / old)) + 1)
                    for low, high, new, old in ((y1, y2, height, 51), (x1, x2, width, 37))
                )
                inside[rows, columns] = True
            assert torch.equal(refined[0][~inside], plain[0][~inside])
            assert (refined[0] != plain[0]).any(-1)[inside].float().mean() > 0.5


def test_without_segments_or_with_empty_masks_no_model_is_asked(upscale, image, monkeypatch):
    asked = []
    monkeypatch.setattr(
        comfy.model_management, "load_models_gpu", lambda *given, **named: asked.append(given)
    )
    empty = segment(BOXES[0], np.zeros((40, 32), np.float32))
    beyond = segment((200, 4, 240, 40))
    for found in ([], [empty, beyond]):
        assert torch.equal(upscale((SIZE, found)), image)
    assert asked == []


def test_an_empty_segment_does_not_shift_the_seeds_of_others(upscale):
    empty = segment(BOXES[0], np.zeros((40, 32), np.float32))
    whole, partly = upscale(), upscale((SIZE, [empty, *segs_of(*BOXES[1:])[1]]))
    for box in BOXES[1:]:
        assert torch.equal(part(partly, box), part(whole, box))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_grey_and_transparent_pictures_give_their_kind(channels, upscale, draw, image):
    colours = 1 if channels < 3 else 3
    picture = draw(1, *SIZE, channels) * 0.6 + 0.2
    result, plain = upscale(image=picture), upscale((SIZE, []), image=picture)
    assert result.shape == picture.shape
    assert torch.equal(result[..., colours:], plain[..., colours:])
    as_rgb = upscale(image=picture[..., :colours].expand(1, *SIZE, 3))
    expected = as_rgb.mean(-1, keepdim=True) if colours == 1 else as_rgb
    torch.testing.assert_close(result[..., :colours], expected, rtol=0, atol=1e-6)
    assert (result[..., :colours] - plain[..., :colours]).abs().max() > 0.1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_images_of_another_type_are_taken_and_the_input_stays(dtype, upscale, image):
    given = image.to(dtype)
    before = given.clone()
    result = upscale(image=given)
    assert result.dtype == torch.float32
    assert torch.equal(result, upscale(image=given.float()))
    assert torch.equal(given, before)


@pytest.mark.parametrize("size", [(11, 9), (9, 30), (17, 121)], ids=str)
def test_a_picture_that_no_crop_fits_into_comes_through(size, upscale, draw):
    small = draw(1, *size, 3) * 0.6 + 0.2
    result = upscale((size, [segment((0, 0, *size[::-1]))]), image=small)
    assert result.shape == small.shape
    assert (result - small).abs().mean() > 0.1


def test_segments_of_all_frames_refine_each_frame_as_alone(upscale, draw):
    frames = draw(3, *SIZE, 3) * 0.6 + 0.2
    together = upscale(image=frames, batch_size=4)
    for number in range(3):
        assert_close(together[number][covered()], upscale(image=frames[number : number + 1])[0][covered()])


def test_segments_of_one_frame_refine_that_frame_only(upscale, draw):
    frames = draw(2, *SIZE, 3) * 0.6 + 0.2
    segs = SIZE, [FrameSEG.of(segment(BOXES[0]), 1), FrameSEG.of(segment(BOXES[1]), 0), segment(BOXES[2])]
    result = upscale(segs, image=frames)
    changed = [(result[number] != frames[number]).any(-1) for number in range(2)]
    for number, boxes in enumerate(([1, 2], [0, 2])):
        apart = covered([BOXES[other] for other in boxes])
        assert not changed[number][~apart].any()
        assert changed[number][apart].float().mean() > 0.9


# Batching, memory and models


def test_a_text_for_each_frame_goes_to_its_frame(upscale, short_sd15, draw):
    texts = conditioning(short_sd15, 1, tokens=8, batch=3)
    frames = draw(3, *SIZE, 3) * 0.6 + 0.2
    segs = SIZE, [segment(BOXES[0])]
    alone, together = (upscale(segs, image=frames, positive=texts, batch_size=size) for size in (1, 3))
    assert_close(together, alone)
    for number in range(3):
        own = [[texts[0][0][number : number + 1], {}]]
        frame = frames[number : number + 1]
        assert torch.equal(alone[number : number + 1], upscale(segs, image=frame, positive=own))


def test_a_text_with_several_rows_gives_segments_of_one_frame_the_same_in_a_batch_as_alone(
    upscale, short_sd15
):
    texts = conditioning(short_sd15, 1, tokens=8, batch=3)
    assert_close(upscale(positive=texts, batch_size=3), upscale(positive=texts))


def test_what_can_be_batched_is_sampled_at_once(upscale, short_sd15):
    segs = SIZE, [*segs_of()[1], segment((0, 40, 24, 48))]
    sizes = []
    model = watched(short_sd15, sizes)
    upscale(segs, model=model, batch_size=2, steps=1)
    assert sizes == [2, 1, 1]
    sizes.clear()
    upscale(segs, model=model, batch_size=2, steps=1, sampler_name="ddim")
    assert sizes == [1, 1, 1, 1]


def watched(model, sizes, act=lambda count: None):
    """Return a copy that notes how many segments go together,
    then calls `act` with the number of the call.
    """
    copy = model.clone()

    def wrapper(apply, options):
        sizes.append(len(options["input"]) // len(options["cond_or_uncond"]))
        act(len(sizes))
        return apply(options["input"], options["timestep"], **options["c"])

    copy.set_model_unet_function_wrapper(wrapper)
    return copy


@pytest.mark.parametrize("failing", [1, 2])
def test_a_batch_without_memory_is_halved_and_no_segment_is_sampled_twice(failing, upscale, short_sd15):
    boxes = [(left, top, left + 24, top + 24) for top in (0, 24) for left in (0, 24, 48)]
    expected = upscale(segs_of(*boxes))
    sizes, steps = [], []

    def act(call):
        if call == failing:  # in the first step of the first batch, or in its second one
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        steps.append(sizes[-1])

    result = upscale(segs_of(*boxes), model=watched(short_sd15, sizes, act), batch_size=4)
    assert_close(result, expected, 2e-5)
    assert sizes == [4] * failing + [2] * 4 + [2] * 2
    assert sum(steps) == 6 * 2 + (failing - 1) * 4


def test_memory_that_is_not_enough_for_one_segment_is_the_hosts_error(upscale, short_sd15):
    def act(call):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(torch.cuda.OutOfMemoryError):
        upscale(model=watched(short_sd15, [], act), batch_size=4)


@pytest.mark.parametrize("batch_size", [1, 8])
def test_fifty_segments_load_each_model_once_for_each_phase(batch_size, upscale, vae, monkeypatch, draw):
    image = draw(1, 80, 160, 3)
    boxes = [(left, top, left + 16, top + 16) for top in range(0, 80, 16) for left in range(0, 160, 16)]
    asked = []
    load = comfy.model_management.load_models_gpu

    def note(models, *rest, **named):
        asked.append("vae" if vae.patcher in models else "unet")
        return load(models, *rest, **named)

    monkeypatch.setattr(comfy.model_management, "load_models_gpu", note)
    upscale(segs_of(*boxes, size=(80, 160)), image=image, steps=1, batch_size=batch_size)
    assert asked.count("vae") == 2 * 50
    phases = [kind for number, kind in enumerate(asked) if asked[number - 1 : number] != [kind]]
    assert phases == ["vae", "unet", "vae"]


def test_the_model_that_others_hold_samples_the_same_bits_before_and_after(upscale, short_sd15):
    options = {
        name: dict(value) for name, value in short_sd15.model_options.items() if isinstance(value, dict)
    }
    before = sample(short_sd15, (9, 6))
    upscale(noise_mask_feather=20)
    assert torch.equal(sample(short_sd15, (9, 6)), before)
    assert options == {
        name: dict(value) for name, value in short_sd15.model_options.items() if isinstance(value, dict)
    }


def noisy(model):
    """Return a copy whose predictions have noise from the global generator, as effects of other packs may."""

    def wrapper(apply, options):
        result = apply(options["input"], options["timestep"], **options["c"])
        return result + torch.randn(result.shape) / 10

    copy = model.clone()
    copy.set_model_unet_function_wrapper(wrapper)
    return copy


@pytest.mark.parametrize("name", ["ddim", "a model that draws noise"])
def test_the_picture_does_not_depend_on_the_global_random_state_and_leaves_it_alone(
    name, upscale, short_sd15
):
    settings = {"sampler_name": "ddim"} if name == "ddim" else {"model": noisy(short_sd15)}
    half = (
        SIZE,
        [segment(box, np.full((40, 32), 0.5, np.float32)) for box in BOXES],
    )  # ddim draws for what it keeps
    results = []
    for seed in (1, 2):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            before = torch.get_rng_state()
            results.append(upscale(half, noise_mask_feather=0, **settings))
            assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*results)
    assert not torch.equal(results[0], upscale(half, noise_mask_feather=0))


def test_the_pipe_and_the_sdxl_family_give_what_the_single_sockets_give(sdxl, vae, image):
    texts = [conditioning(sdxl, seed, tokens=8) for seed in (1, 2)]
    with torch.inference_mode():
        [single] = MegapixelSEGSUpscale.execute(image, segs_of(), sdxl, vae, *texts, **SETTINGS).args
        pipe = (sdxl, None, vae, *texts)
        [piped] = MegapixelSEGSUpscalePipe.execute(
            image, segs_of(), pipe, **SETTINGS | {"batch_size": 3}
        ).args
    assert (single - image).abs().max() > 0.1
    assert_close(piped, single)


@pytest.mark.parametrize("pipe", [None, 5, (1, 2, 3)], ids=str)
def test_something_else_than_a_pipe_is_an_error_message(pipe, image):
    with pytest.raises(ValueError, match=r"^basic_pipe: expected .*, got .*\. Connect a ToBasicPipe node\.$"):
        MegapixelSEGSUpscalePipe.execute(image, segs_of(), pipe, **SETTINGS)


def test_a_vae_of_another_family_is_an_error_message(upscale, vae):
    model = random_models.flux()
    with pytest.raises(
        ValueError, match=r"^vae: expected one with 16 latent channels .*, got one with 4\. Connect .*\.$"
    ):
        upscale(model=model)


# Conditioning that belongs to its crop


def test_a_hint_acts_on_a_segment_as_one_cut_by_hand(upscale, texts, image, draw):
    hint = draw(1, 3, *SIZE, seed=9)

    def controlled(field):
        control = controlnet(effect=0.3).set_cond_hint(field)
        return {
            name: [[text[0][0], {"control": control}]]
            for name, text in zip(("positive", "negative"), texts, strict=True)
        }

    together, alone = (upscale(**controlled(hint), batch_size=size) for size in (3, 1))
    assert_close(together, alone)
    plain = upscale()
    for number, (x1, y1, x2, y2) in enumerate(BOXES):
        pixels, cut = part(image, BOXES[number]), hint[..., y1:y2, x1:x2]
        by_hand = upscale(
            segs_of((0, 0, 32, 40), size=(40, 32)),
            image=pixels,
            seed=5 + number,
            feather=0,
            **controlled(cut),
        )
        sharp = part(upscale(feather=0, **controlled(hint)), BOXES[number])
        assert torch.equal(sharp, by_hand)
        assert (part(alone - plain, BOXES[number])).abs().max() > 0.01


@pytest.mark.parametrize("bounds", [False, True], ids=["mask", "mask bounds"])
def test_masks_of_texts_differ_from_crop_to_crop_in_a_batch_as_alone(bounds, upscale, short_sd15, texts):
    mask = torch.zeros(1, *SIZE)
    mask[:, 10:30, 4:20], mask[:, 20:48, 50:60], mask[:, 9:14, 90:112] = 1, 1, 1
    options = {"mask": mask, "mask_strength": 1.0, "set_area_to_bounds": bounds}
    positive = [[texts[0][0][0], options], *conditioning(short_sd15, 5, tokens=8)]
    together, alone = (upscale(positive=positive, batch_size=size) for size in (3, 1))
    assert_close(together, alone)
    assert (alone - upscale(positive=positive[1:])).abs().max() > 0.01


def test_an_area_acts_in_the_segments_that_it_touches(upscale, short_sd15, texts):
    everywhere = conditioning(short_sd15, 5, tokens=8)
    area = {"area": (6, 6, 0, 0)}  # the left 48 pixels: the first segment, and a part of the second
    regional = upscale(positive=[[texts[0][0][0], area], *everywhere], feather=0)
    outside = upscale(positive=everywhere, feather=0)
    differs = [not torch.equal(part(regional, box), part(outside, box)) for box in BOXES]
    assert differs == [True, True, False]
    together = upscale(positive=[[texts[0][0][0], area], *everywhere], feather=0, batch_size=3)
    assert_close(together, regional)


class Wrapper:
    """A segment's own ControlNet as other packs give it: called with the segment's pixels."""

    def __init__(self, text):
        self.text, self.given, self.models = text, [], []

    def apply(self, positive, negative, image, noise_mask):
        self.given.append((image, noise_mask))
        return [[self.text, dict(positive[0][1])]], negative, [image]

    def doit_ipadapter(self, model):
        self.models.append(model)
        return model, []


def test_a_segments_own_control_is_asked_for_that_segment_only(upscale, short_sd15, image):
    [[text, _]] = conditioning(short_sd15, 7, tokens=8)
    wrapper = Wrapper(text)
    found = segs_of()[1]
    found[1] = segment(BOXES[1], wrapper=wrapper)
    result = upscale((SIZE, found), noise_mask_feather=4, batch_size=3)
    [(pixels, mask)] = wrapper.given
    assert torch.equal(pixels, part(image, BOXES[1]))
    assert torch.equal(mask, blur_mask(torch.ones(40, 32), 4)[None])
    assert len(wrapper.models) == 1
    other = upscale(positive=[[text, {}]])
    plain = upscale()
    for number, expected in enumerate((plain, other, plain)):
        assert_close(part(result, BOXES[number]), part(expected, BOXES[number]))
    assert (part(other - plain, BOXES[1])).abs().max() > 0.01


def test_a_control_without_an_image_adapter_is_enough(upscale, short_sd15):
    [[text, _]] = conditioning(short_sd15, 7, tokens=8)
    wrapper = SimpleNamespace(apply=lambda positive, negative, *rest: ([[text, {}]], negative, []))
    segs = SIZE, [segment(box, wrapper=wrapper) for box in BOXES]
    assert torch.equal(upscale(segs, batch_size=3), upscale(positive=[[text, {}]]))


# Hooks, failures and interrupts


@pytest.mark.parametrize("overlaps", ["independent", "in order"])
def test_a_hook_is_called_after_every_paste_and_may_change_the_picture(overlaps, upscale, image):
    seen = []

    def post_paste(picture):
        seen.append(picture.clone())
        changed = picture.clone()
        changed[:, 47, 119] = len(seen) / 10  # outside all segments
        return changed

    hook = SimpleNamespace(post_paste=post_paste)
    result = upscale(overlaps=overlaps, upscaler_hook_opt=hook)
    assert len(seen) == 3
    before = image
    for number, picture in enumerate(seen):
        changed = (picture != before).any(-1)[0]
        changed[47, 119] = False
        assert changed.any()
        assert not changed[~covered([BOXES[number]])].any()
        before = picture
    assert result[0, 47, 119].tolist() == pytest.approx([0.3] * 3)
    expected = upscale(overlaps=overlaps)
    assert torch.equal(result[0][covered()], expected[0][covered()])


@pytest.mark.parametrize(("only_reads", "size"), [(True, 3), (False, 1)])
def test_a_hook_that_only_reads_lets_segments_in_order_be_sampled_together(
    only_reads, size, upscale, short_sd15
):
    sizes = []
    hook = SimpleNamespace(post_paste=lambda picture: picture, only_reads=only_reads)
    model = watched(short_sd15, sizes)
    upscale(model=model, overlaps="in order", upscaler_hook_opt=hook, batch_size=3)
    assert set(sizes) == {size}


class BrokenHook:
    """Draws into the picture, and fails on every other call."""

    def __init__(self, fail):
        self.fail, self.calls = fail, 0

    def post_paste(self, picture):
        self.calls += 1
        if self.calls % 2:
            picture[:, 47, 119] = 9.0
            return self.fail(picture)
        return picture


def raise_error(picture):
    raise RuntimeError("no\nloop")


FAILURES = {
    "error": raise_error,
    "another size": lambda picture: picture[:, 1:],
    "nothing": lambda picture: None,
}


@pytest.mark.parametrize("fail", FAILURES.values(), ids=FAILURES)
def test_a_hook_that_fails_loses_no_work_and_is_counted_at_the_node(
    fail, short_sd15, vae, texts, image, caplog, upscale
):
    hook, expected = BrokenHook(fail), upscale()
    with torch.inference_mode():
        result = MegapixelSEGSUpscale.execute(
            image, segs_of(), short_sd15, vae, *texts, **SETTINGS, upscaler_hook_opt=hook
        )
    assert hook.calls == 3
    assert torch.equal(result.args[0], expected)
    [shown] = result.ui.as_dict()["text"]
    assert shown.startswith("upscaler_hook_opt: BrokenHook failed in 2 of 3 calls; ")
    lines = [line for line in caplog.messages if "BrokenHook" in line]
    assert [line == shown for line in lines] == [False, True]
    assert lines[0].startswith("upscaler_hook_opt: BrokenHook raised ")
    assert "\n" not in lines[0]


def test_a_hook_of_another_kind_is_reported_at_the_node(short_sd15, vae, texts, image, caplog):
    with torch.inference_mode():
        result = MegapixelSEGSUpscale.execute(
            image,
            segs_of(),
            short_sd15,
            vae,
            *texts,
            **SETTINGS,
            upscaler_hook_opt=SimpleNamespace(post_decode=None),
        )
    [shown] = result.ui.as_dict()["text"]
    assert shown.startswith("upscaler_hook_opt: nothing to do, SimpleNamespace has no post_paste.")
    assert shown in caplog.messages


def test_a_checkpoint_without_a_vae_is_an_error_message(short_sd15, texts, image):
    with pytest.raises(
        ValueError, match=r"vae: expected a VAE, got none: the checkpoint has none\. Connect Load"
    ):
        MegapixelSEGSUpscale.execute(image, segs_of(), short_sd15, None, *texts, **SETTINGS)


def test_a_scheduler_function_gives_the_levels(upscale, short_sd15):
    asked = []

    def levels(model, sampler_name, steps):
        asked.append((model, sampler_name, steps))
        return torch.linspace(4, 0, steps + 1)

    result = upscale(scheduler_func_opt=levels)
    assert asked == [(short_sd15, "euler", 4)]
    assert (result - upscale()).abs().max() > 1e-2


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_segment_that_is_no_number_stays_as_it_was_and_says_so(
    batch_size, upscale, short_sd15, image, caplog
):
    expected = upscale()
    copy = short_sd15.clone()

    def wrapper(apply, options):
        result = apply(options["input"], options["timestep"], **options["c"])
        rows = result.view(len(options["cond_or_uncond"]), -1, *result.shape[1:])
        calls.append(rows.shape[1])
        number = 1 if rows.shape[1] == 3 else 0
        if rows.shape[1] == 3 or len(calls) in (3, 4):  # the second segment, in a batch or alone
            rows[:, number, 0, 2, 1] = float("nan")
        return result

    calls = []
    copy.set_model_unet_function_wrapper(wrapper)
    result = upscale(model=copy, batch_size=batch_size)
    assert torch.equal(part(result, BOXES[1]), part(image, BOXES[1]))
    for number in (0, 2):
        assert_close(part(result, BOXES[number]), part(expected, BOXES[number]))
    [message] = [message for message in caplog.messages if message.startswith("SEGS")]
    assert message == f"SEGS: segment 1 contains NaN and was left unchanged. {AGAINST_NAN}"


def test_a_vae_that_gives_no_numbers_leaves_the_picture(upscale, image, caplog):
    vae = soft_vae()
    with torch.no_grad():
        vae.first_stage_model.decoder.conv_out.bias[0] = float("nan")
    assert torch.equal(upscale(vae=vae), image)
    assert sum("contains NaN" in message for message in caplog.messages) == 3


def interrupting(model, call):
    """Return a copy in whose call of that number (2 for each segment) the cancel button is pressed."""

    def act(number):
        if number == call:
            comfy.model_management.interrupt_current_processing()
            comfy.model_management.throw_exception_if_processing_interrupted()  # as the host's bars do

    return watched(model, [], act)


@pytest.mark.parametrize("overlaps", ["independent", "in order"])
def test_an_interrupt_while_sampling_returns_what_was_finished(overlaps, upscale, short_sd15, image, caplog):
    expected = upscale()
    # In order, all three go together as well: they are apart.
    result = upscale(model=interrupting(short_sd15, 4), overlaps=overlaps)
    assert not comfy.model_management.processing_interrupted()
    assert torch.equal(part(result, BOXES[0]), part(expected, BOXES[0]))
    assert torch.equal(result[0][~covered(BOXES[:1])], image[0][~covered(BOXES[:1])])
    assert "SEGS: interrupted; 1 of 3 segments are refined." in caplog.messages


def test_an_interrupt_counts_only_the_segments_of_this_worker(upscale, short_sd15, caplog):
    [segs] = MegapixelSEGSSlice.execute(segs_of(), 0, 2, False).args
    upscale(segs, model=interrupting(short_sd15, 4))
    assert "SEGS: interrupted; 1 of 2 segments are refined." in caplog.messages


def test_an_interrupt_leaves_no_dead_model_with_the_host(upscale, short_sd15):
    # Once there is one, the host collects all garbage and warns at every load from then on.
    def dead():
        gc.collect()
        return [loaded for loaded in comfy.model_management.current_loaded_models if loaded.is_dead()]

    before = len(dead())
    upscale(model=interrupting(short_sd15, 4))
    assert len(dead()) == before
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        upscale(model=interrupting(short_sd15, 4), keep_on_interrupt=False)
    assert len(dead()) == before


@pytest.mark.parametrize(
    ("settings", "call"),
    [({"keep_on_interrupt": False}, 4), ({}, 1)],
    ids=["switched off", "nothing finished"],
)
def test_an_interrupt_with_nothing_to_keep_stops_the_graph(settings, call, upscale, short_sd15):
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        upscale(model=interrupting(short_sd15, call), **settings)
    assert not comfy.model_management.processing_interrupted()


def test_an_interrupt_after_a_batch_was_halved_keeps_the_half_that_was_finished(upscale, short_sd15, image):
    expected = upscale()

    def act(call):
        if call == 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        if call == 4:  # two steps of the first half are done
            raise comfy.model_management.InterruptProcessingException

    result = upscale(segs_of(*BOXES[:2]), model=watched(short_sd15, [], act), batch_size=2)
    assert_close(part(result, BOXES[0]), part(expected, BOXES[0]))
    assert torch.equal(part(result, BOXES[1]), part(image, BOXES[1]))


@pytest.fixture
def in_queue():
    """A function that runs another one as the host runs a node of a queued prompt."""

    def run(function, node="8"):
        with CurrentNodeContext("prompt", node):
            return function()

    yield run
    unfinished._runs.clear()
    run_again._events.clear()


@pytest.mark.parametrize("overlaps", ["independent", "in order"])
@pytest.mark.parametrize("keep", [True, False], ids=["kept", "stopped at once"])
def test_the_run_after_an_interrupt_samples_only_what_is_left(
    overlaps, keep, upscale, short_sd15, in_queue, caplog
):
    caplog.set_level("INFO")
    expected = upscale(overlaps=overlaps)
    calls = []

    def act(number):
        calls.append(number)
        if number == 6:  # two for each segment, so in the middle of the last one
            comfy.model_management.interrupt_current_processing()
            comfy.model_management.throw_exception_if_processing_interrupted()

    model, segs = watched(short_sd15, [], act), segs_of()
    settings = {"model": model, "overlaps": overlaps, "keep_on_interrupt": keep}
    before = in_queue(MegapixelSEGSUpscale.fingerprint_inputs)
    if keep:
        assert not torch.equal(in_queue(lambda: upscale(segs, **settings)), expected)
    else:
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            in_queue(lambda: upscale(segs, **settings))
    after = in_queue(MegapixelSEGSUpscale.fingerprint_inputs)
    assert after != before  # or the host would take the unfinished picture from its cache
    assert torch.equal(in_queue(lambda: upscale(segs, **settings)), expected)
    assert len(calls) == 6 + 2
    assert "SEGS: 2 segments were already sampled by the interrupted run." in caplog.messages
    assert in_queue(MegapixelSEGSUpscale.fingerprint_inputs) == after  # complete, and cached as such
    assert torch.equal(in_queue(lambda: upscale(segs, **settings)), expected)
    assert len(calls) == 6 + 2 + 6  # nothing is kept after a complete run


CHANGES = {
    "seed": {"seed": 6}, "steps": {"steps": 3}, "denoise": {"denoise": 0.6}, "cfg": {"cfg": 3.0}, "factor": {"rescale_factor": 1.2},
    "crop": {"smallest_crop": 48}, "mask": {"noise_mask_feather": 0},
}  # fmt: skip


@pytest.mark.parametrize("change", [*CHANGES, "model", "prompt", "picture", "another node"])
def test_what_was_sampled_with_other_inputs_is_not_taken(change, upscale, short_sd15, image, in_queue):
    calls = []

    def act(number):
        calls.append(number)
        if number == 6:
            raise comfy.model_management.InterruptProcessingException

    model, segs = watched(short_sd15, [], act), segs_of()
    changed = {
        "model": {"model": model.clone()},
        "prompt": {"positive": conditioning(short_sd15, 3, tokens=8)},
        "picture": {"image": image * 0.9},
        **CHANGES,
    }.get(change, {})
    in_queue(lambda: upscale(segs, model=model))
    settings = {"model": model, **changed}
    result = in_queue(lambda: upscale(segs, **settings), "9" if change == "another node" else "8")
    assert torch.equal(result, upscale(segs, **{**settings, "model": short_sd15}))
    assert len(calls) > 6 + 2


def test_a_segment_that_was_no_number_is_tried_again_and_the_others_are_not(upscale, short_sd15, in_queue):
    expected, calls, copy = upscale(), [], short_sd15.clone()

    def wrapper(apply, options):
        calls.append(0)
        result = apply(options["input"], options["timestep"], **options["c"])
        return result * float("nan") if len(calls) in (3, 4) else result  # the second segment

    copy.set_model_unet_function_wrapper(wrapper)
    segs = segs_of()
    before = in_queue(MegapixelSEGSUpscale.fingerprint_inputs)
    assert not torch.equal(in_queue(lambda: upscale(segs, model=copy)), expected)
    assert in_queue(MegapixelSEGSUpscale.fingerprint_inputs) != before
    assert torch.equal(in_queue(lambda: upscale(segs, model=copy)), expected)
    assert len(calls) == 6 + 2


def test_a_picture_that_a_hook_has_failed_on_is_not_final_and_costs_no_sampling_again(
    upscale, short_sd15, in_queue
):
    calls, segs, hook = [], segs_of(), BrokenHook(raise_error)
    settings = {"model": watched(short_sd15, [], calls.append), "upscaler_hook_opt": hook}
    before = in_queue(MegapixelSEGSUpscale.fingerprint_inputs)
    in_queue(lambda: upscale(segs, **settings))
    assert in_queue(MegapixelSEGSUpscale.fingerprint_inputs) != before
    hook.fail = lambda picture: picture
    assert in_queue(lambda: upscale(segs, **settings))[0, 47, 119].tolist() == [9.0] * 3
    assert len(calls) == 6


def test_progress_never_falls_back_and_reaches_its_end(upscale, monkeypatch):
    values = []
    monkeypatch.setattr(
        comfy.utils.ProgressBar,
        "update_absolute",
        lambda bar, value, total=None, *rest: values.append((value, total)),
    )
    upscale(batch_size=2)
    assert values == sorted(values)
    assert values[-1] == (12, 12)  # three segments of two steps, with encoding and decoding


# Our own effects


def deep_shrink(model):
    return MegapixelDeepShrink.execute(
        model=model, block_number=3, downscale_factor=2.0, start_percent=0.0, end_percent=1.0,
        downscale_after_skip=True, downscale_method="bicubic", upscale_method="bicubic",
    ).args[0]  # fmt: skip


EFFECTS = {
    "deep shrink": deep_shrink,
    "hidiffusion": lambda model: MegapixelHiDiffusion.execute(model=model, mode="auto", trained_size=32).args[
        0
    ],
    "rau-net": lambda model: MegapixelRAUNetSimple.execute(
        model_type="SD15",
        model=model,
        res_mode="low (1024 or lower)",
        upscale_mode="default",
        ca_upscale_mode="default",
    ).args[0],
    "msw-msa": lambda model: MegapixelMSWMSASimple.execute(model_type="SD15", model=model).args[0],
}


@pytest.mark.parametrize("name", EFFECTS)
def test_our_effects_work_in_segments_of_odd_sizes_and_in_batches_as_alone(name, upscale, sd15, draw):
    image = draw(1, 89, 141, 3) * 0.6 + 0.2
    # latents of 9 x 7 (twice) and of 5 x 11
    segs = segs_of((0, 3, 56, 75), (75, 17, 131, 89), (30, 40, 118, 80), size=(89, 141))
    model = EFFECTS[name](sd15)
    settings = {"image": image, "denoise": 1.0, "steps": 2}
    alone = upscale(segs, model=model, **settings)
    assert_close(upscale(segs, model=model, batch_size=2, **settings), alone, 2e-5)
    assert not torch.equal(alone, upscale(segs, **settings))


def test_after_running_out_of_memory_the_next_batch_is_as_small_as_what_fitted(upscale, short_sd15):
    sizes = []

    def act(call):
        if sizes[-1] > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    boxes = [(left, top, left + 24, top + 24) for top in (0, 24) for left in (0, 24, 48, 72)]
    upscale(segs_of(*boxes), model=watched(short_sd15, sizes, act), batch_size=4)
    assert sizes[0] == 4
    assert set(sizes[1:]) == {2}


@pytest.mark.parametrize("size", [(2, 4, 2, 3), (2, 16, 1, 2, 3)], ids=["pictures", "videos"])
def test_every_segment_of_a_batch_has_its_own_mask(size):
    masks = torch.zeros(2, 16, 24)
    masks[0, :, :12] = 1
    alone = [comfy.sampler_helpers.prepare_mask(mask, (1, *size[1:]), "cpu") for mask in masks]
    together = comfy.sampler_helpers.prepare_mask(stack_masks(list(masks), len(size)), size, "cpu")
    assert torch.equal(together, torch.cat(alone))


def test_pictures_with_a_time_or_with_transparency_from_a_vae_are_taken(upscale, vae):
    expected = upscale(segs_of())
    video, layered = copy.copy(vae), copy.copy(vae)
    video.decode = lambda latent: vae.decode(latent)[:, None]  # (B, T, H, W, C), as VAEs for videos give it
    layered.decode = lambda latent: torch.nn.functional.pad(vae.decode(latent), (0, 1), value=0.5)
    assert torch.equal(upscale(segs_of(), vae=video), expected)
    assert torch.equal(upscale(segs_of(), vae=layered), expected)


def test_a_mask_for_each_frame_is_refined_in_that_frame_alone(upscale, draw):
    frames = draw(3, *SIZE, 3)
    masks = np.zeros((3, 40, 32), np.float32)
    masks[0, :, :16], masks[2, :, 16:] = 1, 1
    each = upscale((SIZE, [segment(BOXES[1], masks)]), image=frames)
    alone = [upscale((SIZE, [segment(BOXES[1], mask)]), image=frames) for mask in masks]
    for frame in (0, 2):
        assert torch.equal(each[frame], alone[frame][frame])
        assert not torch.equal(each[frame], frames[frame])
    assert torch.equal(each[1], frames[1])


def test_a_small_segment_is_sampled_at_the_target_and_put_back_at_its_own_size(
    upscale, short_sd15, vae, image, host_refine
):
    seen, copy = [], short_sd15.clone()

    def wrapper(apply, options):
        seen.append(tuple(options["input"].shape[-2:]))
        return apply(options["input"], options["timestep"], **options["c"])

    copy.set_model_unet_function_wrapper(wrapper)
    found = SIZE, [segment(BOXES[0])]
    result = upscale(found, model=copy, target_size=64, feather=0, noise_mask_feather=0)
    assert set(seen) == {(80 // 8, 64 // 8)}
    box = BOXES[0]
    large = resize_pictures(part(image, box).movedim(-1, 1), (80, 64), "lanczos").movedim(1, -1)
    refined = host_refine(large, torch.ones(80, 64), SETTINGS["seed"])
    small = resize_pictures(refined.movedim(-1, 1), (40, 32), "lanczos").movedim(1, -1)
    assert_close(part(result, box), small)
    outside = ~covered([box])
    assert torch.equal(result[0][outside], image[0][outside])


def test_a_target_that_every_segment_has_changes_no_bit(upscale):
    expected = upscale()
    for settings in ({"target_size": 0}, {"target_size": 32}, {"target_size": 512, "target_limit": 40}):
        assert torch.equal(upscale(**settings), expected)


def test_conditioning_is_cut_to_an_enlarged_segment(upscale, texts):
    area = {"area": (2, 2, 1, 1), "strength": 1.0}
    [[text, _]] = texts[0]
    both = [[text, {}], [texts[1][0][0], area]]
    found = SIZE, [segment(BOXES[0])]
    everywhere = [
        [text, {}],
        [texts[1][0][0], {"area": ("percentage", 16 / 48, 16 / 120, 8 / 48, 8 / 120), "strength": 1.0}],
    ]
    assert_close(
        upscale(found, positive=both, target_size=64), upscale(found, positive=everywhere, target_size=64)
    )
    assert not torch.equal(upscale(found, positive=both, target_size=64), upscale(found, target_size=64))
