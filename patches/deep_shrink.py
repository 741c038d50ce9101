"""Deep Shrink on a UNet: features are downscaled after an input block and upscaled
again to the size of larger skips.

Source: Kohya's Deep Shrink as in ComfyUI's `PatchModelAddDownscale`; the same settings give the same bits. We
depart from it where it fails: both axes decide on scaling back, ControlNet residuals are resized, block
numbers are checked, several nodes on one model share one schedule, the factor can fade out, and `mode="auto"`
computes the factor from the latent's size.

B C H W are batch, channels, height, width of the features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import comfy.utils
from comfy.model_base import BaseModel
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..errors import bad_input
from ..record import record
from ..scaling.deep_shrink import faded_factor, shrunk_size
from ..scaling.size import Size
from .effect import Effect, Effects, Stacked, idle_together, merge_with_earlier, nothing_to_do
from .model_call import ModelCall
from .plan import Plan
from .schedule import Schedule
from .topology import BlockId, topology_in
from .trained_size import NOT_LARGER, factor_above_trained, trained_side
from .wrapper import add_effect, planned

Mode = Literal["manual", "auto"]
ScaleMethod = Literal["bicubic", "nearest-exact", "bilinear", "area", "bislerp"]


@record
class DeepShrink:
    """The settings of one Deep Shrink; the names are those of the node's sockets.

    Raises:
        ValueError: when start and end are in the wrong order, or the factor is not above 0.
    """

    block_number: int = 3
    downscale_factor: float = 2.0
    start_percent: float = 0.0
    end_percent: float = 0.35
    downscale_after_skip: bool = True
    downscale_method: ScaleMethod = "bicubic"
    upscale_method: ScaleMethod = "bicubic"
    mode: Mode = "manual"
    fade_percent: float = 0.0
    trained_size: int = 0

    def __post_init__(self) -> None:
        if not self.schedule.is_ordered:
            limit = f"at most end_percent ({self.end_percent:g})"
            hint = "Swap the two; otherwise the effect is never on."
            raise bad_input("start_percent", limit, f"{self.start_percent:g}", hint)
        if self.downscale_factor <= 0:
            factor = f"{self.downscale_factor:g}"
            raise bad_input("downscale_factor", "a number above 0", factor, "2 halves the features.")

    @property
    def schedule(self) -> Schedule:
        return Schedule(self.start_percent, self.end_percent, "percent", self.fade_percent)


AUTOMATIC = DeepShrink(mode="auto")
"""The settings of `mode="auto"`: the published ones, at every size; the factor follows from the size. The block
is the first with a Downsample: 3 in SD 1.x, 2.x and SDXL.
"""


def apply_deep_shrink(model: ModelPatcher, config: DeepShrink) -> ModelPatcher:
    """Return a clone of `model` that downscales its features while the schedule is on.

    In "auto", only the setting `trained_size` is used. Applied again, it adds another one: at the same block
    the strongest counts, and one that begins where an earlier one ends takes over from it, so 4x, then 2x,
    then none needs two nodes in a row.

    Raises:
        ValueError: when `model` is not a UNet or has no such block.
    """
    topology = topology_in(model)
    if config.mode == "manual":
        topology.check_input_block(config.block_number, "block_number")
    else:
        trained_side(model.model, config.trained_size)  # fail here rather than inside the sampler
        block = topology.first_downsampler
        config = replace(AUTOMATIC, block_number=block, trained_size=config.trained_size)
    return add_effect(model, DeepShrinks((config,)))


@record
class Shrink:
    """One shrink in one call: `factor` 1.0 is off."""

    block: int
    factor: float
    after_skip: bool


@record
class ShrinkPlan(Plan):
    """The shrinks of one call, in the order of their nodes."""

    steps: tuple[Shrink, ...]

    def before_skip(self, block: int, size: Size) -> Size:
        return self._shrunk(block, size, after_skip=False)

    def after_skip(self, block: int, size: Size) -> Size:
        return self._shrunk(block, size, after_skip=True)

    def _shrunk(self, block: int, size: Size, after_skip: bool) -> Size:
        for step in self.steps:
            if (step.block, step.after_skip) == (block, after_skip):
                size = shrunk_size(size, step.factor)
        return size

    def marks(self, sizes: Mapping[BlockId, Size]) -> Mapping[BlockId, str]:
        return {("input", step.block): f"/ {step.factor:.3g}" for step in self.steps if step.factor != 1.0}


@record
class DeepShrinks(Effect):
    """All Deep Shrinks of one model, in the order of their nodes."""

    shrinks: tuple[DeepShrink, ...]

    name = "deep_shrink"
    label = "Deep Shrink"
    colour = (214, 118, 20)
    resizes = True

    def stacked(self, effects: Effects) -> Stacked:
        return merge_with_earlier(
            self, effects, lambda earlier: replace(self, shrinks=(*earlier.shrinks, *self.shrinks))
        )

    def install(self, model: ModelPatcher, name: str, earlier: Effect | None) -> None:
        first = len(earlier.shrinks) if isinstance(earlier, DeepShrinks) else 0
        for index, shrink in enumerate(self.shrinks, first):
            if shrink.downscale_after_skip:
                model.set_model_input_block_patch_after_skip(partial(_shrink, index, shrink))
            else:
                model.set_model_input_block_patch(partial(_shrink, index, shrink))
            model.set_model_output_block_patch(partial(_grow_back, shrink))

    def idle(self, call: ModelCall) -> str | None:
        return idle_together(_idle(shrink, call) for shrink in self.shrinks)

    def describe(self, call: ModelCall) -> str:
        return "; then ".join(_describe(shrink, call) for shrink in self.shrinks)

    def plan(self, call: ModelCall) -> ShrinkPlan | None:
        factors = [_full_factor(shrink, call.model, call.latent_size) for shrink in self.shrinks]
        if all(factor == 1.0 for factor in factors):
            return None  # before the noise level is read
        strengths = [call.strength(shrink.schedule) for shrink in self.shrinks]
        plan: list[tuple[int, float]] = []
        for index, (shrink, strength) in enumerate(zip(self.shrinks, strengths, strict=True)):
            earlier = zip(self.shrinks[:index], strengths, strict=False)
            if any(on == 1.0 and first.schedule.end == shrink.schedule.start for first, on in earlier):
                strength = 0.0  # both include the moment at which they meet; the earlier one holds it
            plan.append((shrink.block_number, faded_factor(factors[index], strength)))
        steps = tuple(
            Shrink(
                block, factor if _is_strongest(plan, index) else 1.0, self.shrinks[index].downscale_after_skip
            )
            for index, (block, factor) in enumerate(plan)
        )
        return ShrinkPlan(steps) if any(step.factor != 1.0 for step in steps) else None


def _shrink(index: int, shrink: DeepShrink, features: Tensor, options: dict[str, Any]) -> Tensor:
    plan = planned(DeepShrinks.name, features, options)
    if not isinstance(plan, ShrinkPlan):
        return features
    step = plan.steps[index]
    if step.factor == 1.0 or step.block != options["block"][1]:
        return features
    return _resize(features, shrunk_size(features.shape[-2:], step.factor), shrink.downscale_method)


def _grow_back(
    shrink: DeepShrink, features: Tensor, skip: Tensor | None, options: dict[str, Any]
) -> tuple[Tensor, Tensor | None]:
    if skip is not None and features.shape[-2:] != skip.shape[-2:]:
        features = _resize(features, skip.shape[-2:], shrink.upscale_method)
    return features, skip


def _resize(features: Tensor, size: Sequence[int], method: ScaleMethod) -> Tensor:
    height, width = size
    return comfy.utils.common_upscale(features, width, height, method, "disabled")


def _full_factor(shrink: DeepShrink, model: BaseModel, latent_size: Sequence[int]) -> float:
    if shrink.mode == "manual":
        return shrink.downscale_factor
    return factor_above_trained(model, latent_size, shrink.trained_size)


def _is_strongest(plan: list[tuple[int, float]], index: int) -> bool:
    def change(number: int) -> tuple[float, int]:
        return abs(math.log(plan[number][1])), -number  # 0.5 changes as much as 2; of two alike, the earlier

    block, _ = plan[index]
    return index == max((number for number, (at, _) in enumerate(plan) if at == block), key=change)


def _idle(shrink: DeepShrink, call: ModelCall) -> str | None:
    if shrink.mode == "manual":
        return never_on(shrink)
    return NOT_LARGER if _full_factor(shrink, call.model, call.latent_size) == 1.0 else None


def never_on(shrink: DeepShrink) -> str | None:
    """Return why these settings do nothing with any model and size, or None."""
    if shrink.mode == "manual" and shrink.downscale_factor == 1.0:
        return "downscale_factor is 1"
    return None


def _describe(shrink: DeepShrink, call: ModelCall) -> str:
    if reason := _idle(shrink, call):
        return nothing_to_do(reason)
    factor = _full_factor(shrink, call.model, call.latent_size)
    height, width = call.latent_size
    features = call.topology.feature_size(call.latent_size, shrink.block_number)
    shrunk = shrunk_size(features, factor)
    schedule = shrink.schedule
    return (
        f"block_number {shrink.block_number}, downscale_factor {factor:g}, start_percent {schedule.start:g}, "
        f"end_percent {schedule.end:g}, fade_percent {schedule.fade:g}, "
        f"downscale_after_skip {str(shrink.downscale_after_skip).lower()}, "
        f"{shrink.downscale_method} down, {shrink.upscale_method} up: "
        f"latent {height}x{width}, features {features[0]}x{features[1]} -> {shrunk[0]}x{shrunk[1]}"
    )
