"""What all effects on a model will do in a run, step by step, told before anything is sampled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from ..host.compat import ModelPatcher
from .model_call import effects_of, first_call
from .plan import Place, Size, feature_sizes
from .topology import Topology


@dataclass(frozen=True)
class StepPlan:
    """One step: the size of the features that each block works on, and what each effect does there, in a few words."""

    sizes: Mapping[Place, Size]
    marks: Mapping[Place, tuple[tuple[str, str], ...]]  # (name of the effect, words)


@dataclass(frozen=True)
class RunPlan:
    """A run: what each effect says of itself, the sizes without any, and the steps."""

    topology: Topology
    latent_size: Size
    words: Mapping[str, str]  # by the name of the effect
    plain: Mapping[Place, Size]
    steps: tuple[StepPlan, ...]


def plan_run(model: ModelPatcher, latent_size: Size, sigmas: Tensor) -> RunPlan:
    """Return what the effects on `model` do to a latent of `latent_size` over `sigmas` (steps + 1,).

    A sampler that calls the model between two steps finds there what its noise level asks for.

    Raises:
        ValueError: `model` is no UNet, or an effect cannot serve this size; one sentence.
    """
    start = first_call(model, latent_size, sigmas)
    effects = effects_of(model)

    def step(sigma: float) -> StepPlan:
        call = replace(start, sigmas=(sigma,))
        plans = {name: plan for name, effect in effects.items() if (plan := effect.plan(call)) is not None}
        sizes = feature_sizes(start.topology, latent_size, plans.values())
        marks: dict[Place, tuple[tuple[str, str], ...]] = {}
        for name, plan in plans.items():
            for place, words in plan.marks(sizes).items():
                marks[place] = (*marks.get(place, ()), (name, words))
        return StepPlan(sizes, marks)

    return RunPlan(
        topology=start.topology,
        latent_size=latent_size,
        words={name: effect.describe(start) for name, effect in effects.items()},
        plain=feature_sizes(start.topology, latent_size),
        steps=tuple(step(sigma) for sigma in sigmas[:-1].tolist()),
    )
