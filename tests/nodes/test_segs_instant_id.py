"""Faces of InstantID inside segments: masks and keypoints over the whole picture act where they belong."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from megapixel.attention.instant_id import FaceKeys
from megapixel.nodes.segs_upscale import MegapixelSEGSUpscale
from megapixel.patches.face_control import FaceGuide, guide_by_face
from megapixel.patches.instant_id import Person, apply_instant_id, cross_attentions
from megapixel.segs.segment import SEG, FrameSEG

from devhost.tiny import random_models
from devhost.tiny.topology import SDXL

SIZE = (128, 192)
BOXES = [(0, 0, 64, 64), (64, 40, 128, 104), (128, 64, 192, 128)]  # x1, y1, x2, y2: equal sizes
NOISE = 1e-4  # a random UNet makes that of the rounding of a batch; what a face changes is a hundred times as much
SETTINGS = {
    "rescale_factor": 1.0, "resampling_method": "lanczos", "supersample": "true", "rounding_modulus": 8,
    "seed": 5, "steps": 2, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0,
    "feather": 0, "inpaint_model": False, "noise_mask_feather": 0, "smallest_crop": 8, "batch_size": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def vae():
    soft = random_models.vae()
    with torch.no_grad():
        soft.first_stage_model.decoder.conv_out.weight *= 0.01
    return soft


@pytest.fixture(scope="module")
def picture(draw):
    return draw(1, *SIZE, 3)


@pytest.fixture(scope="module")
def face(sdxl):
    widths = tuple(cross_attentions(sdxl.get_model_object("diffusion_model")).values())
    packed = torch.randn(2, 2, 16, sum(widths), generator=torch.Generator().manual_seed(3))
    return FaceKeys(4 * packed, widths)


def segment(box):
    x1, y1, x2, y2 = box
    return SEG(None, np.ones((y2 - y1, x2 - x1), np.float32), 1.0, box, box, "a")


def cut(pixels, box):
    """Return what is in a box of (F, H, W, C) or (M, H, W)."""
    x1, y1, x2, y2 = box
    return pixels[:, y1:y2, x1:x2]


@pytest.fixture(scope="module")
def texts(sdxl):
    return tuple(random_models.conditioning(sdxl, seed, tokens=8) for seed in (1, 2))


@pytest.fixture(scope="module")
def refine(vae, texts):
    """A function (model, image, segments) that refines an image; `texts` and settings have defaults."""

    def run(model, image, segments, texts=texts, **settings):
        size = image.shape[1], image.shape[2]
        with torch.inference_mode():
            return MegapixelSEGSUpscale.execute(
                image, (size, segments), model, vae, *texts, **SETTINGS | settings
            ).args[0]

    return run


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_masked_face_is_seen_where_its_mask_lies_in_each_segment(
    sdxl, refine, picture, face, batch_size, draw
):
    mask = (draw(1, *SIZE, seed=9) > 0.5).float()
    whole = apply_instant_id(sdxl, Person(face, mask=mask))
    result = refine(whole, picture, [segment(box) for box in BOXES], batch_size=batch_size)
    plain = refine(sdxl, picture, [segment(box) for box in BOXES])
    for number, box in enumerate(BOXES):
        own = apply_instant_id(sdxl, Person(face, mask=cut(mask, box)))
        alone = refine(own, cut(picture, box), [segment((0, 0, 64, 64))], seed=SETTINGS["seed"] + number)
        assert torch.allclose(cut(result, box), alone, atol=NOISE)
        assert (alone - cut(plain, box)).abs().max() > 1e-3


def test_a_face_outside_a_segment_is_not_seen_there(sdxl, refine, picture, face):
    mask = torch.zeros(1, *SIZE)
    mask[:, :64, :64] = 1
    result = refine(apply_instant_id(sdxl, Person(face, mask=mask)), picture, [segment(box) for box in BOXES])
    plain = refine(sdxl, picture, [segment(box) for box in BOXES])
    assert torch.equal(cut(result, BOXES[2]), cut(plain, BOXES[2]))
    assert not torch.equal(cut(result, BOXES[0]), cut(plain, BOXES[0]))


def test_each_frame_has_its_own_mask_of_the_face(sdxl, refine, picture, face):
    frames = torch.cat([picture, 1 - picture])
    masks = torch.stack([torch.zeros(SIZE), torch.ones(SIZE)])
    segments = [FrameSEG.of(segment(BOXES[1]), frame) for frame in (0, 1)]
    result = refine(apply_instant_id(sdxl, Person(face, mask=masks)), frames, segments, batch_size=2)
    plain = refine(sdxl, frames, segments, batch_size=2)
    assert torch.allclose(result[0], plain[0], atol=1e-6)
    assert (result[1] - plain[1]).abs().max() > 1e-3


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_keypoints_of_a_face_are_cut_with_each_segment(sdxl, refine, picture, texts, batch_size, draw):
    keypoints = 0.2 * draw(1, *SIZE, 3, seed=4)
    cut(keypoints, BOXES[0]).fill_(100)  # a random ControlNet hardly looks at its hint otherwise
    network = random_models.controlnet(SDXL, effect=1.0)
    tokens = tuple(
        torch.randn(1, 16, SDXL["context_dim"], generator=torch.Generator().manual_seed(n)) for n in (6, 7)
    )
    whole = guide_by_face(*texts, FaceGuide(network, keypoints), tokens)
    result = refine(sdxl, picture, [segment(box) for box in BOXES], whole, batch_size=batch_size)
    for number, box in enumerate(BOXES):
        own = guide_by_face(*texts, FaceGuide(network, cut(keypoints, box)), tokens)
        seed = SETTINGS["seed"] + number
        alone = refine(sdxl, cut(picture, box), [segment((0, 0, 64, 64))], own, seed=seed)
        assert torch.allclose(cut(result, box), alone, atol=NOISE)
    elsewhere = guide_by_face(*texts, FaceGuide(network, cut(keypoints, BOXES[2])), tokens)
    other = refine(sdxl, cut(picture, BOXES[0]), [segment((0, 0, 64, 64))], elsewhere)
    assert (other - cut(result, BOXES[0])).abs().max() > 1e-3
    assert torch.equal(whole[0][0][1]["control"].cond_hint_original, keypoints.movedim(-1, 1))
