"""Segments on today's families: what each is given is the cut of the picture,
and what is not refined keeps its bits.
"""

from __future__ import annotations

from functools import cache

import comfy.k_diffusion.sampling
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from megapixel.host.segment_sampler import Sampling
from megapixel.host.segs import Enlargement, Pasting, upscale_segments
from megapixel.segs.segment import SEG

from devhost.tiny.families import CELL, FAMILIES, IDENTITY, IdentityVae, sample_identity

SIZE = (48, 64)
BOXES = [(0, 0, 24, 24), (24, 24, 48, 48), (40, 0, 64, 24)]  # x1, y1, x2, y2; on whole tokens
REFERENCES = {"Flux", "Flux.2", "Qwen-Image", "Z-Image", "Krea 2"}  # edit models


@pytest.fixture(autouse=True)
def identity_sampler(monkeypatch):
    monkeypatch.setattr(comfy.k_diffusion.sampling, f"sample_{IDENTITY}", sample_identity, raising=False)


@cache
def model_of(name):
    return FAMILIES[name].model()


def coordinates(height=SIZE[0], width=SIZE[1]):
    """Return (1, H, W, 3): row, column and their product, each in [0, 1]."""
    rows, columns = torch.meshgrid(torch.arange(height) / 64, torch.arange(width) / 64, indexing="ij")
    return torch.stack((rows, columns, rows * columns), dim=-1)[None]


def segs(boxes=BOXES):
    found = []
    for x1, y1, x2, y2 in boxes:
        mask = np.ones((y2 - y1, x2 - x1), np.float32)
        found.append(SEG(None, mask, 1.0, (x1, y1, x2, y2), (x1, y1, x2, y2), "thing", None))
    return SIZE, found


def watched(model, seen):
    """Return a clone that notes what the network is given."""
    clone = model.clone()

    def wrapper(apply, options):
        seen.append((options["input"], options["c"]))
        return apply(options["input"], options["timestep"], **options["c"])

    clone.set_model_unet_function_wrapper(wrapper)
    return clone


def refine(name, model=None, image=None, vae=None, text=None, found=None, **settings):
    family = FAMILIES[name]
    defaults = {
        "seed": 1,
        "steps": 1,
        "cfg": 1.0,
        "sampler_name": IDENTITY,
        "scheduler": "simple",
        "denoise": 0.5,
    }
    sampling = Sampling(
        model or model_of(name), vae or IdentityVae(family.has_time), text or family.text(), family.text(),
        **defaults | {"batch_size": 1, "noise_mask_feather": 0} | settings,
    )  # fmt: skip
    image = coordinates() if image is None else image
    enlargement = Enlargement(rescale_factor=1.0)
    with torch.inference_mode():
        refined, _ = upscale_segments(
            image, found or segs(), enlargement, sampling, Pasting(feather=0, smallest_crop=8)
        )
    return refined


def latent(picture, has_time):
    """Return what `IdentityVae` makes of a picture."""
    made = F.pixel_unshuffle(picture.movedim(-1, 1), CELL)
    return made[:, :, None] if has_time else made


def parts(picture):
    return [picture[:, y1:y2, x1:x2] for x1, y1, x2, y2 in BOXES]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", FAMILIES)
def test_with_identities_for_sampler_and_vae_a_picture_keeps_its_bits(name, batch):
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, *SIZE, 3, generator=generator)
    assert torch.equal(refine(name, image=image, batch_size=batch), image)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_a_reference_of_the_picture_is_cut_to_the_pixel_and_another_one_stays_whole(name, batch):
    family, seen = FAMILIES[name], []
    own = latent(coordinates(), family.has_time)
    other = latent(coordinates(32, 32), family.has_time)
    text = family.text(reference_latents=[own, other])
    refine(name, watched(model_of(name), seen), text=text, batch_size=batch)
    cut = torch.cat([given["ref_latents"][0] for _, given in seen])
    whole = torch.cat([given["ref_latents"][1] for _, given in seen])
    assert torch.equal(cut, torch.cat([latent(part, family.has_time) for part in parts(coordinates())]))
    assert torch.equal(whole, other.expand_as(whole))


@pytest.mark.parametrize(("choice", "cut"), [("auto", True), ("cut", True), ("whole", False)])
def test_the_switch_decides_about_references(choice, cut):
    seen = []
    own = latent(coordinates(), True)
    text = FAMILIES["Qwen-Image"].text(reference_latents=[own])
    refine("Qwen-Image", watched(model_of("Qwen-Image"), seen), text=text, reference_latents=choice)
    assert all((given["ref_latents"][0].shape == own.shape) != cut for _, given in seen)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_mask_and_an_area_lie_where_they_lay_in_the_picture(name):
    """The right half under a mask, the lower half as an area: segments outside of both see neither text."""
    family = FAMILIES[name]
    mask = torch.zeros(1, *SIZE)
    mask[..., 32:] = 1
    seen = []
    [[context, options]] = family.text()
    text = [
        [context, options | {"mask": mask}],
        [context, {**options, "area": ("percentage", 0.5, 1.0, 0.5, 0.0)}],
    ]
    refine(name, watched(model_of(name), seen), text=text)
    shapes = [tuple(given.shape[-2:]) for given, _ in seen]
    assert (6, 6) in shapes
    masked = [shape for shape in shapes if shape != (6, 6)]
    assert masked == []  # each of these crops lies wholly inside or outside of the area


@pytest.mark.parametrize("batch", [1, 3])
def test_masks_weigh_texts_in_a_video_model_in_a_batch_as_alone(batch):
    """The host takes a mask without a time for one with it:
    then a batch of segments would be one of frames.
    """
    family = FAMILIES["Wan"]
    [[context, options]] = family.text()
    mask = torch.rand(1, *SIZE, generator=torch.Generator().manual_seed(2))
    text = [[context, options | {"mask": mask}], [context * 2, options]]
    sampler = {"sampler_name": "euler", "steps": 2}
    image = refine("Wan", text=text, batch_size=batch, **sampler)
    alone = refine("Wan", text=text, batch_size=1, **sampler)
    torch.testing.assert_close(image, alone, rtol=0, atol=1e-5)
    assert not torch.equal(image, coordinates())


def test_the_latent_and_mask_of_image_to_video_are_cut_in_space():
    family, seen = FAMILIES["Wan image to video"], []
    planted = latent(coordinates(), True)
    mask = coordinates()[:, ::CELL, ::CELL, 0][:, None, None]
    text = family.text(concat_latent_image=planted, concat_mask=mask)
    refine("Wan image to video", watched(model_of("Wan image to video"), seen), text=text)
    for (_, given), (x1, y1, x2, y2) in zip(seen, BOXES, strict=True):
        rows, columns = slice(y1 // CELL, y2 // CELL), slice(x1 // CELL, x2 // CELL)
        torch.testing.assert_close(given["c_concat"][:, 4:], planted[..., rows, columns], rtol=0, atol=0)
        torch.testing.assert_close(given["c_concat"][:, :1], 1 - mask[..., rows, columns], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["Flux", "Krea 2", "Wan"])
def test_crops_are_whole_tokens_of_the_model(name):
    seen = []
    refine(name, watched(model_of(name), seen), found=segs([(4, 4, 16, 20)]))
    assert all(side % 2 == 0 for given, _ in seen for side in given.shape[-2:])


@pytest.mark.parametrize("name", FAMILIES)
def test_four_steps_without_guidance_give_no_warning(name, caplog):
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, *SIZE, 3, generator=generator)
    result = refine(name, image=image, sampler_name="euler", steps=4, denoise=0.35, found=segs(BOXES[:1]))
    assert bool(result.isfinite().all())
    assert not torch.equal(result, image)
    assert torch.equal(result[:, 24:], image[:, 24:])
    own = [text for text in caplog.messages if "memory leak" not in text]  # of models of earlier tests
    assert own == []


TILES = [(0, 0, 40, 48), (24, 0, 64, 48)]  # that share 16 columns


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_sampled_jointly_a_picture_comes_back_and_each_tile_is_given_its_own_part(name, shift):
    family, seen = FAMILIES[name], []
    image = coordinates()
    options = {"reference_latents": [latent(image, family.has_time)]} if name in REFERENCES else {}
    result = refine(
        name, watched(model_of(name), seen), image=image, found=segs(TILES), overlaps="joint", shift_borders=shift, text=family.text(**options),
    )  # fmt: skip
    torch.testing.assert_close(result, image, rtol=0, atol=1e-6)
    assert len(seen) == len(TILES)
    own = [latent(image[:, y1:y2, x1:x2], family.has_time) for x1, y1, x2, y2 in TILES]
    for (given, named), part in zip(seen, own, strict=True):
        assert given.shape == part.shape
        if options:
            assert torch.equal(named["ref_latents"][0], part)
