"""One wrapper around every model call, shared by all effects.

Whether an effect is on is decided here, once per model call and outside the UNet: the sigma is read, each
effect returns its plan for this call, and the patches inside the UNet look the plans up. Nothing is stored
between calls, so an exception, another model or a second sampler finds nothing left over.

Packs that do not call the model as the host does are handled where they call it: one that runs the UNet
itself, or runs it on parts of the latent, at the UNet (`around_unet`); one that calls its blocks, at the
first of our patches (`planned`). An effect that was announced and did nothing in any call of a run is logged
when the run ends.

Why not in `transformer_options`: a compiled UNet freezes everything it reads from them at its first trace.
Why published per device: the host runs its copies of one model on several devices at once, in threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from comfy.model_base import BaseModel
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..host.log import forget_lines, log
from ..host.tiled_guider import TiledGuider
from ..record import record
from ..scaling.size import Size
from .control_residuals import fit_control
from .effect import Effect, Effects, Run
from .model_call import ModelCall, NoiseLevels, falling_levels, first_call, latent_size_of
from .neighbours import TRUE_SHAPE, prepare_neighbours
from .plan import Plan
from .topology import topology_of

WRAPPER_KEY = "megapixel"
PREFIX = "megapixel_"  # of what we put among the host's `model_conds`: the model itself must not get it
RUN = "megapixel_run"  # in transformer_options: what the host does not give the model call of its run

Device = tuple[str, int | None]
_Key = tuple[str, int | None, str]  # device and effect
Plans = Mapping[str, Plan | None]

# What each effect does in the call that runs on a device now. Read through `planned`.
_PLANS: dict[_Key, Plan | None] = {}
# Whose plans they are, and for latents of which size.
_PUBLISHED: dict[Device, tuple[_Wrapper, Size] | None] = {}


def planned(effect: str, features: Tensor, options: Mapping[str, Any] | None = None) -> Plan | None:
    """Return the plan of `effect` for the call that runs on the features' device now, or None.

    If none is published, another pack calls the UNet's blocks itself: the plan is then made from the patch's
    `options`.
    """
    key = (features.device.type, features.device.index, effect)
    if key in _PLANS:
        return _PLANS[key]
    run = options.get(RUN) if options else None
    return run.walked(effect, features.device, options) if run else None


def effects_of(model: ModelPatcher) -> Effects:
    """Return the effects on a model, by name, in the order in which they were added."""
    for wrapper in model.get_wrappers(WrappersMP.APPLY_MODEL, WRAPPER_KEY):
        if isinstance(wrapper, _Wrapper):
            return wrapper.effects
    return MappingProxyType({})


def add_effect(model: ModelPatcher, effect: Effect) -> ModelPatcher:
    """Return a clone of `model` with one more effect,
    combined with existing ones in the way that the effect defines.

    Raises:
        TypeError: when an effect of another class already has its name.
    """
    effects = effects_of(model)
    name, stacked = effect.stacked(effects)
    if not isinstance(effects.get(name, effect), type(effect)):
        raise TypeError(f"{name}: the name of two kinds of effects, {effects[name].label} and {effect.label}")
    patched = model.clone()
    effect.install(patched, name, effects.get(name))
    wrapper = _Wrapper(MappingProxyType({**effects, name: stacked}))
    for kind, function in (
        (WrappersMP.OUTER_SAMPLE, wrapper.around_run),
        (WrappersMP.APPLY_MODEL, wrapper),
        (WrappersMP.DIFFUSION_MODEL, wrapper.around_unet),
    ):
        patched.remove_wrappers_with_key(kind, WRAPPER_KEY)
        patched.add_wrapper_with_key(kind, WRAPPER_KEY, function)
    return patched


@dataclass
class _RunState:
    """The state that the calls of one sampling run share; it ends with the run.

    Attributes:
        seed, sigmas: those of the run; the highest noise level first, steps + 1.
        model: the one that is sampled.
        acted: names of the effects that had a plan in some call.
        levels: the noise levels of the newest evaluation: the host hands all its calls one tensor.
        walk: the plans of the newest walk through the blocks, by size and device, and the tensor of its noise
            levels.
    """

    wrapper: _Wrapper
    seed: int
    sigmas: tuple[float, ...]
    model: BaseModel
    acted: set[str] = field(default_factory=set[str])
    levels: NoiseLevels | None = None
    walk: tuple[Tensor | None, dict[tuple[Size, torch.device], Plans]] = (None, {})

    def noise_levels(self, sigmas: Tensor) -> NoiseLevels:
        """Return the noise levels in a tensor, read once for all calls of an evaluation."""
        levels = self.levels
        if levels is None or levels.source is not sigmas:
            self.levels = levels = NoiseLevels(sigmas)
        return levels

    def walked(self, effect: str, device: torch.device, options: Mapping[str, Any]) -> Plan | None:
        """Return the plan for a pack that calls the blocks itself, made at the first patch that it calls."""
        sigmas, shape = options.get("sigmas"), options.get(TRUE_SHAPE, options.get("original_shape"))
        if sigmas is None or shape is None:
            return None
        if self.walk[0] is not sigmas:
            self.walk = sigmas, {}
        size = shape[-2], shape[-1]
        plans = self.walk[1]
        if (size, device) not in plans:
            plans[size, device] = self.wrapper.plan(
                self.model, size, device, self.noise_levels(sigmas), options
            )
        plan = plans[size, device].get(effect)
        self.note({effect: plan})
        return plan

    def note(self, plans: Plans) -> None:
        """Record which effects acted."""
        self.acted.update(name for name, plan in plans.items() if plan is not None)


@record
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
        """Log once per sampling run what the effects will do, and prepare it (the host's OUTER_SAMPLE)."""
        forget_lines()
        guider = executor.class_obj
        size = guider.tile_size if isinstance(guider, TiledGuider) else latent_size_of(noise)
        start = first_call(guider.model_patcher, size, sigmas, seed or 0)
        reasons = {name: effect.why_idle(start) for name, effect in self.effects.items()}
        log.info(" | ".join(effect.log_line(start, reasons[name]) for name, effect in self.effects.items()))
        acting = {name: effect for name, effect in self.effects.items() if reasons[name] is None}
        options = guider.model_options["transformer_options"]  # this run's own copy
        patches = options.get("patches", {})
        prepare_neighbours(patches, start.topology, acting.values())
        state = _RunState(self, start.seed, start.sample_sigmas or (), start.model)
        options[RUN] = state
        run = Run(guider.conds, patches, size)
        for effect in self.effects.values():
            effect.begin(run)
        result = executor(
            noise, latent, sampler, sigmas, denoise_mask, callback, disable_pbar, seed, **kwargs
        )
        if missed := [effect.label for name, effect in acting.items() if name not in state.acted]:
            log.info("%s: %s", ", ".join(missed), _DID_NOT_ACT)
        return result

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
        marks, kwargs = _without_marks(kwargs)
        size = latent_size_of(x)
        plans = self.plan(
            executor.class_obj, size, x.device, _noise_levels(t, options), options, control is not None, marks
        )
        _note(plans, options)
        with _published(plans, x.device, (self, size)):
            return executor(x, t, c_concat, c_crossattn, self._fitted(control, plans), options, **kwargs)

    def around_unet(
        self,
        executor: Any,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | None = None,
        y: Tensor | None = None,
        control: Any = None,
        transformer_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Make the plan if another pack runs the UNet itself,
        or on a part of the latent (the host's DIFFUSION_MODEL).
        """
        options = {} if transformer_options is None else transformer_options
        marks, kwargs = _without_marks(kwargs)
        run: _RunState | None = options.get(RUN)
        if run is None or torch.compiler.is_compiling() or self._is_planned(x):
            return executor(x, timesteps, context, y, control, options, **kwargs)
        size, levels = latent_size_of(x), _noise_levels(timesteps, options)
        plans = self.plan(run.model, size, x.device, levels, options, control is not None, marks)
        _note(plans, options)
        with _published(plans, x.device, (self, size)):
            return executor(x, timesteps, context, y, self._fitted(control, plans), options, **kwargs)

    def plan(
        self,
        model: BaseModel,
        latent_size: Size,
        device: torch.device,
        sigmas: NoiseLevels,
        options: Mapping[str, Any],
        has_control: bool = False,
        marks: Mapping[str, Any] = MappingProxyType({}),
    ) -> Plans:
        """Return each effect's plan for a call of the model."""
        run: _RunState | None = options.get(RUN)
        call = ModelCall(
            sigmas=sigmas,
            latent_size=latent_size,
            sample_sigmas=_sample_sigmas(run, options),
            sampling=model.model_sampling,
            model=model,
            topology=topology_of(model.diffusion_model),
            seed=run.seed if run else 0,
            has_control=has_control,
            device=device,
            marks=marks,
            cond_or_uncond=options.get("cond_or_uncond"),
        )
        return {name: effect.plan(call) for name, effect in self.effects.items()}

    def _fitted(self, control: Any, plans: Plans) -> Any:
        return fit_control(control) if any(plan is not None for plan in plans.values()) else control

    def _is_planned(self, x: Tensor) -> bool:
        published = _PUBLISHED.get((x.device.type, x.device.index))
        return published is not None and published[0] is self and published[1] == tuple(x.shape[-2:])


@contextmanager
def _published(
    plans: Plans, device: torch.device, publisher: tuple[_Wrapper, Size] | None = None
) -> Iterator[None]:
    place: Device = (device.type, device.index)
    now: dict[_Key, Plan | None] = {(*place, name): plan for name, plan in plans.items()}
    before = {key: _PLANS[key] for key in now if key in _PLANS}
    publisher_before = _PUBLISHED.get(place)
    _PLANS.update(now)
    _PUBLISHED[place] = publisher
    try:
        yield
    finally:
        for key in now:
            del _PLANS[key]
        _PLANS.update(before)
        del _PUBLISHED[place]
        if publisher_before is not None:
            _PUBLISHED[place] = publisher_before


_DID_NOT_ACT = (
    "did nothing in this run: all model calls were smaller than the latent, or another pack runs the UNet "
    "in its own way"
)


def _note(plans: Plans, options: Mapping[str, Any]) -> None:
    if RUN in options:
        options[RUN].note(plans)


def _without_marks(kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split the keyword arguments of a call into our own ones and the others."""
    marks = {name: value for name, value in kwargs.items() if name.startswith(PREFIX)}
    return marks, {name: value for name, value in kwargs.items() if name not in marks}


def _noise_levels(timesteps: Tensor, options: Mapping[str, Any]) -> NoiseLevels:
    """Return the noise levels of a call: those of the host's own tensor,
    which all calls of an evaluation share.
    """
    run, sigmas = options.get(RUN), options.get("sigmas")
    return NoiseLevels(timesteps) if run is None or sigmas is None else run.noise_levels(sigmas)


def _sample_sigmas(run: _RunState | None, options: Mapping[str, Any]) -> tuple[float, ...] | None:
    published = options.get("sample_sigmas")
    if published is None:
        return None
    if run is not None and len(run.sigmas) == len(published):
        return run.sigmas  # the same on the CPU
    return falling_levels(published)
