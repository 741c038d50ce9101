"""Noise levels beside the host's own KSampler and its nodes for AYS and GITS."""

from __future__ import annotations

import comfy.samplers
import pytest
import torch
from comfy_extras.nodes_align_your_steps import AlignYourStepsScheduler
from comfy_extras.nodes_gits import GITSScheduler
from megapixel.host.sigmas import FURTHER, noise_levels, scheduler_names

# 0.99995 counts as 1 in the host; 0.7 is no divisor of the steps.
DENOISE = [1.0, 0.99995, 0.9, 0.7, 0.5, 0.13]
STEPS = [1, 2, 5, 7, 20]  # ddim_uniform gives 7 a level more than asked for
# dpm_2 and uni_pc leave the last level but one out.
SAMPLERS = ["euler", "dpm_2", "uni_pc"]


@pytest.mark.parametrize("scheduler", comfy.samplers.KSampler.SCHEDULERS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_levels_are_those_of_the_hosts_ksampler(scheduler, sampler, sd15):
    for steps in STEPS:
        for denoise in DENOISE:
            host = comfy.samplers.KSampler(sd15, steps, "cpu", sampler, scheduler, denoise).sigmas
            if not host.isfinite().all():  # kl_optimal in one step
                with pytest.raises(
                    ValueError, match=r"scheduler: expected at least 2 noise levels, got some that"
                ):
                    noise_levels(sd15, sampler, scheduler, steps, denoise)
                continue
            ours = noise_levels(sd15, sampler, scheduler, steps, denoise)
            assert torch.equal(ours, host), (steps, denoise)


@pytest.mark.parametrize("kind", ["SDXL", "SD1", "SVD"])
@pytest.mark.parametrize(("steps", "denoise"), [(10, 1.0), (7, 1.0), (5, 0.5), (6, 0.37)], ids=str)
def test_ays_is_the_end_of_the_hosts_schedule_for_the_whole_run(kind, steps, denoise, sd15):
    whole = AlignYourStepsScheduler.execute(kind, int(steps / denoise), 1.0).args[0]
    ours = noise_levels(sd15, "euler", f"AYS {kind}", steps, denoise)
    assert torch.equal(ours, whole[-steps - 1 :])
    assert (len(ours), ours[-1]) == (steps + 1, 0)
    assert bool((ours[:-1] > ours[1:]).all())


def test_ays_in_ten_steps_is_the_published_table(sd15):
    table = [
        14.615,
        6.475,
        3.861,
        2.697,
        1.886,
        1.396,
        0.963,
        0.652,
        0.399,
        0.152,
        0.0,
    ]  # the last one is 0.029
    ours = noise_levels(sd15, "euler", "AYS SD1", 10, 1.0)
    torch.testing.assert_close(ours, torch.tensor(table), rtol=0, atol=4e-3)


@pytest.mark.parametrize(("steps", "denoise"), [(10, 1.0), (5, 0.5), (6, 0.37), (30, 1.0)], ids=str)
def test_gits_is_the_end_of_the_hosts_schedule_for_the_whole_run(steps, denoise, sd15):
    whole = GITSScheduler.execute(1.2, int(steps / denoise), 1.0).args[0]
    assert torch.equal(noise_levels(sd15, "euler", "GITS[coeff=1.2]", steps, denoise), whole[-steps - 1 :])


def test_gits_in_one_step_begins_at_the_top_although_the_host_has_none_below_two(sd15):
    ours = noise_levels(sd15, "euler", "GITS[coeff=1.2]", 1, 1.0)
    assert ours[0] == GITSScheduler.execute(1.2, 2, 1.0).args[0][0]
    assert ours[-1] == 0


@pytest.mark.parametrize("scheduler", FURTHER)
def test_samplers_that_leave_a_level_out_take_as_many_steps(scheduler, sd15):
    whole = noise_levels(sd15, "euler", scheduler, 9, 1.0)
    ours = noise_levels(sd15, "dpm_2", scheduler, 8, 1.0)
    assert torch.equal(ours, torch.cat([whole[:-2], whole[-1:]]))


@pytest.mark.parametrize(("steps", "denoise", "total"), [(4, 1.0, 4), (4, 0.5, 8), (5, 0.3, 16)], ids=str)
def test_a_function_is_asked_for_the_whole_run_and_its_end_is_taken(steps, denoise, total, sd15):
    asked = []

    def levels(*given):
        asked.append(given)
        return torch.linspace(10, 0, total + 1)

    ours = noise_levels(sd15, "dpm_2", "karras", steps, denoise, levels)
    assert asked == [(sd15, "dpm_2", total)]
    assert torch.equal(ours, torch.linspace(10, 0, total + 1)[-steps - 1 :])


@pytest.mark.parametrize(
    "levels",
    [
        torch.tensor([]),
        torch.tensor([1.0]),
        torch.ones(1, 3),
        torch.tensor([1.0, torch.nan]),
        [2.0, 1.0],
        None,
    ],
    ids=["none", "one", "two dimensions", "NaN", "a list", "nothing"],
)
@pytest.mark.parametrize("denoise", [1.0, 0.5])
def test_what_is_no_schedule_is_an_error_message(levels, denoise, sd15):
    with pytest.raises(ValueError, match=r"scheduler_func_opt: expected at least 2 noise levels, got"):
        noise_levels(sd15, "euler", "normal", 3, denoise, lambda *_: levels)


@pytest.mark.parametrize(("denoise", "total"), [(1.0, 4), (0.5, 8)])
def test_a_function_that_gives_too_few_levels_is_an_error_message(denoise, total, sd15):
    expected = (
        rf"scheduler_func_opt: expected at least {total + 1} noise levels for {total} steps, got {total}\."
    )
    with pytest.raises(ValueError, match=expected):
        noise_levels(sd15, "euler", "normal", 4, denoise, lambda *_: torch.linspace(10, 0, total))


def test_names_are_the_hosts_with_those_of_other_packs_and_then_ours(monkeypatch, sd15):
    handler = comfy.samplers.SchedulerHandler(lambda sampling, steps: torch.linspace(3, 0, steps + 1))
    monkeypatch.setitem(comfy.samplers.SCHEDULER_HANDLERS, "of another pack", handler)
    names = [*comfy.samplers.KSampler.SCHEDULERS, "of another pack"]
    monkeypatch.setattr(comfy.samplers.KSampler, "SCHEDULERS", names)
    assert scheduler_names() == [*names, *FURTHER]
    ours = noise_levels(sd15, "euler", "of another pack", 2, 0.5)
    assert torch.equal(ours, torch.tensor([1.5, 0.75, 0.0]))
