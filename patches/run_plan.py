"""The plans of all effects on a model for every step of a run, computed before anything is sampled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..record import record
from ..scaling.size import Size
from .effect import Effects
from .model_call import first_call
from .plan import feature_sizes
from .topology import BlockId, Topology
from .trained_size import latent_pixel
from .wrapper import effects_of


@record
class StepPlan:
    """One step: the feature size of each block, and a short text for what each effect does there."""

    sizes: Mapping[BlockId, Size]
    marks: Mapping[BlockId, tuple[tuple[str, str], ...]]  # (name of the effect, words)


@record
class RunPlan:
    """A run: the effects and their log lines by name, the sizes without any effect, and the steps."""

    topology: Topology
    latent_size: Size
    latent_pixel: int  # image pixels to its side
    effects: Effects
    words: Mapping[str, str]
    plain: Mapping[BlockId, Size]
    steps: tuple[StepPlan, ...]


def plan_run(model: ModelPatcher, latent_size: Size, sigmas: Tensor) -> RunPlan:
    """Return the plan of the effects on `model` for a latent of `latent_size` over `sigmas` (steps + 1,).

    A sampler that calls the model between two steps gets the plan for that noise level.

    Raises:
        ValueError: when `model` is not a UNet, or an effect cannot work at this size.
    """
    start = first_call(model, latent_size, sigmas)
    effects = effects_of(model)

    def step(sigma: float) -> StepPlan:
        call = replace(start, sigmas=(sigma,))
        plans = {name: plan for name, effect in effects.items() if (plan := effect.plan(call)) is not None}
        sizes = feature_sizes(start.topology, latent_size, plans.values())
        marks: dict[BlockId, tuple[tuple[str, str], ...]] = {}
        for name, plan in plans.items():
            for block_id, words in plan.marks(sizes).items():
                marks[block_id] = (*marks.get(block_id, ()), (name, words))
        return StepPlan(sizes, marks)

    return RunPlan(
        topology=start.topology,
        latent_size=latent_size,
        latent_pixel=latent_pixel(model.model),
        effects=effects,
        words={name: effect.log_line(start, effect.why_idle(start)) for name, effect in effects.items()},
        plain=feature_sizes(start.topology, latent_size),
        steps=tuple(step(sigma) for sigma in sigmas[:-1].tolist()),
    )
