"""Noise levels of a run by a scheduler's name: the host's, AYS and GITS, or a SCHEDULER_FUNC."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.samplers
import torch
from torch import Tensor

SchedulerFunction = Callable[
    [Any, str, int], Tensor
]  # (model, sampler_name, steps) -> steps + 1 noise levels
FURTHER = ["AYS SDXL", "AYS SD1", "AYS SVD", "GITS[coeff=1.2]"]


def scheduler_names() -> list[str]:
    """Return all names, those that other packs gave to the host among them."""
    return [*comfy.samplers.KSampler.SCHEDULERS, *FURTHER]


def noise_levels(
    model: Any,
    sampler_name: str,
    scheduler: str,
    steps: int,
    denoise: float,
    function: SchedulerFunction | None = None,
) -> Tensor:
    """Return steps + 1 falling noise levels: the last part of a run that is `denoise` long, as the host's KSampler."""
    whole = denoise > 0.9999
    total = steps if whole else int(steps / denoise)
    if function is not None:
        sigmas = function(model, sampler_name, total)
        return sigmas if whole else sigmas[-(steps + 1) :]
    one_less = sampler_name in comfy.samplers.KSampler.DISCARD_PENULTIMATE_SIGMA_SAMPLERS
    sigmas = _by_name(model, scheduler, total + one_less)
    if one_less:
        sigmas = torch.cat([sigmas[:-2], sigmas[-1:]])
    return (
        sigmas if whole else sigmas[-(steps + 1) :]
    )  # some schedulers give one more than they are asked for


def resample_levels(sigmas: Tensor, steps: int) -> Tensor:
    """Return steps + 1 levels on the curve of these falling ones, linear in their logarithms; a 0 at the end stays.

    The same number of steps gives the levels themselves.
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


def _by_name(model: Any, scheduler: str, steps: int) -> Tensor:
    if scheduler.startswith("AYS "):
        from comfy_extras.nodes_align_your_steps import AlignYourStepsScheduler

        return AlignYourStepsScheduler.execute(scheduler.removeprefix("AYS "), steps, 1.0).args[0]
    if scheduler.startswith("GITS[coeff="):
        from comfy_extras.nodes_gits import GITSScheduler

        coefficient = float(scheduler.removeprefix("GITS[coeff=").rstrip("]"))
        return GITSScheduler.execute(coefficient, max(2, steps), 1.0).args[0]
    return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), scheduler, steps)
