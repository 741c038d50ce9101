"""Noise levels of a run: by a scheduler's name (the host's, AYS and GITS), by a SCHEDULER_FUNC, or of a given
curve at another number of steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.samplers
import torch
from torch import Tensor

from ..errors import bad_input
from .images import check_levels

SchedulerFunction = Callable[[Any, str, int], Tensor]  # (model, sampler_name, steps) -> steps + 1 levels
AYS, GITS = "AYS ", "GITS[coeff="
FURTHER = [f"{AYS}SDXL", f"{AYS}SD1", f"{AYS}SVD", f"{GITS}1.2]"]


def scheduler_names() -> list[str]:
    """Return all names, including those that other packs registered with the host."""
    return [*comfy.samplers.KSampler.SCHEDULERS, *FURTHER]


def noise_levels(
    model: Any,
    sampler_name: str,
    scheduler: str,
    steps: int,
    denoise: float,
    function: SchedulerFunction | None = None,
) -> Tensor:
    """Return steps + 1 noise levels: the last part `denoise` of a run, as in the host's KSampler.

    Some schedulers of the host return one level too many, and some a few too few for many steps.

    Raises:
        ValueError: when a scheduler or `function` returns fewer than two levels, or some that are not finite, as
            some do for one step; when `function` returns fewer levels than it was asked for.
    """
    sigmas = _levels(model, sampler_name, scheduler, steps, denoise, function)
    check_levels(sigmas, "scheduler")
    return sigmas


def resample_levels(sigmas: Tensor, steps: int) -> Tensor:
    """Return steps + 1 levels on the curve of these falling ones, linear in their logarithms;
    a 0 at the end stays.

    The same number of steps returns the levels unchanged.
    """
    if len(sigmas) == steps + 1:
        return sigmas
    levels = sigmas[sigmas > 0]
    ends = len(levels) < len(sigmas)
    count = steps if ends else steps + 1
    places = torch.linspace(0, len(levels) - 1, count, dtype=torch.float64)
    before = places.long().clamp(max=max(0, len(levels) - 2))
    after = (before + 1).clamp(max=len(levels) - 1)
    logs = levels.double().log()
    drawn = torch.lerp(logs[before], logs[after], places - before).exp().to(sigmas)
    return torch.cat([drawn, sigmas.new_zeros(1)]) if ends else drawn


def _levels(
    model: Any,
    sampler_name: str,
    scheduler: str,
    steps: int,
    denoise: float,
    function: SchedulerFunction | None,
) -> Tensor:
    if function is None and not scheduler.startswith((AYS, GITS)):
        return comfy.samplers.KSampler(model, steps, "cpu", sampler_name, scheduler, denoise).sigmas
    whole = denoise > 0.9999
    total = steps if whole else int(steps / denoise)
    if function is not None:
        sigmas = function(model, sampler_name, total)
        check_levels(sigmas, "scheduler_func_opt")
        if len(sigmas) < total + 1:
            expected = f"at least {total + 1} noise levels for {total} steps"
            raise bad_input(
                "scheduler_func_opt", expected, len(sigmas), "Connect another scheduler function."
            )
    elif sampler_name in comfy.samplers.KSampler.DISCARD_PENULTIMATE_SIGMA_SAMPLERS:
        sigmas = _further_levels(scheduler, total + 1)
        sigmas = torch.cat([sigmas[:-2], sigmas[-1:]])
    else:
        sigmas = _further_levels(scheduler, total)
    return sigmas if whole else sigmas[-(steps + 1) :]


def _further_levels(scheduler: str, steps: int) -> Tensor:
    if scheduler.startswith(AYS):
        from comfy_extras.nodes_align_your_steps import AlignYourStepsScheduler

        return AlignYourStepsScheduler.execute(scheduler.removeprefix(AYS), steps, 1.0).args[0]
    from comfy_extras.nodes_gits import GITSScheduler

    coefficient = float(scheduler.removeprefix(GITS).rstrip("]"))
    return GITSScheduler.execute(coefficient, max(2, steps), 1.0).args[0]
