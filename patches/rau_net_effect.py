"""RAU-Net on a UNet: two pairs of rescalings that give deep features the UNet's trained size.

A Downsample runs with stride 4 and the matching Upsample enlarges by 4; and the features after an attention
block are pooled (the "CA" pair) and upscaled again before the skip of the level's first block.

Source: HiDiffusion (arXiv 2311.17528v2) and the settings of the original node (`ApplyRAUNet`). We depart
where those fail: pairs are checked against the UNet, ControlNet residuals are resized, several samplers,
conditionings or devices do not interfere, nothing in the host or the model is replaced, and the published
schedule counts executed steps.

B C H W are batch, channels, height, width of the features.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import field, fields, replace
from typing import Any

import torch.nn.functional as F
from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample, Upsample
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..host.layers import with_cast_weights
from ..host.scale_modes import resize
from ..host.upsample import reaches_upsample
from ..record import record
from ..scaling.deep_shrink import faded_factor
from ..scaling.multiplier import times
from ..scaling.rau_net import averaged_size, averaging_kernel, dilated_convolution, dilated_size, pooled_size
from ..scaling.size import Size
from .effect import Effect, Effects, Run, Stacked, idle_together, merge_with_earlier, nothing_to_do
from .executed_steps import counted_steps
from .layer_handlers import chain_handlers
from .model_call import ModelCall
from .plan import Plan
from .rau_net_settings import RAUNet, Recipe
from .schedule import NEVER_ON, Schedule
from .topology import BlockId, Blocks, listed
from .trained_size import NOT_LARGER
from .wrapper import planned


@record
class Pooling:
    """The pooling of a CA pair in one call."""

    settings: RAUNet
    factors: tuple[float, float]

    def target(self, size: Size) -> Size:
        """Return the target size; features that have it are left unchanged."""
        return pooled_size(size, self.factors, self.settings.ca_latent_pixel_increment)

    def size(self, size: Size) -> Size:
        """Return the size of the pooled features: the target, or the nearest size that whole kernels give."""
        target = self.target(size)
        if target == size or self.settings.ca_downscale_mode != "avg_pool2d":
            return target
        return averaged_size(size, averaging_kernel(size, target), self.settings.ca_avg_pool2d_ceil_mode)


@record
class RescalePlan(Plan):
    """The rescalings of one call: settings by input block (`dilated`, `pooled`) and by
    output block (the inverse ones).
    """

    dilated: Mapping[int, RAUNet] = field(default_factory=dict[int, RAUNet])
    enlarged: Mapping[int, RAUNet] = field(default_factory=dict[int, RAUNet])
    pooled: Mapping[int, Pooling] = field(default_factory=dict[int, Pooling])
    restored: Mapping[int, RAUNet] = field(default_factory=dict[int, RAUNet])

    def downsampled(self, block: int, size: Size) -> Size | None:
        return dilated_size(size) if block in self.dilated else None

    def before_skip(self, block: int, size: Size) -> Size:
        return self._pooled(block, size, after_skip=False)

    def after_skip(self, block: int, size: Size) -> Size:
        return self._pooled(block, size, after_skip=True)

    def _pooled(self, block: int, size: Size, after_skip: bool) -> Size:
        pooling = self.pooled.get(block)
        if pooling is None or pooling.settings.ca_input_after_skip_mode != after_skip:
            return size
        return pooling.size(size)

    def marks(self, sizes: Mapping[BlockId, Size]) -> Mapping[BlockId, str]:
        marks: dict[BlockId, list[str]] = defaultdict(list)
        for block in self.dilated:
            marks["input", block].append("stride 4")
        for block, pooling in self.pooled.items():
            marks["input", block].append(f"pool {_factors(pooling.factors)}")
        for block in self.enlarged:
            marks["output", block].append("x 4")
        for block in self.restored:
            marks["output", block].append("restored")
        return {block_id: ", ".join(words) for block_id, words in marks.items()}


@record
class RAUNets(Effect):
    """All RAU-Nets of one model, in the order of their nodes."""

    recipes: tuple[Recipe, ...]

    name = "rau_net"
    label = "RAU-Net"
    colour = (158, 44, 138)
    resizes = True

    def stacked(self, effects: Effects) -> Stacked:
        return merge_with_earlier(
            self, effects, lambda earlier: replace(self, recipes=(*earlier.recipes, *self.recipes))
        )

    def install(self, model: ModelPatcher, name: str, earlier: Effect | None) -> None:
        if earlier is None:
            model.set_model_patch((Downsample, _downsample), "forward_timestep_embed_patch")
            model.set_model_patch((Upsample, _upsample), "forward_timestep_embed_patch")
            model.set_model_input_block_patch(_pool_before_skip)
            model.set_model_input_block_patch_after_skip(_pool_after_skip)
            model.set_model_output_block_patch(_restore)

    def begin(self, run: Run) -> None:
        """Let other packs' handlers of the same layers run too."""
        chain_handlers(run.patches["forward_timestep_embed_patch"], (_downsample, _upsample), _rescales)

    def idle(self, call: ModelCall) -> str | None:
        return idle_together(_idle(recipe.settings(call)) for recipe in self.recipes)

    def describe(self, call: ModelCall) -> str:
        height, width = call.latent_size
        chosen = "; then ".join(_describe(recipe.settings(call)) for recipe in self.recipes)
        return f"latent {height}x{width}: {chosen}"

    def remark(self, call: ModelCall) -> str:
        settings = [recipe.settings(call) for recipe in self.recipes]
        return counted_steps(call) if any(each and each.time_mode == "steps" for each in settings) else ""

    def plan(self, call: ModelCall) -> RescalePlan | None:
        dilated: dict[int, RAUNet] = {}
        enlarged: dict[int, RAUNet] = {}
        pooled: dict[int, Pooling] = {}
        restored: dict[int, RAUNet] = {}
        for recipe in self.recipes:
            settings = recipe.settings(call)
            if settings is None:
                continue
            if settings.input_blocks and call.strength(settings.schedule):
                dilated = dict.fromkeys(settings.input_blocks, settings) | dilated
                enlarged = dict.fromkeys(settings.output_blocks, settings) | enlarged
            if not settings.ca_input_blocks or settings.factors == (1.0, 1.0):
                continue  # before the noise level is read
            height, width = (faded_factor(factor, settings.ca_strength(call)) for factor in settings.factors)
            if (height, width) != (1.0, 1.0):
                pooling = Pooling(settings, (height, width))
                pooled = dict.fromkeys(settings.ca_input_blocks, pooling) | pooled
                restored = dict.fromkeys(settings.ca_output_blocks, settings) | restored
        return RescalePlan(dilated, enlarged, pooled, restored) if dilated or pooled else None


def _idle(settings: RAUNet | None) -> str | None:
    if settings is None:
        return NOT_LARGER
    return never_on(settings)


def never_on(settings: RAUNet) -> str | None:
    """Return why these settings do nothing with any model and size, or None."""
    if _may_run(settings.input_blocks, settings.schedule):
        return None
    if not _may_run(settings.ca_input_blocks, settings.ca_schedule):
        return NEVER_ON
    return "ca_downscale_factor is 1" if settings.factors == (1.0, 1.0) else None


def _describe(settings: RAUNet | None) -> str:
    if settings is None:
        return nothing_to_do(NOT_LARGER)
    parts: list[str] = []
    unit = "" if settings.time_mode == "percent" else f" {settings.time_mode}"
    if _may_run(settings.input_blocks, settings.schedule):
        parts.append(
            f"input_blocks {listed(settings.input_blocks)}, output_blocks {listed(settings.output_blocks)}, "
            f"start_time {settings.start_time:g}, end_time {settings.end_time:g}{unit}, "
            f"upscale_mode {settings.upscale_mode}"
        )
    if _may_run(settings.ca_input_blocks, settings.ca_schedule):
        fade = settings.ca_fadeout_start_time
        fading = "" if fade is None else f", ca_fadeout_start_time {fade:g}"
        parts.append(
            f"ca_input_blocks {listed(settings.ca_input_blocks)}, "
            f"ca_output_blocks {listed(settings.ca_output_blocks)}, "
            f"ca_start_time {settings.ca_start_time:g}, ca_end_time {settings.ca_end_time:g}{unit}{fading}, "
            f"ca_downscale_mode {settings.ca_downscale_mode}, "
            f"ca_downscale_factor {_factors(settings.factors)}, ca_upscale_mode {settings.ca_upscale_mode}"
        )
    if not parts:
        return nothing_to_do(NEVER_ON)
    parts += [f"{name} {_shown(getattr(settings, name))}" for name in _FURTHER if _differs(settings, name)]
    if not reaches_upsample() and _changes_upsample(settings):
        parts.append("upscale_mode needs a newer ComfyUI; this version always uses nearest")
    return ", ".join(parts)


_FURTHER = (
    "two_stage_upscale_mode",
    "ca_input_after_skip_mode",
    "ca_fadeout_cap",
    "ca_latent_pixel_increment",
    "ca_avg_pool2d_ceil_mode",
    *(each.name for each in fields(RAUNet) if each.name.endswith("_multiplier")),
)


def _differs(settings: RAUNet, name: str) -> bool:
    return getattr(settings, name) != getattr(RAUNet, name)


def _shown(value: float | str) -> str:
    return str(value).lower() if isinstance(value, (bool, str)) else f"{value:g}"


def _may_run(blocks: Blocks, schedule: Schedule) -> bool:
    never = schedule.unit == "steps" and schedule.start == schedule.end
    return bool(blocks) and schedule.is_ordered and not never


def _factors(factors: tuple[float, float]) -> str:
    height, width = factors
    return f"{height:.3g}" if height == width else f"{height:.3g} x {width:.3g}"


def _changes_upsample(settings: RAUNet) -> bool:
    return (
        settings.upscale_mode,
        settings.two_stage_upscale_mode,
        settings.pre_upscale_multiplier,
        settings.post_upscale_multiplier,
    ) != ("nearest", "disabled", 1.0, 1.0)


def _plan(features: Tensor, options: Mapping[str, Any]) -> RescalePlan:
    plan = planned(RAUNets.name, features, options)
    return plan if isinstance(plan, RescalePlan) else _NO_PLAN


_NO_PLAN = RescalePlan()


def _rescales(features: Tensor, options: Mapping[str, Any]) -> bool:
    """Return whether the current layer, a Downsample or an Upsample, is replaced in this call."""
    kind, block = options["block"]
    plan = _plan(features, options)
    return block in (plan.dilated if kind == "input" else plan.enlarged)


def _downsample(
    layer: Any, features: Tensor, emb: Tensor, context: Any, options: Mapping[str, Any], *rest: Any
) -> Tensor:
    settings = _plan(features, options).dilated.get(options["block"][1])
    if settings is None:
        return layer(features)
    features = times(features, settings.pre_downscale_multiplier)
    features = with_cast_weights(layer.op, features, dilated_convolution)
    return times(features, settings.post_downscale_multiplier)


def _upsample(
    layer: Any,
    features: Tensor,
    emb: Tensor,
    context: Any,
    options: Mapping[str, Any],
    output_shape: Sequence[int] | None = None,
    *rest: Any,
) -> Tensor:
    settings = _plan(features, options).enlarged.get(options["block"][1])
    if settings is None or output_shape is None or not _changes_upsample(settings):
        return layer(features, output_shape=output_shape)
    height, width = output_shape[-2:]
    features = times(features, settings.pre_upscale_multiplier)
    if settings.two_stage_upscale_mode != "disabled":
        features = resize(
            features, (max(1, height // 2), max(1, width // 2)), settings.two_stage_upscale_mode
        )
    features = resize(features, (height, width), settings.upscale_mode)
    return times(layer.conv(features) if layer.use_conv else features, settings.post_upscale_multiplier)


def _pool_before_skip(features: Tensor, options: Mapping[str, Any]) -> Tensor:
    return _pool(features, options, after_skip=False)


def _pool_after_skip(features: Tensor, options: Mapping[str, Any]) -> Tensor:
    return _pool(features, options, after_skip=True)


def _pool(features: Tensor, options: Mapping[str, Any], after_skip: bool) -> Tensor:
    block = options["block"][1]
    pooling = _plan(features, options).pooled.get(block)
    if pooling is None or pooling.settings.ca_input_after_skip_mode != after_skip:
        return features
    settings, size = pooling.settings, (features.shape[-2], features.shape[-1])
    target = pooling.target(size)
    if target == size:
        return features
    features = times(features, settings.ca_pre_downscale_multiplier)
    if settings.ca_downscale_mode == "avg_pool2d":
        kernel = averaging_kernel(size, target)
        features = F.avg_pool2d(features, kernel, ceil_mode=settings.ca_avg_pool2d_ceil_mode)
    elif settings.ca_downscale_mode == "adaptive_avg_pool2d":
        features = F.adaptive_avg_pool2d(features, target)
    else:
        features = resize(features, target, settings.ca_downscale_mode)
    return times(features, settings.ca_post_downscale_multiplier)


def _restore(
    features: Tensor, skip: Tensor | None, options: Mapping[str, Any]
) -> tuple[Tensor, Tensor | None]:
    if skip is None or features.shape[-2:] == skip.shape[-2:]:
        return features, skip
    settings = _plan(features, options).restored.get(options["block"][1])
    if settings is None:  # another pack has cached them while the effect was on
        return resize(features, skip.shape[-2:], RAUNet.ca_upscale_mode), skip
    features = times(features, settings.ca_pre_upscale_multiplier)
    features = resize(features, skip.shape[-2:], settings.ca_upscale_mode)
    return times(features, settings.ca_post_upscale_multiplier), skip
