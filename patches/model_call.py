"""One wrapper around every model call, shared by all effects.

When an effect is on is decided here, once per model call and outside the UNet: the sigma is read, each effect plans
what it will do in this call, and the plans are published for the patches inside the UNet to look up. Nothing is kept
between calls, so an exception, another model or a second sampler finds nothing left over.

Why not in `transformer_options`: a compiled UNet freezes whatever it reached through them at its first trace. Why
published per device: the host runs its copies of one model on several devices at once, in threads.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor

from .control_residuals import fit_control
from .host import BaseModel, ModelPatcher, WrappersMP
from .schedule import Schedule
from .topology import Topology, topology_of

WRAPPER_KEY = "megapixel"

log = logging.getLogger("megapixel")

PlanKey = tuple[str, int | None, str]

# What each effect does in the call that runs on a device now. Read through `planned`.
_PLANS: dict[PlanKey, Any] = {}


@dataclass(frozen=True)
class ModelCall:
    """What is known of a model call before the UNet runs."""

    sigmas: tuple[float, ...]
    latent_size: tuple[int, int]
    sample_sigmas: Tensor | None
    sampling: Any
    model: BaseModel
    topology: Topology

    def strength(self, schedule: Schedule) -> float:
        """Return how strongly `schedule` is on, 0 to 1.

        Where the entries of a batch are at different noise levels, the weakest decides: their features share one
        size, and an entry past the window must not be changed.
        """
        window = schedule.resolve(self.sampling, self.sample_sigmas)
        return min(window.strength(sigma) for sigma in self.sigmas)


class Effect(Protocol):
    """What a patch file gives to the wrapper. Immutable, because clones of a model share it."""

    def plan(self, call: ModelCall) -> Any:
        """Return what to do in this call, or None for nothing."""
        ...

    def describe(self, call: ModelCall) -> str:
        """Return the one log line of a run: the chosen settings, or that nothing will happen and why."""
        ...


def planned(effect: str, features: Tensor) -> Any:
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
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        """Say once per sampling run what each effect will do (the host's OUTER_SAMPLE)."""
        patcher: ModelPatcher = executor.class_obj.model_patcher
        start = ModelCall(
            sigmas=tuple(sigmas[:1].tolist()),
            latent_size=_latent_size(noise),
            sample_sigmas=sigmas,
            sampling=patcher.get_model_object("model_sampling"),
            model=patcher.model,
            topology=topology_of(patcher.get_model_object("diffusion_model")),
        )
        for effect in self.effects.values():
            log.info(effect.describe(start))
        return executor(noise, latent, sampler, sigmas, *args, **kwargs)

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
        model: BaseModel = executor.class_obj
        call = ModelCall(
            sigmas=tuple(set(t.tolist())),  # the one read from the device in a call
            latent_size=_latent_size(x),
            sample_sigmas=options.get("sample_sigmas"),
            sampling=model.model_sampling,
            model=model,
            topology=topology_of(model.diffusion_model),
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
def _published(plans: Mapping[str, Any], device: torch.device) -> Iterator[None]:
    now = {_key(device, name): plan for name, plan in plans.items()}
    before = {key: _PLANS.get(key) for key in now}
    _PLANS.update(now)
    try:
        yield
    finally:
        _PLANS.update(before)
