"""Joint sampling beside the host's own sampling of one latent, and beside a literal transcription."""

from __future__ import annotations

import itertools

import comfy.sample
import comfy.samplers
import pytest
import torch
from megapixel.host.joint_sampling import JointGuider, TileBatch
from megapixel.scaling.box import Box
from megapixel.segs.fuse import Fusion, tile_weight

from devhost.tiny.random_models import conditioning, controlnet

SIZE = (12, 20)
BOXES = [Box(0, 0, 12, 12), Box(0, 8, 12, 20)]
WHOLE = [Box(0, 0, *SIZE)]


@pytest.fixture(scope="module")
def texts(short_sd15):
    return [conditioning(short_sd15, seed, tokens=8) for seed in (1, 2)]


def noise_of(latent, seed=3):
    return torch.randn(latent.shape, generator=torch.Generator().manual_seed(seed))


def guider_of(model, batches, boxes, cfg=2.0, seed=None):
    weights = [
        tile_weight(torch.rand(box.size, generator=torch.Generator().manual_seed(9)), box.size)
        for box in boxes
    ]
    return JointGuider(model, cfg, batches, Fusion(SIZE, boxes, weights, seed))


def sample(guider, latent, sigmas, sampler="euler", noise=None, mask=None):
    with torch.inference_mode(), torch.random.fork_rng():
        torch.manual_seed(0)
        return guider.sample(
            noise_of(latent) if noise is None else noise,
            latent,
            comfy.samplers.sampler_object(sampler),
            sigmas,
            mask,
            None,
            True,
            3,
        )


def levels(model, steps=3, denoise=0.7):
    return comfy.samplers.KSampler(model, steps, "cpu", "euler", "normal", denoise).sigmas


@pytest.mark.parametrize(
    "sampler",
    [
        "euler",
        "heun",
        "euler_ancestral",
        "dpmpp_2m_sde",
        "dpmpp_sde",
        "euler_cfg_pp",
        "res_multistep_cfg_pp",
        "uni_pc",
        "ddim",
        "lcm",
        "dpm_fast",
    ],
)
@pytest.mark.parametrize("cfg", [2.0, 1.0])
def test_one_tile_is_plain_sampling_bit_for_bit(sampler, cfg, short_sd15, texts, draw):
    latent, mask = draw(1, 4, *SIZE), draw(1, 1, *SIZE, seed=4)
    sigmas = levels(short_sd15, 2)
    with torch.inference_mode(), torch.random.fork_rng():
        torch.manual_seed(0)
        plain = comfy.samplers.sample(
            short_sd15, noise_of(latent), *texts, cfg, "cpu", comfy.samplers.sampler_object(sampler), sigmas,
            short_sd15.model_options, latent, mask, None, True, 3,
        )  # fmt: skip
    for seed in (None, 11):
        guider = guider_of(short_sd15, [TileBatch([0], texts)], WHOLE, cfg, seed)
        assert torch.equal(sample(guider, latent, sigmas, sampler, mask=mask), plain)
    assert plain.std() > 0.1


def literal(model, latent, noise, sigmas, texts, boxes, weights, cfg):
    """Return what Euler's method makes of tiles: each step written out, each pixel fused by itself."""
    real, scale = model.model, model.model.latent_format.scale_factor
    x = latent * scale + noise * sigmas[0]  # of models that predict noise
    for sigma, following in itertools.pairwise(sigmas):
        total, count = torch.zeros_like(x), torch.zeros(SIZE)
        for (positive, negative), box, weight in zip(texts, boxes, weights, strict=True):
            tile = x[:, :, box.top : box.bottom, box.left : box.right]
            given, without = (
                real.apply_model(tile, sigma.view(1), c_crossattn=text[0][0]) for text in (positive, negative)
            )
            estimate = without + cfg * (given - without)
            for row in range(box.top, box.bottom):
                for column in range(box.left, box.right):
                    to_edge = column - box.left if box.left > 0 else box.right - 1 - column
                    distance = (to_edge + 0.5) / max(box.size)  # from the edge that the other tile covers
                    share = distance * float(weight[row - box.top, column - box.left])
                    total[..., row, column] += share * estimate[..., row - box.top, column - box.left]
                    count[row, column] += share
        estimate = total / count
        x = x + (x - estimate) / sigma * (following - sigma)
    return x / scale


@pytest.mark.parametrize("together", [True, False])
def test_joint_sampling_is_a_literal_transcription(together, short_sd15, texts, draw):
    latent, sigmas = draw(1, 4, *SIZE), levels(short_sd15)
    other = conditioning(short_sd15, 5, tokens=8)
    own = [texts, [texts[0], texts[1]] if together else [other, texts[1]]]
    batches = (
        [TileBatch([0, 1], texts)]
        if together
        else [TileBatch([number], each) for number, each in enumerate(own)]
    )
    guider = guider_of(short_sd15, batches, BOXES)
    result = sample(guider, latent, sigmas)
    with torch.inference_mode():
        expected = literal(
            short_sd15, latent, noise_of(latent), sigmas, own, BOXES, guider._fusion.weights, 2.0
        )
    assert expected.std() > 0.1
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_a_run_split_over_two_samplers_has_the_same_borders(short_sd15, texts, draw):
    latent, sigmas = draw(1, 4, *SIZE), levels(short_sd15, 4)

    def run(latent, sigmas, noise=None, seed=7):
        guider = guider_of(short_sd15, [TileBatch([0, 1], texts)], BOXES, seed=seed)
        return sample(guider, latent, sigmas, noise=noise)

    whole = run(latent, sigmas)
    half = run(latent, sigmas[:3])
    split = run(half, sigmas[2:], noise=torch.zeros_like(half))
    scale = float(whole.abs().max())
    torch.testing.assert_close(split, whole, rtol=0, atol=1e-5 * scale)
    assert (run(latent, sigmas, seed=8) - whole).abs().max() > 1e-3 * scale


def test_tiles_see_their_own_part_of_a_hint(short_sd15, texts, draw):
    latent, sigmas = draw(1, 4, *SIZE), levels(short_sd15, 1)
    hint = draw(1, 3, SIZE[0] * 8, SIZE[1] * 8)
    seen = []

    def watch(apply, options):
        seen.append(options["c"]["control"]["output"][0].shape)
        return apply(options["input"], options["timestep"], **options["c"])

    model = short_sd15.clone()
    model.set_model_unet_function_wrapper(watch)

    def with_hint(box):
        control = controlnet().set_cond_hint(
            hint[..., box.top * 8 : box.bottom * 8, box.left * 8 : box.right * 8]
        )
        return [[[text[0][0], {"control": control, "control_apply_to_uncond": True}]] for text in texts]

    apart = sample(
        guider_of(model, [TileBatch([n], with_hint(box)) for n, box in enumerate(BOXES)], BOXES),
        latent,
        sigmas,
    )
    other = with_hint(BOXES[0])
    same = sample(guider_of(model, [TileBatch([0, 1], other)], BOXES), latent, sigmas)
    assert {shape[-2:] for shape in seen} == {(12, 12)}
    assert not torch.equal(apart, same)


def test_the_model_stays_as_it_is_also_after_an_error(short_sd15, texts, draw):
    latent, sigmas = draw(1, 4, *SIZE), levels(short_sd15, 1)
    broken = short_sd15.clone()

    def fail(apply, options):
        raise RuntimeError("broken")

    options = short_sd15.model_options
    before = {name: dict(value) if isinstance(value, dict) else value for name, value in options.items()}
    broken.set_model_unet_function_wrapper(fail)
    plain = comfy.samplers.CFGGuider(short_sd15)
    plain.set_conds(*texts)
    first = sample(plain, latent, sigmas)
    with pytest.raises(RuntimeError, match="broken"):
        sample(guider_of(broken, [TileBatch([0, 1], texts)], BOXES), latent, sigmas)
    assert short_sd15.model_options == before
    assert torch.equal(sample(plain, latent, sigmas), first)


def test_the_host_makes_room_for_a_batch_of_tiles_and_not_for_the_whole(short_sd15, texts, draw, monkeypatch):
    asked = []
    required = type(short_sd15.model).memory_required
    monkeypatch.setattr(
        type(short_sd15.model), "memory_required",
        lambda self, shape, **named: asked.append(list(shape)) or required(self, shape, **named),
    )  # fmt: skip
    sample(guider_of(short_sd15, [TileBatch([0, 1], texts)], BOXES), draw(1, 4, *SIZE), levels(short_sd15, 1))
    assert {tuple(shape[-2:]) for shape in asked} == {(12, 12)}
