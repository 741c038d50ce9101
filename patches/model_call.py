"""One wrapper around every model call, shared by all effects.

When an effect is on is decided here, once per model call and outside the UNet: the sigma is read, each effect plans
what it will do in this call, and the plans are published for the patches inside the UNet to look up. Nothing is kept
between calls, so an exception, another model or a second sampler finds nothing left over.

Why not in `transformer_options`: a compiled UNet freezes whatever it reached through them at its first trace. Why
published per device: the host runs its copies of one model on several devices at once, in threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ..host.compat import BaseModel, ModelPatcher, WrappersMP
from ..host.log import forget_lines, log
from .conditions import MARK, Condition, conditions_of, mark_conditions
from .control_residuals import fit_control
from .plan import Plan
from .schedule import Schedule, step_of
from .topology import Topology, topology_of

WRAPPER_KEY = "megapixel"
SEED = "megapixel_seed"  # in transformer_options: the host does not tell the model call its run's seed

PlanKey = tuple[str, int | None, str]

# What each effect does in the call that runs on a device now. Read through `planned`.
_PLANS: dict[PlanKey, Plan | None] = {}


class NoiseLevels(Sequence[float]):
    """The noise levels in a batch, each once. They are read from the device when an effect first looks at them."""

    def __init__(self, sigmas: Tensor) -> None:
        self._sigmas = sigmas

    @cached_property
    def _values(self) -> tuple[float, ...]:
        return tuple(set(self._sigmas.tolist()))

    def __getitem__(self, index: Any) -> Any:
        return self._values[index]

    def __len__(self) -> int:
        return len(self._values)


@dataclass(frozen=True)
class ModelCall:
    """What is known of a model call before the UNet runs."""

    sigmas: Sequence[float]
    latent_size: tuple[int, int]
    sample_sigmas: Tensor | None
    sampling: Any
    model: BaseModel
    topology: Topology
    seed: int = 0
    has_control: bool = False
    device: torch.device | None = None
    conditions: tuple[Condition, ...] = (Condition("positive"),)

    @property
    def step(self) -> int:
        """The step of the run that this call belongs to, from 0; 0 where the sampler does not publish its sigmas."""
        return step_of(max(self.sigmas), self.sample_sigmas)

    def strength(self, schedule: Schedule) -> float:
        """Return how strongly `schedule` is on, 0 to 1.

        Where the entries of a batch are at different noise levels, the weakest decides: their features share one
        size, and an entry past the window must not be changed.
        """
        return schedule.resolve(self.sampling, self.sample_sigmas).weakest(self.sigmas)


class Effect:
    """What a patch file gives to the wrapper. Immutable, because clones of a model share it."""

    reads_conditions = False  # whether it asks a call for its conditions

    def plan(self, call: ModelCall) -> Plan | None:
        """Return what to do in this call, or None for nothing."""
        raise NotImplementedError

    def describe(self, call: ModelCall) -> str:
        """Return this effect's part of a run's log line: the chosen settings, or why nothing will happen."""
        raise NotImplementedError

    def arrange(self, patches: dict[str, list[Any]]) -> None:
        """Put the effect's patches where they belong among those of other packs, in one run's own copy of the lists."""


def planned(effect: str, features: Tensor) -> Plan | None:
    """Return the plan of `effect` for the call that runs on the features' device now, or None."""
    return _PLANS.get(_key(features.device, effect))


def _key(device: torch.device, effect: str) -> PlanKey:
    return device.type, device.index, effect


def effects_of(model: ModelPatcher) -> Mapping[str, Effect]:
    """Return the effects on a model, by name, in the order in which they were added."""
    for wrapper in model.get_wrappers(WrappersMP.APPLY_MODEL, WRAPPER_KEY):
        if isinstance(wrapper, _Wrapper):
            return wrapper.effects
    return MappingProxyType({})


def set_effect(model: ModelPatcher, name: str, effect: Effect) -> None:
    """Put an effect on a model, or replace the one of that name. Other clones of the model are not changed."""
    wrapper = _Wrapper(MappingProxyType({**effects_of(model), name: effect}))
    for kind, function in ((WrappersMP.OUTER_SAMPLE, wrapper.around_run), (WrappersMP.APPLY_MODEL, wrapper)):
        model.remove_wrappers_with_key(kind, WRAPPER_KEY)
        model.add_wrapper_with_key(kind, WRAPPER_KEY, function)


def first_call(model: ModelPatcher, latent_size: tuple[int, int], sigmas: Tensor, seed: int = 0) -> ModelCall:
    """Return what is known of the first model call of a run over `sigmas` (steps + 1,)."""
    return ModelCall(
        sigmas=tuple(sigmas[:1].tolist()),
        latent_size=latent_size,
        sample_sigmas=sigmas,
        sampling=model.get_model_object("model_sampling"),
        model=model.model,
        topology=topology_of(model.get_model_object("diffusion_model")),
        seed=seed,
    )


@dataclass(frozen=True)
class _Wrapper:
    effects: Mapping[str, Effect]

    def around_run(
        self,
        executor: Any,
        noise: Tensor,
        latent: Tensor,
        sampler: Any,
        sigmas: Tensor,
        denoise_mask: Tensor | None = None,
        callback: Any = None,
        disable_pbar: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Say once per sampling run what the effects will do, and hand them its seed (the host's OUTER_SAMPLE)."""
        forget_lines()
        start = first_call(executor.class_obj.model_patcher, _latent_size(noise), sigmas, seed or 0)
        log.info(" | ".join(effect.describe(start) for effect in self.effects.values()))
        options = executor.class_obj.model_options["transformer_options"]  # this run's own copy
        options[SEED] = seed or 0
        for effect in self.effects.values():
            effect.arrange(options.get("patches", {}))
        if any(effect.reads_conditions for effect in self.effects.values()):
            mark_conditions(executor.class_obj.conds, _latent_size(noise))
        return executor(noise, latent, sampler, sigmas, denoise_mask, callback, disable_pbar, seed, **kwargs)

    def __call__(
        self,
        executor: Any,
        x: Tensor,
        t: Tensor,
        c_concat: Tensor | None = None,
        c_crossattn: Tensor | None = None,
        control: Any = None,
        transformer_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Plan every effect and run the model (the host's APPLY_MODEL)."""
        options = {} if transformer_options is None else transformer_options
        marks = kwargs.pop(MARK, None)
        model: BaseModel = executor.class_obj
        call = ModelCall(
            sigmas=NoiseLevels(t),  # the one read from the device in a call, if an effect asks for it
            latent_size=_latent_size(x),
            sample_sigmas=options.get("sample_sigmas"),
            sampling=model.model_sampling,
            model=model,
            topology=topology_of(model.diffusion_model),
            seed=options.get(SEED, 0),
            has_control=control is not None,
            device=x.device,
            conditions=conditions_of(marks, options.get("cond_or_uncond")),
        )
        plans = {name: effect.plan(call) for name, effect in self.effects.items()}
        if any(plan is not None for plan in plans.values()):
            control = fit_control(control)
        with _published(plans, x.device):
            return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)


def _latent_size(latent: Tensor) -> tuple[int, int]:
    if latent.ndim != 4:
        raise ValueError(
            f"latent_image: expected a latent B x C x H x W, got {latent.ndim} dimensions {tuple(latent.shape)}. "
            "Use a latent made for this model; video latents belong to video models."
        )
    return latent.shape[-2], latent.shape[-1]


@contextmanager
def _published(plans: Mapping[str, Plan | None], device: torch.device) -> Iterator[None]:
    now = {_key(device, name): plan for name, plan in plans.items()}
    before = {key: _PLANS.get(key) for key in now}
    _PLANS.update(now)
    try:
        yield
    finally:
        _PLANS.update(before)
