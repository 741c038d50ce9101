"""Every sampler of the host: a batch of segments beside the host's own nodes for each segment alone."""

from __future__ import annotations

import comfy.sample
import comfy.samplers
import pytest
import torch
from megapixel.host.segment_noise import can_batch, segment_sampler, start_noise
from megapixel.host.sigmas import noise_levels

from devhost.tiny.random_models import conditioning

SAMPLERS = comfy.samplers.KSampler.SAMPLERS
SEEDS = [11, 2**63 + 5]  # the second one is beyond a signed number
SHAPE = (4, 6, 5)  # below that the norms of the deepest layers have too few numbers to agree to 1e-5
STEPS, DENOISE, CFG = 3, 0.6, 2.0
BATCHED = [name for name in SAMPLERS if name not in ("ddim", "dpm_adaptive")]


@pytest.fixture(scope="module")
def latents(draw):
    return list((draw(2, *SHAPE) * 2 - 1).split(1))


@pytest.fixture(scope="module")
def masks(draw):
    return list(draw(2, 1, *SHAPE[1:], seed=1).split(1))


@pytest.fixture(scope="module")
def texts(short_sd15):
    return [conditioning(short_sd15, seed, tokens=8) for seed in (1, 2)]


def host_alone(model, sampler_name, seed, latent, mask, texts):
    """What the host's KSampler node does. It seeds the global generator."""
    with torch.random.fork_rng(), torch.inference_mode():
        noise = comfy.sample.prepare_noise(latent, seed)
        return comfy.sample.sample(
            model, noise, STEPS, CFG, sampler_name, "normal", *texts, latent, denoise=DENOISE, noise_mask=mask,
            disable_pbar=True, seed=seed,
        )  # fmt: skip


def ours(model, sampler_name, seeds, latents, masks, texts):
    """What the segments' sampler does with a batch. The seed of the run is none of theirs."""
    noise = start_noise(latents, seeds)
    sigmas = noise_levels(model, sampler_name, "normal", STEPS, DENOISE)
    sampler = segment_sampler(sampler_name, seeds, sigmas, noise.shape, model.load_device)
    with torch.random.fork_rng(), torch.inference_mode():  # some samplers draw what they do not use
        return comfy.sample.sample_custom(
            model, noise, CFG, sampler, sigmas, *texts, torch.cat(latents), noise_mask=torch.cat(masks),
            disable_pbar=True, seed=77,
        )  # fmt: skip


@pytest.mark.parametrize("sampler_name", BATCHED)
def test_a_batch_gives_every_entry_what_the_host_gives_it_alone(
    sampler_name, short_sd15, latents, masks, texts
):
    assert can_batch(sampler_name)
    together = ours(short_sd15, sampler_name, SEEDS, latents, masks, texts)
    alone = [
        host_alone(short_sd15, sampler_name, *entry, texts)
        for entry in zip(SEEDS, latents, masks, strict=True)
    ]
    for entry, expected in zip(together.split(1), alone, strict=True):
        assert expected.isfinite().all()
        assert (entry - expected).norm() < 1e-5 * expected.norm()
    last = ours(short_sd15, sampler_name, SEEDS[1:], latents[1:], masks[1:], texts)
    assert torch.equal(last, alone[1])


@pytest.mark.parametrize("sampler_name", ["ddim", "dpm_adaptive"])
def test_samplers_that_mix_the_entries_of_a_batch_are_given_one(
    sampler_name, short_sd15, latents, masks, texts
):
    assert not can_batch(sampler_name)
    together = ours(short_sd15, sampler_name, SEEDS, latents, masks, texts)
    alone = host_alone(short_sd15, sampler_name, SEEDS[1], latents[1], masks[1], texts)
    assert (together[1] - alone[0]).abs().max() > 1e-3 * alone.abs().max()  # it is needed


def test_a_sampler_of_another_pack_is_given_one_entry(monkeypatch):
    def sample_of_another_pack(model, x, sigmas, extra_args=None, callback=None, disable=None):
        return x

    monkeypatch.setattr(
        comfy.samplers.k_diffusion_sampling, "sample_of_another_pack", sample_of_another_pack, raising=False
    )  # as such packs add theirs
    assert not can_batch("of_another_pack")


def test_all_samplers_of_the_host_are_looked_at():
    assert len(BATCHED) + 2 == len(SAMPLERS)
    assert sum(can_batch(name) for name in SAMPLERS) == len(BATCHED)


def test_start_noise_is_the_hosts_for_each_seed(latents):
    with torch.random.fork_rng():
        expected = [comfy.sample.prepare_noise(*entry) for entry in zip(latents, SEEDS, strict=True)]
    assert torch.equal(start_noise(latents, SEEDS), torch.cat(expected))


def test_start_noise_of_a_video_latent_keeps_its_time(draw):
    noise = start_noise([draw(1, 4, 1, 6, 5)], [3])
    assert noise.shape == (1, 4, 1, 6, 5)


@pytest.mark.parametrize("sampler_name", ["euler_ancestral", "dpmpp_sde", "seeds_2", "lcm"])
def test_other_seeds_give_other_noise_between_the_steps(sampler_name, short_sd15, latents, masks, texts):
    sigmas = noise_levels(short_sd15, sampler_name, "normal", STEPS, DENOISE)
    noise = start_noise(latents[:1], SEEDS[:1])

    def run(seed):
        sampler = segment_sampler(sampler_name, [seed], sigmas, noise.shape, short_sd15.load_device)
        with torch.inference_mode():
            return comfy.sample.sample_custom(
                short_sd15, noise, CFG, sampler, sigmas, *texts, latents[0], disable_pbar=True, seed=77
            )

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


@pytest.mark.parametrize("sampler_name", ["euler", "euler_ancestral", "dpmpp_sde", "lcm"])
def test_the_highest_seeds_are_seeds(sampler_name, short_sd15, latents, masks, texts):
    for seed in (2**64 - 2, 2**64 - 1):
        result = ours(short_sd15, sampler_name, [seed], latents[:1], masks[:1], texts)
        assert result.isfinite().all()


def test_options_of_a_sampler_stay(latents):
    sigmas = torch.tensor([1.0, 0.5, 0.0])
    host = comfy.samplers.sampler_object("dpmpp_2m_sde")
    sampler = segment_sampler("dpmpp_2m_sde", SEEDS, sigmas, (2, *SHAPE), torch.device("cpu"))
    assert sampler.sampler_function is host.sampler_function
    assert sampler.inpaint_options == host.inpaint_options
    assert sampler.extra_options.keys() == host.extra_options.keys() | {"noise_sampler"}
