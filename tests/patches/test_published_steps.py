"""Shares of the executed steps, on the host's own samplers and schedulers:
each pair is on in just the steps it should be.

A model call belongs to the step in whose span of noise levels it lies; at the level at which a step begins,
to that step.
"""

from __future__ import annotations

import math

import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from megapixel.patches.msw_msa import MSWMSA, apply_msw_msa
from megapixel.patches.rau_net import apply_rau_net
from megapixel.patches.rau_net_published import Published
from megapixel.patches.rau_net_settings import RAUNet
from megapixel.patches.wrapper import planned

from devhost.sampling import sample
from devhost.tiny import random_models

# The host's Brownian noise and its dpm_adaptive warn of their own arithmetic.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Should have t"), pytest.mark.filterwarnings("ignore:To copy construct"),
]  # fmt: skip

SCHEDULERS = ("normal", "karras", "exponential", "sgm_uniform", "simple", "beta", "linear_quadratic")

# They choose their noise levels themselves: calls are at any level, and the callback counts other steps.
FREE = ("dpm_fast", "dpm_adaptive")
SAMPLERS = (
    "euler", "euler_ancestral", "euler_cfg_pp", "heun", "heunpp2", "exp_heun_2_x0", "dpm_2", "dpm_2_ancestral", "lms",
    "dpmpp_2s_ancestral", "dpmpp_2s_ancestral_cfg_pp", "dpmpp_sde", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_2m_sde_heun",
    "dpmpp_3m_sde", "ddpm", "lcm", "ipndm", "deis", "res_multistep", "res_multistep_ancestral", "gradient_estimation",
    "er_sde", "seeds_2", "seeds_3", "sa_solver", "sa_solver_pece", "uni_pc", "uni_pc_bh2", *FREE,
)  # fmt: skip

# The part of a schedule that is executed: all, the later half, or a range as in the advanced sampler node.
RUNS = {
    "all": {"steps": 13},
    "image to image": {"steps": 10, "denoise": 0.5},
    "a stretch": {"steps": 20, "start_step": 4, "last_step": 15},
}

# By effect and pair: the shares of the steps in which it is on.
PUBLISHED = {"dilated": (0.0, 8 / 50), "pooled": (8 / 50, 0.4), "windows": (0.2, 1.0)}
CHOSEN = {"dilated": (0.25, 0.8), "pooled": (0.1, 0.5), "windows": (0.35, 0.65)}
SHARES = {"published": PUBLISHED, "chosen": CHOSEN}


@pytest.fixture(scope="module")
def published(sdxl):
    """The smaller class of SDXL, in which one pair takes over from the other."""
    model = apply_rau_net(sdxl, Published())
    return with_windows(model, (4, 5), (3, 4, 5), PUBLISHED)


@pytest.fixture(scope="module")
def chosen(sd15):
    (start, end), (ca_start, ca_end) = CHOSEN["dilated"], CHOSEN["pooled"]
    settings = RAUNet(
        time_mode="steps", start_time=start, end_time=end, ca_start_time=ca_start, ca_end_time=ca_end
    )
    return with_windows(apply_rau_net(sd15, settings), (1, 2), (9, 10, 11), CHOSEN)


def with_windows(model, input_blocks, output_blocks, shares):
    start, end = shares["windows"]
    return apply_msw_msa(model, MSWMSA(input_blocks, (), output_blocks, "steps", start, end))


class Record:
    """Every model call of a run in its order: its noise level, and what was on."""

    def __init__(self, model):
        self.calls = []  # (sigma, {name of the effect: on}, how the windows are moved)
        self.callbacks = []  # (step, the number of calls before it)
        self.model = model.clone()
        self.model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "record", self.record)
        self.sigmas = ()

    def record(self, executor, x, timesteps, context, y, control, options, *rest, **kwargs):
        rescaling, windows = planned("rau_net", x), planned("msw_msa", x)
        on = {
            "dilated": bool(rescaling is not None and rescaling.dilated),
            "pooled": bool(rescaling is not None and rescaling.pooled),
            "windows": windows is not None,
        }
        self.calls.append((options["sigmas"][0].item(), on, windows and windows.quarters))
        self.sigmas = tuple(options["sample_sigmas"].tolist())
        return torch.zeros_like(x)  # when something is on does not depend on what the UNet computes

    def run(self, sampler, scheduler, steps, denoise=1.0, start_step=None, last_step=None):
        latent = torch.zeros(1, 4, 8, 6)
        noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(0))
        conditioning = random_models.conditioning(self.model, 1, tokens=1)

        def callback(step, *_):
            self.callbacks.append((step, len(self.calls)))

        # Some of the host's samplers draw from the global generator.
        with torch.inference_mode(), torch.random.fork_rng(devices=[]):
            comfy.sample.sample(
                self.model, noise, steps, 1.0, sampler, scheduler, conditioning, conditioning, latent,
                denoise=denoise, start_step=start_step, last_step=last_step, callback=callback, disable_pbar=True,
            )  # fmt: skip
        return self

    @property
    def steps(self):
        """The number of executed steps."""
        return len(self.sigmas) - 1


def executed_step(sigma, sigmas):
    """Return the step in whose span a noise level lies."""
    step = 0
    for number, begin in enumerate(sigmas[:-1]):
        if sigma < begin or math.isclose(sigma, begin, rel_tol=3e-5):
            step = number
    return step


def on_in(step, steps, shares):
    return {name: int(start * steps) <= step < int(end * steps) for name, (start, end) in shares.items()}


@pytest.fixture(scope="module")
def models(published, chosen):
    return {"published": published, "chosen": chosen}


def schedulers_of(model, run):
    """Every second schedule: each model and each kind of run has all of them with every sampler."""
    return SCHEDULERS[(list(SHARES).index(model) + list(RUNS).index(run)) % 2 :: 2]


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("model", SHARES)
def test_every_call_follows_the_step_in_which_it_lies(models, model, sampler, run):
    """Also by the samplers' own count: they report a step behind its first evaluation."""
    shares = SHARES[model]
    for scheduler in schedulers_of(model, run):
        record = Record(models[model]).run(sampler, scheduler, **RUNS[run])
        for sigma, on, _ in record.calls:
            step = executed_step(sigma, record.sigmas)
            assert on == on_in(step, record.steps, shares), (scheduler, step, sigma)
        if sampler in FREE:
            continue
        for name in shares:
            assert {on[name] for _, on, _ in record.calls} == {True, False}, (scheduler, name)
        assert [step for step, _ in record.callbacks] == list(range(record.steps))
        for step, calls in record.callbacks:
            sigma, on, _ = record.calls[calls - 1]
            assert on == on_in(step, record.steps, shares), (scheduler, step, sigma)


# Five steps, the first two of them on: the evaluations in their order, each with the step it belongs to.
EVALUATIONS = {
    "euler": [0, 1, 2, 3, 4],
    "heun": [0, 1, 1, 2, 2, 3, 3, 4, 4],  # the second lies where the next step begins
    "dpm_2": [0, 0, 1, 1, 2, 2, 3, 3, 4],  # the second lies between
    "dpmpp_sde": [0, 0, 1, 1, 2, 2, 3, 3, 4],
    "dpmpp_2s_ancestral": [0, 1, 1, 2, 2, 3, 3, 4, 4],
    "seeds_3": [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4],
}


@pytest.mark.parametrize("sampler", EVALUATIONS)
def test_the_evaluations_of_a_step_written_out(sd15, sampler):
    settings = RAUNet(time_mode="steps", end_time=0.4, ca_input_blocks=(), ca_output_blocks=())
    record = Record(apply_rau_net(sd15, settings)).run(sampler, "karras", 5)
    assert [on["dilated"] for _, on, _ in record.calls] == [step < 2 for step in EVALUATIONS[sampler]]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_windows_stay_within_a_step_and_move_between_steps(sd15, sampler):
    model = with_windows(sd15, (1, 2), (9, 10, 11), {"windows": (0.0, 1.0)})
    for scheduler in SCHEDULERS:
        record = Record(model).run(sampler, scheduler, 12)
        by_step = {}
        for sigma, _, quarters in record.calls:
            step = executed_step(sigma, record.sigmas)
            assert by_step.setdefault(step, quarters) == quarters, (scheduler, step, sigma)
        assert len(set(by_step.values())) > len(by_step) / 2


@pytest.mark.parametrize("denoise", [1.0, 0.5])
@pytest.mark.parametrize("sampler", ["euler", "heun", "dpm_2", "dpmpp_2s_ancestral"])
def test_the_features_of_the_running_unet_follow(sd15, record_sizes, sampler, denoise):
    """What is planned is what happens: the sizes behind the Downsample, and behind the pooled block."""
    settings = RAUNet(
        time_mode="steps", start_time=0.25, end_time=0.8, ca_end_time=0.5, ca_downscale_mode="avg_pool2d",
        ca_latent_pixel_increment=1,
    )  # fmt: skip
    model = apply_rau_net(sd15, settings)
    first, second = record_sizes(model, 3), record_sizes(model, 5)
    recorded = []

    def note(features, options):
        recorded.append(options["sample_sigmas"])
        return features

    model.set_model_input_block_patch(note)
    sample(model, (24, 18), steps=8, cfg=1.0, sampler=sampler, denoise=denoise)
    sigmas = tuple(recorded[0].tolist())
    assert {size for _, size in first.calls} == {(12, 9), (6, 5)}
    for (sigma, before), (_, after) in zip(first.calls, second.calls, strict=True):
        step = executed_step(sigma, sigmas)
        assert before == ((6, 5) if 2 <= step < 6 else (12, 9)), (step, sigma)
        pooled = (-(-before[0] // 2), -(-before[1] // 2))
        assert after == (pooled if step < 4 else before), (step, sigma)
