"""One wrapper around every model call, shared by all effects.

When an effect is on is decided here, once per model call and outside the UNet: the sigma is read, each effect plans
what it will do in this call, and the plans are published for the patches inside the UNet to look up. Nothing is kept
between calls, so an exception, another model or a second sampler finds nothing left over.

Why not in `transformer_options`: a compiled UNet freezes whatever it reached through them at its first trace. Why
published per device: the host runs its copies of one model on several devices at once, in threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from comfy.model_base import BaseModel
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..host.log import forget_lines, log
from .control_residuals import fit_control
from .effect import Effect, Effects, Run
from .model_call import ModelCall, NoiseLevels, first_call, latent_size_of
from .plan import Plan
from .topology import topology_of

WRAPPER_KEY = "megapixel"
PREFIX = "megapixel_"  # of what we put among the host's `model_conds`: the model itself must not get it
SEED = "megapixel_seed"  # in transformer_options: the host does not give the model call its run's seed

PlanKey = tuple[str, int | None, str]

# What each effect does in the call that runs on a device now. Read through `planned`.
_PLANS: dict[PlanKey, Plan | None] = {}


def planned(effect: str, features: Tensor) -> Plan | None:
    """Return the plan of `effect` for the call that runs on the features' device now, or None."""
    return _PLANS.get(_key(features.device, effect))


def _key(device: torch.device, effect: str) -> PlanKey:
    return device.type, device.index, effect


def effects_of(model: ModelPatcher) -> Effects:
    """Return the effects on a model, by name, in the order in which they were added."""
    for wrapper in model.get_wrappers(WrappersMP.APPLY_MODEL, WRAPPER_KEY):
        if isinstance(wrapper, _Wrapper):
            return wrapper.effects
    return MappingProxyType({})


def add_effect(model: ModelPatcher, effect: Effect) -> ModelPatcher:
    """Return a clone of `model` with one more effect, stacked on those that it has as the effect itself asks for.

    Raises:
        TypeError: an effect of another kind has its name.
    """
    effects = effects_of(model)
    name, stacked = effect.stacked(effects)
    if not isinstance(effects.get(name, effect), type(effect)):
        raise TypeError(f"{name}: the name of two kinds of effects, {effects[name].label} and {effect.label}")
    patched = model.clone()
    effect.install(patched, name, effects.get(name))
    wrapper = _Wrapper(MappingProxyType({**effects, name: stacked}))
    for kind, function in ((WrappersMP.OUTER_SAMPLE, wrapper.around_run), (WrappersMP.APPLY_MODEL, wrapper)):
        patched.remove_wrappers_with_key(kind, WRAPPER_KEY)
        patched.add_wrapper_with_key(kind, WRAPPER_KEY, function)
    return patched


@dataclass(frozen=True)
class _Wrapper:
    effects: Effects

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
        """Log once per sampling run what the effects will do, and hand them its seed (the host's OUTER_SAMPLE)."""
        forget_lines()
        guider, size = executor.class_obj, latent_size_of(noise)
        start = first_call(guider.model_patcher, size, sigmas, seed or 0)
        log.info(" | ".join(effect.log_line(start) for effect in self.effects.values()))
        options = guider.model_options["transformer_options"]  # this run's own copy
        options[SEED] = seed or 0
        run = Run(guider.conds, options.get("patches", {}), size)
        for effect in self.effects.values():
            effect.begin(run)
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
        marks = {name: kwargs.pop(name) for name in list(kwargs) if name.startswith(PREFIX)}
        model: BaseModel = executor.class_obj
        call = ModelCall(
            sigmas=NoiseLevels(t),  # the one read from the device in a call, if an effect asks for it
            latent_size=latent_size_of(x),
            sample_sigmas=options.get("sample_sigmas"),
            sampling=model.model_sampling,
            model=model,
            topology=topology_of(model.diffusion_model),
            seed=options.get(SEED, 0),
            has_control=control is not None,
            device=x.device,
            marks=marks,
            cond_or_uncond=options.get("cond_or_uncond"),
        )
        plans = {name: effect.plan(call) for name, effect in self.effects.items()}
        if any(plan is not None for plan in plans.values()):
            control = fit_control(control)
        with _published(plans, x.device):
            return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)


@contextmanager
def _published(plans: Mapping[str, Plan | None], device: torch.device) -> Iterator[None]:
    now = {_key(device, name): plan for name, plan in plans.items()}
    before = {key: _PLANS.get(key) for key in now}
    _PLANS.update(now)
    try:
        yield
    finally:
        _PLANS.update(before)
