"""Segments that are sampled jointly, and segments with texts of their own,
through the node on the real host.
"""

from __future__ import annotations

import comfy.model_management
import numpy as np
import pytest
import torch
from comfy_execution.utils import CurrentNodeContext
from megapixel.host import run_again, unfinished
from megapixel.nodes.deep_shrink import MegapixelDeepShrink
from megapixel.nodes.segs_share import MegapixelSEGSSlice
from megapixel.nodes.segs_texts import MegapixelSEGSImages, MegapixelSEGSTexts
from megapixel.nodes.segs_upscale import MegapixelSEGSUpscale
from megapixel.segs.segment import SEG, FrameSEG
from megapixel.segs.texts import SegmentTexts

from devhost.environment import ROOT
from devhost.tiny import random_models
from devhost.tiny.random_models import conditioning, controlnet
from devhost.tiny.vae import load_vae

SIZE = (64, 96)
TILES = [(0, 0, 56, 64), (40, 0, 96, 64)]  # x1, y1, x2, y2: two tiles that overlap by 16
APART = [(0, 0, 32, 32), (56, 24, 96, 64)]
SETTINGS = {
    "rescale_factor": 1.0, "resampling_method": "lanczos", "supersample": "true", "rounding_modulus": 8,
    "seed": 5, "steps": 2, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 0.6,
    "feather": 2, "inpaint_model": False, "noise_mask_feather": 4, "smallest_crop": 16, "batch_size": 1,
}  # fmt: skip


def segment(box, mask=None, label="thing"):
    x1, y1, x2, y2 = box
    return SEG(None, np.ones((y2 - y1, x2 - x1), np.float32) if mask is None else mask, 0.9, box, box, label)


def segs_of(boxes=TILES, size=SIZE):
    return size, [segment(box) for box in boxes]


@pytest.fixture(scope="module")
def vae():
    vae = random_models.vae()
    with torch.no_grad():
        vae.first_stage_model.decoder.conv_out.weight *= 0.25  # pictures hardly leave (0, 1)
    return vae


@pytest.fixture
def in_queue():
    """A function that runs another one as the host runs a node of a queued prompt."""

    def run(function):
        with CurrentNodeContext("prompt", "8"):
            return function()

    yield run
    unfinished._runs.clear()
    run_again._events.clear()


@pytest.fixture(scope="module")
def image(draw):
    return draw(1, *SIZE, 3) * 0.6 + 0.2


@pytest.fixture(scope="module")
def texts(short_sd15):
    return [conditioning(short_sd15, seed, tokens=8) for seed in (1, 2, 3, 4)]


@pytest.fixture(scope="module")
def run(short_sd15, vae, texts, image):
    """A function that runs the node as the host does and returns its output."""

    def run(
        segs=None, image=image, model=short_sd15, vae=vae, positive=texts[0], overlaps="joint", **settings
    ):
        with torch.inference_mode():
            return MegapixelSEGSUpscale.execute(
                image,
                segs_of() if segs is None else segs,
                model,
                vae,
                positive,
                texts[1],
                overlaps=overlaps,
                **SETTINGS | settings,
            )

    return run


@pytest.fixture(scope="module")
def upscale(run):
    return lambda *given, **settings: run(*given, **settings).args[0]


def watched(model, calls):
    copy = model.clone()

    def wrapper(apply, options):
        calls.append(tuple(options["input"].shape))
        return apply(options["input"], options["timestep"], **options["c"])

    copy.set_model_unet_function_wrapper(wrapper)
    return copy


def shown(output):
    """Return the text at the node."""
    [text] = output.ui.as_dict()["text"]
    return text


def part(picture, box):
    x1, y1, x2, y2 = box
    return picture[:, y1:y2, x1:x2]


# Joint sampling


def test_segments_that_touch_no_other_are_sampled_as_without(upscale):
    assert torch.equal(upscale(segs_of(APART)), upscale(segs_of(APART), overlaps="independent"))


@pytest.mark.parametrize("shift", [False, True])
def test_tiles_that_overlap_agree_in_their_overlap(shift, upscale, image):
    """Decoded apart from one latent, they differ only by what the decoder sees beside them."""
    joint = upscale(feather=0, shift_borders=shift)
    for box in TILES:
        alone = upscale(segs_of([box]), feather=0, overlaps="independent")
        assert not torch.equal(part(joint, box), part(alone, box))
    assert (joint - image).abs().mean() > 0.05


class Remembering:
    """A VAE that remembers what it decoded."""

    def __init__(self, vae):
        self._vae, self.latents = vae, []

    def __getattr__(self, name):
        return getattr(self._vae, name)

    def decode(self, latent):
        self.latents.append(latent)
        return self._vae.decode(latent)


@pytest.mark.parametrize("boxes", [TILES, [(0, 0, 96, 40), (0, 24, 96, 64)]], ids=["beside", "above"])
def test_a_tile_is_decoded_as_in_the_whole_latent(boxes, run):
    vae = Remembering(load_vae(ROOT / "assets" / "tiny" / "vae.safetensors"))
    flat = torch.linspace(0.3, 0.7, SIZE[1]).expand(1, *SIZE)[..., None].repeat(1, 1, 1, 3)
    result = run(segs_of(boxes), image=flat, vae=vae, feather=0).args[0]
    first, second = vae.latents
    axis = 1 if boxes[1][0] else 0
    length = SIZE[axis] // 8
    beginning = length - second.shape[axis - 2]  # of what is decoded for the second tile
    assert beginning < boxes[1][1 - axis] // 8
    whole = torch.cat([first.narrow(axis - 2, 0, beginning), second], axis - 2)
    with torch.inference_mode():
        expected = vae.decode(whole)[..., :3]
    assert expected.std() > 0.05
    torch.testing.assert_close(result, expected, rtol=0, atol=0.02)


class White:
    """A VAE that decodes everything to white."""

    def __init__(self, vae):
        self._vae = vae

    def __getattr__(self, name):
        return getattr(self._vae, name)

    def decode(self, latent):
        return torch.ones_like(self._vae.decode(latent))


@pytest.mark.parametrize("feather", [4, 16, 40])
def test_an_overlap_smaller_than_the_feather_shows_nothing_of_the_image(feather, upscale, vae):
    assert (upscale(feather=feather, vae=White(vae)) - 1).abs().max() < 1e-5


def test_the_result_does_not_depend_on_the_batches(upscale):
    torch.testing.assert_close(upscale(batch_size=2), upscale(batch_size=1), rtol=0, atol=1e-5)


def test_joint_sampling_makes_no_more_calls_than_independent_and_none_on_the_whole(upscale, short_sd15):
    calls = {"joint": [], "independent": []}
    for overlaps, seen in calls.items():
        upscale(model=watched(short_sd15, seen), overlaps=overlaps)
    assert calls["joint"] == calls["independent"]
    assert {shape[-2:] for shape in calls["joint"]} == {(8, 7)}


def test_outside_all_masks_is_the_plain_upscale_bit_for_bit(upscale, draw):
    image = draw(1, 51, 83, 3)
    mask = np.zeros((40, 40), np.float32)
    mask[8:32, 6:30] = 1
    segs = (51, 83), [segment((3, 5, 43, 45), mask), segment((30, 9, 70, 49), mask)]
    for factor in (1.0, 1.7):
        settings = {"image": image, "rescale_factor": factor, "feather": 0}
        plain, joint = upscale(((51, 83), []), **settings), upscale(segs, **settings)
        changed = (joint != plain).any(-1)[0]
        rows, columns = changed.any(1).nonzero()[:, 0], changed.any(0).nonzero()[:, 0]
        assert rows[0] >= 13 * factor - 2
        assert rows[-1] <= 41 * factor + 2
        assert columns[0] >= 9 * factor - 2
        assert columns[-1] <= 60 * factor + 2
        assert changed.float().mean() > 0.2


def test_each_frame_is_sampled_as_alone(upscale, draw):
    frames = draw(2, *SIZE, 3) * 0.6 + 0.2
    together = upscale(image=frames)
    for number in range(2):
        assert torch.equal(together[number : number + 1], upscale(image=frames[number : number + 1]))
    segs = SIZE, [FrameSEG.of(segment(box), 1) for box in TILES]
    assert torch.equal(upscale(segs, image=frames)[0], frames[0])


def test_a_hint_and_a_mask_over_the_picture_are_cut_to_each_tile(upscale, texts, draw):
    hint, mask = draw(1, 3, *SIZE), (draw(1, *SIZE, seed=2) > 0.5).float()
    text = texts[0][0][0]
    control = controlnet().set_cond_hint(hint)
    given = [[text, {"control": control, "control_apply_to_uncond": True}], [texts[2][0][0], {"mask": mask}]]
    plain = upscale()
    hinted = upscale(positive=given)
    assert not torch.equal(hinted, plain)
    torch.testing.assert_close(upscale(positive=given, batch_size=2), hinted, rtol=0, atol=1e-4)
    assert control.cond_hint is None


def test_an_effect_on_the_model_goes_by_the_size_of_the_tiles(upscale, sd15, caplog):
    model = MegapixelDeepShrink.execute(sd15, mode="auto").args[0]
    with caplog.at_level("INFO", "megapixel"):
        upscale(model=model)
    lines = [line for line in caplog.messages if line.startswith("Deep Shrink")]
    assert [line.split(":")[0] for line in lines] == ["Deep Shrink at latent 8x7"]


def test_a_slice_of_the_segments_is_refused(run):
    [segs] = MegapixelSEGSSlice.execute(segs_of(), 0, 2, False).args
    with pytest.raises(
        ValueError, match=r"segs: expected all segments where overlaps is joint, got one worker's slice"
    ):
        run(segs)


def test_what_has_no_effect_is_reported_at_the_node(run):
    assert "target_size: 2 segments overlap" in shown(run(target_size=128))
    assert (
        shown(run(shift_borders=True, overlaps="independent"))
        == "shift_borders: nothing to do, overlaps is not joint. Set overlaps to joint."
    )


def test_without_memory_the_batches_are_halved(upscale, short_sd15):
    boxes = [(left, 0, left + 32, 64) for left in (0, 16, 32, 48, 64)]
    sizes = []

    def wrapper(apply, options):
        sizes.append(len(options["input"]) // len(options["cond_or_uncond"]))
        if sizes[-1] > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return apply(options["input"], options["timestep"], **options["c"])

    model = short_sd15.clone()
    model.set_model_unet_function_wrapper(wrapper)
    halved = upscale(segs_of(boxes), model=model, batch_size=8, steps=1)
    assert sizes[:3] == [5, 2, 2]
    torch.testing.assert_close(halved, upscale(segs_of(boxes), steps=1), rtol=0, atol=1e-5)


def test_an_interrupt_while_a_latent_is_sampled_keeps_the_segments_before_it(upscale, short_sd15, image):
    calls = []

    def wrapper(apply, options):
        calls.append(1)
        if len(calls) == 6:  # two steps of the segment apart, with and without the prompt in one call
            comfy.model_management.interrupt_current_processing()
        return apply(options["input"], options["timestep"], **options["c"])

    boxes = [(0, 0, 24, 24), (32, 0, 72, 64), (56, 0, 96, 64)]
    model = short_sd15.clone()
    model.set_model_unet_function_wrapper(wrapper)
    try:
        result = upscale(segs_of(boxes), model=model, steps=4)
    finally:
        comfy.model_management.interrupt_current_processing(False)
    assert not torch.equal(part(result, boxes[0]), part(image, boxes[0]))
    assert torch.equal(result[:, :, 40:], image[:, :, 40:])


@pytest.mark.parametrize("change", ["nothing", "moved", "feather", "label"])
def test_a_latent_of_another_group_is_not_taken_after_an_interrupt(
    change, upscale, short_sd15, texts, in_queue
):
    """Neither what a latent shows nor where it begins may come from a run with other neighbours."""
    calls = []

    def wrapper(apply, options):
        calls.append(options["input"].shape)
        if len(calls) == 6:  # two steps of the first group of two are done
            raise comfy.model_management.InterruptProcessingException
        return apply(options["input"], options["timestep"], **options["c"])

    model = short_sd15.clone()
    model.set_model_unet_function_wrapper(wrapper)
    boxes = [(0, 0, 32, 64), (16, 0, 48, 64), (56, 0, 80, 64), (72, 0, 96, 64)]
    own = SegmentTexts(by_label={"thing": texts[2], "another": texts[3]})
    settings = {"model": model, "segment_texts": own}
    in_queue(lambda: upscale(segs_of(boxes), **settings))
    assert len(calls) == 6
    changed = {"feather": {"feather": 6}}.get(change, {})
    segs = segs_of(boxes)
    if change == "moved":  # the first one is alone then
        segs[1][1] = segment((56, 0, 88, 64))
    if change == "label":
        segs[1][0] = segment(boxes[0], label="another")
    result = in_queue(lambda: upscale(segs, **settings, **changed))
    assert (len(calls) == 6 + 4) == (change == "nothing")
    assert torch.equal(result, upscale(segs, segment_texts=own, **changed))


def test_segments_that_were_sampled_before_an_interrupt_are_not_encoded_again(
    upscale, short_sd15, vae, in_queue
):
    encoded, calls = [], []

    class Counting(Remembering):
        def encode(self, pixels):
            encoded.append(pixels.shape)
            return self._vae.encode(pixels)

    def wrapper(apply, options):
        calls.append(1)
        if len(calls) == 6:
            raise comfy.model_management.InterruptProcessingException
        return apply(options["input"], options["timestep"], **options["c"])

    model = short_sd15.clone()
    model.set_model_unet_function_wrapper(wrapper)
    boxes, settings = [*APART, (0, 40, 32, 64)], {"model": model, "vae": Counting(vae)}
    segs = segs_of(boxes)
    in_queue(lambda: upscale(segs, **settings))
    assert len(encoded) == 3
    result = in_queue(lambda: upscale(segs, **settings))
    assert len(encoded) == 3 + 1
    assert torch.equal(result, upscale(segs, vae=vae))


# Texts


def by_number(*texts):
    return SegmentTexts(texts)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_each_segment_has_its_own_text_and_the_others_the_general_prompt(batch_size, upscale, texts):
    own = by_number(texts[2], texts[3])
    settings = {"overlaps": "independent", "batch_size": batch_size}
    boxes = [(0, 0, 40, 40), (56, 24, 96, 64)]
    result = upscale(segs_of(boxes), segment_texts=own, **settings)
    for number, box in enumerate(boxes):
        alone = upscale(segs_of(boxes), positive=texts[2 + number], **settings)
        torch.testing.assert_close(part(result, box), part(alone, box), rtol=0, atol=1e-5)
    first = upscale(segs_of(boxes), segment_texts=by_number(texts[2], None), **settings)
    plain = upscale(segs_of(boxes), **settings)
    torch.testing.assert_close(part(first, boxes[1]), part(plain, boxes[1]), rtol=0, atol=1e-5)
    assert not torch.equal(part(first, boxes[0]), part(plain, boxes[0]))


def test_texts_go_by_label(run, texts):
    boxes = [(0, 0, 40, 40), (56, 24, 96, 64)]
    segs = SIZE, [segment(boxes[0], label="face"), segment(boxes[1], label="hand")]
    found = run(segs, segment_texts=SegmentTexts(by_label={"hand": texts[2], "foot": texts[3]}))
    [result] = found.args
    assert torch.equal(part(result, boxes[0]), part(run(segs).args[0], boxes[0]))
    assert torch.equal(part(result, boxes[1]), part(run(segs, positive=texts[2]).args[0], boxes[1]))
    assert shown(found) == "segment_texts: no segment has the label foot."


@pytest.mark.parametrize("overlaps", ["independent", "in order", "joint"])
def test_equal_texts_are_the_general_prompt_bit_for_bit(overlaps, upscale, texts):
    own = by_number(texts[0], texts[0])
    assert torch.equal(upscale(segment_texts=own, overlaps=overlaps), upscale(overlaps=overlaps))


@pytest.mark.parametrize("cfg", [1.0, 2.0])
def test_tiles_with_texts_of_their_own_are_sampled_jointly(cfg, upscale, texts):
    own = by_number(texts[2], texts[3])
    apart, together = (upscale(segment_texts=own, cfg=cfg, batch_size=size) for size in (1, 2))
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-5)
    assert not torch.equal(apart, upscale(cfg=cfg))


def test_a_text_leaves_hints_and_regional_prompts_of_the_general_prompt(upscale, texts, draw):
    control = controlnet().set_cond_hint(draw(1, 3, *SIZE))
    mask = torch.zeros(1, *SIZE)
    mask[:, 32:] = 1
    regional = [texts[3][0][0], {"mask": mask}]
    general, own = ([[text[0][0], {"control": control}], regional] for text in (texts[0], texts[2]))
    result = upscale(positive=general, segment_texts=by_number(texts[2], texts[2]))
    assert torch.equal(result, upscale(positive=own))


def test_texts_of_other_lengths_are_sampled_apart(upscale, short_sd15, texts):
    own = by_number(texts[2], conditioning(short_sd15, 7, tokens=12))
    settings = {"segment_texts": own, "overlaps": "independent"}
    assert torch.equal(upscale(batch_size=2, **settings), upscale(batch_size=1, **settings))


def test_another_number_of_texts_than_segments_is_an_error_message(run, texts):
    with pytest.raises(
        ValueError, match="segment_texts: expected a caption for each of 2 segments, got 3 captions"
    ):
        run(segment_texts=by_number(*texts[:3]))


# The nodes between segments and texts


@pytest.fixture(scope="module")
def clip():
    return random_models.clip()


def encode(clip, captions, **given):
    with torch.inference_mode():
        return MegapixelSEGSTexts.execute(
            [clip], captions, **{name: [value] for name, value in given.items()}
        ).args[0]


def test_captions_are_encoded_as_by_the_hosts_node(clip):
    made = encode(clip, ["a cat", "", "a dog"], prefix="photo, ", segs=segs_of([*TILES, TILES[0]]))
    with torch.inference_mode():
        expected = clip.encode_from_tokens_scheduled(clip.tokenize("photo, a cat"))
    assert torch.equal(made.by_number[0][0][0], expected[0][0])
    assert made.by_number[1] is None
    assert not torch.equal(made.by_number[2][0][0], expected[0][0])


def test_captions_in_a_wrong_number_are_an_error_message(clip):
    with pytest.raises(
        ValueError, match="captions: expected a caption for each of 2 segments, got 3 captions"
    ):
        encode(clip, ["a", "b", "c"], segs=segs_of())
    with pytest.raises(
        ValueError, match="labels: expected a different label for each of 2 captions, got face"
    ):
        encode(clip, ["a", "b"], labels="face")
    with pytest.raises(ValueError, match="captions: expected a list of texts, got int"):
        encode(clip, ["a", 1])
    with pytest.raises(ValueError, match="clip: expected a CLIP, got none: the checkpoint has none"):
        encode(None, ["a"])


def test_captions_with_labels_go_by_label(clip):
    made = encode(clip, ["a", "b"], labels="face\n hand \n")
    assert list(made.by_label) == ["face", "hand"]
    assert not made.by_number


def test_a_picture_of_each_segment_in_their_order(draw):
    frames = draw(2, *SIZE, 3)
    beyond = (80, 40, 120, 80)
    segs = (
        SIZE,
        [FrameSEG.of(segment(TILES[0]), 1), segment(beyond), segment((200, 0, 220, 20)), segment(TILES[1])],
    )
    [pictures] = MegapixelSEGSImages.execute(frames, segs).args
    assert torch.equal(pictures[0], frames[1:, :, :56])
    assert torch.equal(pictures[1], frames[:1, 40:, 80:])
    assert pictures[2].shape == (1, 1, 1, 3)
    assert torch.equal(pictures[3], frames[:1, :, 40:])
    found = MegapixelSEGSImages.execute(frames, (SIZE, []))
    assert found.args == ([],)
    assert shown(found) == "segs: nothing to do, there is no segment, so the list of images is empty."
