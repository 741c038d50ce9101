from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import comfy.samplers
import pytest
import torch
from megapixel.patches.executed_steps import NEVER, schedule_in
from megapixel.patches.model_call import first_call
from megapixel.patches.msw_msa import MSWMSA, apply_msw_msa
from megapixel.patches.schedule import Schedule, SigmaWindow
from megapixel.patches.wrapper import effects_of


@pytest.fixture(scope="module")
def sampling(sd15):
    return sd15.get_model_object("model_sampling")


def test_a_window_includes_both_ends():
    window = SigmaWindow(high=10.0, low=2.0)
    above, below = math.nextafter(10.0, 11.0), math.nextafter(2.0, 1.0)
    assert [window.strength(sigma) for sigma in (above, 10.0, 5.0, 2.0, below)] == [0, 1, 1, 1, 0]


def test_a_fade_falls_evenly_between_its_points():
    window = SigmaWindow(high=10.0, low=4.0, fade=(4.0, 3.0, 1.0))
    assert [window.strength(sigma) for sigma in (4.0, 3.5, 3.0, 2.0, 1.0, 0.5)] == [1, 0.75, 0.5, 0.25, 0, 0]


def test_never_is_never():
    assert NEVER.strength(0.0) == NEVER.strength(1.0) == NEVER.strength(math.inf) == 0.0


def test_percent_is_the_models_own(sampling):
    window = Schedule(0.2, 0.35).resolve(sampling, None)
    assert window == SigmaWindow(sampling.percent_to_sigma(0.2), sampling.percent_to_sigma(0.35))


def test_a_noise_level_that_the_host_gives_as_a_tensor_is_a_number():
    class Tensors:
        def percent_to_sigma(self, percent):
            return torch.tensor(1.0 - percent)

    assert schedule_in("percent", 0.25, 0.5, decimals=4).resolve(Tensors(), None) == SigmaWindow(0.75, 0.5)


def test_the_whole_range_covers_every_sigma(sampling):
    window = Schedule(0.0, 1.0).resolve(sampling, None)
    assert window.strength(float(sampling.sigma_max) * 10) == window.strength(0.0) == 1.0


def test_timesteps_and_sigmas_fall(sampling):
    assert Schedule(999, 650, "timestep").is_ordered
    assert not Schedule(650, 999, "timestep").is_ordered
    assert not Schedule(0.5, 0.2).is_ordered
    by_timestep = Schedule(999, 650, "timestep").resolve(sampling, None)
    assert by_timestep.low == float(sampling.sigmas[650])
    assert Schedule(9.5, 2.5, "sigma").resolve(sampling, None) == SigmaWindow(9.5, 2.5)


@pytest.mark.parametrize("unit", ["percent", "timestep", "sigma"])
def test_strength_never_rises_with_time(sampling, unit):
    schedule = {
        "percent": Schedule(0.1, 0.4, unit, 0.4),
        "timestep": Schedule(900, 600, unit, 300),
        "sigma": Schedule(9.0, 3.0, unit, 2.5),
    }[unit]
    window = schedule.resolve(sampling, None)
    strengths = [window.strength(float(sigma)) for sigma in sampling.sigmas.flip(0) if sigma <= window.high]
    assert strengths[0] == 1.0
    assert strengths[-1] == 0.0
    assert all(later <= earlier for earlier, later in pairwise(strengths))
    assert len({round(strength, 2) for strength in strengths}) > 50


def test_a_percent_fade_is_linear_in_percent(sampling):
    window = Schedule(0.0, 0.2, "percent", 0.4).resolve(sampling, None)
    for percent in (0.25, 0.3, 0.4, 0.5, 0.55):
        expected = 1 - (percent - 0.2) / 0.4
        assert window.strength(sampling.percent_to_sigma(percent)) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("steps", [4, 8, 20, 30, 50])
@pytest.mark.parametrize("scheduler", ["normal", "karras", "exponential", "sgm_uniform", "simple", "beta"])
def test_steps_are_counted_as_published(sampling, scheduler, steps):
    sigmas = comfy.samplers.calculate_sigmas(sampling, scheduler, steps)
    count = len(sigmas) - 1
    for start, end in ((0.0, 0.4), (0.0, 0.7), (0.16, 0.4), (0.3, 0.31), (0.0, 1.0)):
        window = schedule_in("steps", start, end).resolve(sampling, tuple(sigmas.tolist()))
        on = [window.strength(float(sigma)) == 1.0 for sigma in sigmas[:-1]]
        assert on == [int(start * count) <= step < int(end * count) for step in range(count)]


@pytest.mark.parametrize(
    ("schedule", "whole"),
    [
        (Schedule(), True), (schedule_in("steps", 0.0, 1.0), True), (Schedule(0.001), False), (Schedule(0.0, 0.999), False),
        (schedule_in("steps", 0.0, 0.5), False), (Schedule(999.0, 0.0, "sigma"), False),
    ],
    ids=str,
)  # fmt: skip
def test_a_whole_window_is_on_at_any_noise_level_and_known_as_such(sampling, schedule, whole):
    window = schedule.resolve(sampling, tuple(torch.linspace(10, 0, 11).tolist()))
    assert window.is_whole == whole
    if whole:
        assert all(window.strength(sigma) == 1.0 for sigma in (0.0, 1e-6, 14.6, 200.0, 999999999.9))


def test_a_fade_in_steps(sampling):
    sigmas = torch.linspace(10, 0, 11)
    window = schedule_in("steps", 0.0, 0.4, 0.3).resolve(sampling, tuple(sigmas.tolist()))
    strengths = [window.strength(float(sigma)) for sigma in sigmas[:-1]]
    assert strengths == pytest.approx([1, 1, 1, 1, 0.75, 0.5, 0.25, 0, 0, 0])


def test_steps_with_a_sampler_that_does_not_publish_them_are_an_error(sampling):
    with pytest.raises(ValueError, match=r"^time_mode: expected a unit other than steps"):
        schedule_in("steps", 0.0, 0.4).resolve(sampling, None)


def test_another_sampling_gives_another_window(sampling, sd15):
    from comfy.model_sampling import ModelSamplingDiscrete

    zero_snr = ModelSamplingDiscrete(sd15.model.model_config, zsnr=True)
    schedule = Schedule(0.1, 0.35)
    assert schedule.resolve(zero_snr, None) != schedule.resolve(sampling, None)
    assert schedule.resolve(zero_snr, None).low == zero_snr.percent_to_sigma(0.35)


@pytest.mark.parametrize("effect", [MSWMSA(), MSWMSA(time_mode="steps", start_time=0.2, end_time=0.6)])
def test_a_run_that_adds_noise_has_the_plans_of_the_run_that_removes_it(sd15, effect):
    [model_effect] = effects_of(apply_msw_msa(sd15, effect)).values()
    falling = torch.tensor([14.0, 6.0, 3.0, 1.0, 0.3, 0.0001])
    plans = [
        [
            model_effect.plan(replace(first_call(sd15, (16, 24), sigmas, seed=3), sigmas=(sigma,)))
            for sigma in falling.tolist()
        ]
        for sigmas in (falling, falling.flip(0))
    ]
    quarters = [[plan and plan.quarters for plan in run] for run in plans]
    assert quarters[0] == quarters[1]
    assert len(set(quarters[0])) > 2
