"""RAU-Net on a UNet: two pairs of rescalings that bring deep features to the size that the UNet was trained at.

A Downsample runs with stride 4 and the Upsample on the other side enlarges by 4; and the features of an attention block
are averaged over squares (the "CA" pair) and enlarged again before the skip of the level's first block.

Source: HiDiffusion (arXiv 2311.17528v2) and the settings under which ComfyUI knows it (`ApplyRAUNet`). We depart where those
fail: pairs are checked against the UNet, ControlNet residuals fit, several samplers, halves of a guidance or devices do
not disturb each other, nothing of the host or of the model is replaced, and the published schedule counts executed steps.

B C H W are batch, channels, height, width of the features.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Protocol, TypedDict

import torch.nn.functional as F
from torch import Tensor

from ..host.compat import Downsample, ModelPatcher, Upsample, reaches_upsample, with_cast_weights
from ..host.scale_modes import resize
from ..scaling.deep_shrink import faded_factor
from ..scaling.rau_net import (
    Phases,
    averaged_size,
    dilated_convolution,
    dilated_size,
    pooled_size,
    published_phases,
)
from .model_call import Effect, ModelCall, effects_of, planned, set_effect
from .plan import Place, Plan, Size
from .schedule import Schedule, Unit
from .topology import Topology, topology_of

EFFECT = "rau_net"
POOLS = ("avg_pool2d", "adaptive_avg_pool2d")
TURBO_SIDE = 64  # SDXL-Turbo was trained at 512 px
Blocks = tuple[int, ...]


@dataclass(frozen=True)
class RAUNet:
    """The settings of one RAU-Net; the names are those of the node's sockets.

    Empty input blocks switch a pair off, whatever its output blocks are; empty output blocks are filled in.

    Raises:
        ValueError: a setting that contradicts itself; one sentence that names the socket.
    """

    input_blocks: Blocks = (3,)
    output_blocks: Blocks = (8,)
    time_mode: Unit = "percent"
    start_time: float = 0.0
    end_time: float = 0.45
    upscale_mode: str = "bicubic"
    ca_start_time: float = 0.0
    ca_end_time: float = 0.3
    ca_input_blocks: Blocks = (4,)
    ca_output_blocks: Blocks = (8,)
    ca_upscale_mode: str = "bicubic"
    ca_downscale_mode: str = "adaptive_avg_pool2d"
    ca_downscale_factor: float = 2.0
    two_stage_upscale_mode: str = "disabled"
    ca_input_after_skip_mode: bool = False
    ca_fadeout_start_time: float | None = None
    ca_fadeout_cap: float = 0.0
    ca_downscale_factor_w: float | None = None
    ca_latent_pixel_increment: int = 8
    ca_avg_pool2d_ceil_mode: bool = True
    pre_upscale_multiplier: float = 1.0
    post_upscale_multiplier: float = 1.0
    pre_downscale_multiplier: float = 1.0
    post_downscale_multiplier: float = 1.0
    ca_pre_upscale_multiplier: float = 1.0
    ca_post_upscale_multiplier: float = 1.0
    ca_pre_downscale_multiplier: float = 1.0
    ca_post_downscale_multiplier: float = 1.0

    def __post_init__(self) -> None:
        for socket, factor in zip(
            ("ca_downscale_factor", "ca_downscale_factor_w"), self.factors, strict=True
        ):
            if factor <= 0:
                raise ValueError(
                    f"{socket}: expected a number above 0, got {factor:g}. 2 halves the features."
                )
            if self.ca_downscale_mode == "avg_pool2d" and factor != int(factor):
                raise ValueError(
                    f"{socket}: expected a whole number for ca_downscale_mode avg_pool2d, got {factor:g}. "
                    "adaptive_avg_pool2d takes any."
                )
        fade = self.ca_fadeout_start_time
        if fade is not None and not Schedule(fade, self.ca_end_time, self.time_mode).is_ordered:
            raise ValueError(
                f"ca_fadeout_start_time: expected a time before ca_end_time ({self.ca_end_time:g}), got {fade:g}. "
                "The effect fades from here to its end."
            )

    @property
    def factors(self) -> tuple[float, float]:
        """How far the CA pair shrinks (height, width)."""
        width = self.ca_downscale_factor_w
        return self.ca_downscale_factor, self.ca_downscale_factor if width is None else width

    @property
    def schedule(self) -> Schedule:
        """When the Downsample pair is on."""
        return Schedule(self.start_time, self.end_time, self.time_mode)

    @property
    def ca_schedule(self) -> Schedule:
        """When the CA pair is on, at whatever strength."""
        return Schedule(self.ca_start_time, self.ca_end_time, self.time_mode)

    def ca_strength(self, call: ModelCall) -> float:
        """Return how strongly the CA pair is on, 0 to 1."""
        strength = call.strength(self.ca_schedule)
        if not strength or self.ca_fadeout_start_time is None:
            return strength
        length = abs(self.ca_end_time - self.ca_fadeout_start_time)
        fading = Schedule(self.ca_start_time, self.ca_fadeout_start_time, self.time_mode, length)
        return max(call.strength(fading), self.ca_fadeout_cap)


class Recipe(Protocol):
    """What chooses the settings for a model call. Frozen, because clones of a model share it."""

    def settings(self, call: ModelCall) -> RAUNet | None:
        """Return the settings, or None for none at this size."""
        ...


@dataclass(frozen=True)
class Fixed:
    """The same settings whatever the size."""

    chosen: RAUNet

    def settings(self, call: ModelCall) -> RAUNet | None:
        """Return them."""
        return self.chosen


@dataclass(frozen=True)
class Published:
    """The reference code's blocks and shares of the executed steps, by the class of the picture's size."""

    upscale_mode: str = "nearest"
    ca_upscale_mode: str = "bicubic"
    turbo: bool = False

    def settings(self, call: ModelCall) -> RAUNet | None:
        """Return what the reference does to a latent of this size; it knows no size at which to do nothing."""
        phases = published_phases(
            kind_of(call.topology), call.latent_size, turbo=self.turbo, control=call.has_control
        )
        return in_phases(call.topology, phases, self.upscale_mode, self.ca_upscale_mode)


def in_phases(
    topology: Topology, phases: Phases, upscale_mode: str = "nearest", ca_upscale_mode: str = "bicubic"
) -> RAUNet:
    """Return the published rescalings, on in `phases`."""
    dilated, pooled = method_blocks(topology)
    return RAUNet(
        **pairs_of(topology, (dilated,), (pooled,)),
        time_mode="steps",
        start_time=phases.dilated[0],
        end_time=phases.dilated[1],
        ca_start_time=phases.pooled[0],
        ca_end_time=phases.pooled[1],
        upscale_mode=upscale_mode,
        ca_upscale_mode=ca_upscale_mode,
        ca_downscale_mode="avg_pool2d",
    )


def kind_of(topology: Topology) -> Literal["sd", "sdxl"]:
    """Tell the two published families apart: SDXL has no attention at the latent's own size."""
    return "sd" if topology.attention_level == 0 else "sdxl"


def method_blocks(topology: Topology) -> tuple[int, int]:
    """Return the published input blocks: the Downsample behind the first attention level, and the pooled block.

    That is 3 and 4 for SD 1.x and 2.x, 6 and 4 for SDXL.
    """
    below = topology.attention_level + 1
    dilated = next(i for i in topology.downsamplers if topology.inputs[i].level == below)
    pooled = next(i for i, block in enumerate(topology.inputs) if block.transformers and block.level > 0)
    return dilated, pooled


class Pairs(TypedDict):
    """The four block lists of `RAUNet`."""

    input_blocks: Blocks
    output_blocks: Blocks
    ca_input_blocks: Blocks
    ca_output_blocks: Blocks


def pairs_of(
    topology: Topology, dilated: Sequence[int], pooled: Sequence[int], after_skip: bool = False
) -> Pairs:
    """Return the four block lists for the given input blocks."""
    return {
        "input_blocks": tuple(dilated),
        "output_blocks": tuple(topology.skip_partner(block) for block in dilated),
        "ca_input_blocks": tuple(pooled),
        "ca_output_blocks": tuple(_ca_partners(topology, block, after_skip)[0] for block in pooled),
    }


RESOLUTIONS = ("low", "high", "ultra")


def known_preset(
    topology: Topology, resolution: str, upscale_mode: str = "bicubic", ca_upscale_mode: str = "bicubic"
) -> RAUNet:
    """Return the preset of the known simple node for one of `RESOLUTIONS`, its blocks read from the topology."""
    is_sd = kind_of(topology) == "sd"
    windows: dict[str, tuple[float, float]] = {
        "low": (0.4, 0.0) if is_sd else (0.0, 0.0),
        "high": (0.5, 0.35) if is_sd else (0.0, 0.5),
        "ultra": (0.6, 0.45) if is_sd else (0.45, 0.6),
    }
    end, ca_end = windows[resolution]
    first_attention = topology.attention_inputs(topology.attention_level)[0]
    return RAUNet(
        **pairs_of(topology, topology.downsamplers[:1] if end else (), (first_attention,) if ca_end else ()),
        end_time=end,
        ca_end_time=ca_end,
        upscale_mode=upscale_mode,
        ca_upscale_mode=ca_upscale_mode,
    )


def apply_rau_net(model: ModelPatcher, recipe: RAUNet | Recipe) -> ModelPatcher:
    """Return a clone of `model` with the rescalings of `recipe`.

    Applied again, it adds further ones; at a block that has one already, the earlier counts.

    Raises:
        ValueError: `model` is no UNet, or blocks that it does not have or that are no pair; one sentence.
    """
    topology = topology_of(model.get_model_object("diffusion_model"))
    if isinstance(recipe, RAUNet):
        recipe = Fixed(_completed(recipe, topology))
    before = effects_of(model).get(EFFECT)
    patched = model.clone()
    if isinstance(before, _RAUNets):
        set_effect(patched, EFFECT, _RAUNets((*before.recipes, recipe)))
        return patched
    set_effect(patched, EFFECT, _RAUNets((recipe,)))
    patched.set_model_patch((Downsample, _downsample), "forward_timestep_embed_patch")
    patched.set_model_patch((Upsample, _upsample), "forward_timestep_embed_patch")
    patched.set_model_input_block_patch(_pool_before_skip)
    patched.set_model_input_block_patch_after_skip(_pool_after_skip)
    patched.set_model_output_block_patch(_restore)
    return patched


def _completed(settings: RAUNet, topology: Topology) -> RAUNet:
    """Return `settings` with each pair checked and its output blocks filled in."""
    _check_dilated(settings, topology)
    _check_pooled(settings, topology)
    after_skip = settings.ca_input_after_skip_mode
    return replace(
        settings, **pairs_of(topology, settings.input_blocks, settings.ca_input_blocks, after_skip)
    )


def _check_dilated(settings: RAUNet, topology: Topology) -> None:
    pairs = ", ".join(f"{block}-{topology.skip_partner(block)}" for block in topology.downsamplers)
    for block in settings.input_blocks:
        if block not in topology.downsamplers:
            raise ValueError(
                f"input_blocks: expected blocks with a Downsample, got {block}. "
                f"The pairs (input-output) of this UNet are {pairs}."
            )
    partners = {topology.skip_partner(block) for block in settings.input_blocks}
    if partners and settings.output_blocks and set(settings.output_blocks) != partners:
        raise ValueError(
            f"output_blocks: expected {_listed(partners)} for input_blocks {_listed(settings.input_blocks)}, "
            f"got {_listed(settings.output_blocks)}. The pairs (input-output) of this UNet are {pairs}."
        )


def _check_pooled(settings: RAUNet, topology: Topology) -> None:
    after_skip = settings.ca_input_after_skip_mode
    for block in settings.ca_input_blocks:
        topology.check_input_block(block, "ca_input_blocks")
    found = [_ca_partners(topology, block, after_skip) for block in settings.ca_input_blocks]
    chosen, allowed = set(settings.ca_output_blocks), {block for partners in found for block in partners}
    if not chosen or not found or (chosen <= allowed and all(chosen & set(partners) for partners in found)):
        return
    pairs = ", ".join(
        f"{block}-{_ca_partners(topology, block, after_skip)[0]}" for block in range(1, len(topology.inputs))
    )
    raise ValueError(
        f"ca_output_blocks: expected {_listed(partners[0] for partners in found)} for ca_input_blocks "
        f"{_listed(settings.ca_input_blocks)}, got {_listed(chosen)}. "
        f"The pairs (input-output) of this UNet are {pairs}."
    )


def _ca_partners(topology: Topology, block: int, after_skip: bool) -> Blocks:
    """Return the output blocks at which features pooled behind `block` may be restored; the first is the usual one.

    Pooled ahead of the skip, the skip is small as well and the next one is the first that is not. Behind a Downsample
    the Upsample does the work, and both numbers are known for it.
    """
    partner = topology.skip_partner(block)
    if after_skip:
        return (partner,)
    usual = partner + 1
    return (usual, partner) if topology.inputs[block].resample == "down" else (usual,)


def _listed(blocks: Any) -> str:
    return ",".join(map(str, sorted(blocks))) or "none"


@dataclass(frozen=True)
class Pooling:
    """How far a CA pair shrinks in one call."""

    settings: RAUNet
    factors: tuple[float, float]

    def size(self, size: Size) -> Size:
        """Return the size of the pooled features."""
        if self.settings.ca_downscale_mode == "avg_pool2d":
            return averaged_size(size, self.kernel(size), self.settings.ca_avg_pool2d_ceil_mode)
        return pooled_size(size, self.factors, self.settings.ca_latent_pixel_increment)

    def kernel(self, size: Size) -> Size:
        """Return the square of `avg_pool2d`; the increment has no say there, as is known."""
        height, width = (min(int(factor), side) for factor, side in zip(self.factors, size, strict=True))
        return height, width


@dataclass(frozen=True)
class RescalePlan(Plan):
    """The rescalings of one call: settings by input block (`dilated`, `pooled`) and output block (the ways back)."""

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

    def marks(self, sizes: Mapping[Place, Size]) -> Mapping[Place, str]:
        marks: dict[Place, list[str]] = defaultdict(list)
        for block in self.dilated:
            marks["input", block].append("stride 4")
        for block, pooling in self.pooled.items():
            marks["input", block].append(f"pool {_factors(pooling.factors)}")
        for block in self.enlarged:
            marks["output", block].append("x 4")
        for block in self.restored:
            marks["output", block].append("restored")
        return {place: ", ".join(words) for place, words in marks.items()}


@dataclass(frozen=True)
class _RAUNets(Effect):
    """All RAU-Nets of one model, in the order of their nodes."""

    recipes: tuple[Recipe, ...]

    def plan(self, call: ModelCall) -> RescalePlan | None:
        dilated: dict[int, RAUNet] = {}
        enlarged: dict[int, RAUNet] = {}
        pooled: dict[int, Pooling] = {}
        restored: dict[int, RAUNet] = {}
        for recipe in self.recipes:
            settings = recipe.settings(call)
            if settings is None:
                continue
            if call.strength(settings.schedule):
                dilated = dict.fromkeys(settings.input_blocks, settings) | dilated
                enlarged = dict.fromkeys(settings.output_blocks, settings) | enlarged
            height, width = (faded_factor(factor, settings.ca_strength(call)) for factor in settings.factors)
            if (height, width) != (1.0, 1.0):
                pooling = Pooling(settings, (height, width))
                for block in settings.ca_input_blocks:
                    _check_factors(pooling.factors, block, call)
                pooled = dict.fromkeys(settings.ca_input_blocks, pooling) | pooled
                restored = dict.fromkeys(settings.ca_output_blocks, settings) | restored
        return RescalePlan(dilated, enlarged, pooled, restored) if dilated or pooled else None

    def describe(self, call: ModelCall) -> str:
        height, width = call.latent_size
        chosen = "; then ".join(_describe(recipe.settings(call), call) for recipe in self.recipes)
        return f"RAU-Net at latent {height}x{width}: {chosen}"


def _check_factors(factors: tuple[float, float], block: int, call: ModelCall) -> None:
    height, width = call.topology.feature_size(call.latent_size, block)
    if factors[0] > height or factors[1] > width:
        raise ValueError(
            f"ca_downscale_factor: expected at most {min(height, width)} for the {height}x{width} features of input "
            f"block {block}, got {_factors(factors)}. A larger one leaves no pixels."
        )


def _describe(settings: RAUNet | None, call: ModelCall) -> str:
    if settings is None:
        return "nothing to do (not clearly above the trained size)"
    parts: list[str] = []
    unit = "" if settings.time_mode == "percent" else f" {settings.time_mode}"
    if _may_run(settings.input_blocks, settings.schedule):
        parts.append(
            f"input_blocks {_listed(settings.input_blocks)}, output_blocks {_listed(settings.output_blocks)}, "
            f"start_time {settings.start_time:g}, end_time {settings.end_time:g}{unit}, "
            f"upscale_mode {settings.upscale_mode}"
        )
    if _may_run(settings.ca_input_blocks, settings.ca_schedule):
        fade = settings.ca_fadeout_start_time
        fading = "" if fade is None else f", ca_fadeout_start_time {fade:g}"
        parts.append(
            f"ca_input_blocks {_listed(settings.ca_input_blocks)}, "
            f"ca_output_blocks {_listed(settings.ca_output_blocks)}, "
            f"ca_start_time {settings.ca_start_time:g}, ca_end_time {settings.ca_end_time:g}{unit}{fading}, "
            f"ca_downscale_mode {settings.ca_downscale_mode}, "
            f"ca_downscale_factor {_factors(settings.factors)}, ca_upscale_mode {settings.ca_upscale_mode}"
        )
    if not parts:
        return "nothing to do (no block, or a start_time behind its end_time)"
    parts += [f"{name} {_told(getattr(settings, name))}" for name in _FURTHER if _differs(settings, name)]
    if not reaches_upsample() and _changes_upsample(settings):
        parts.append("upscale_mode needs a newer ComfyUI, this one enlarges with nearest")
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


def _told(value: float | str) -> str:
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


def _plan(features: Tensor) -> RescalePlan:
    plan = planned(EFFECT, features)
    return plan if isinstance(plan, RescalePlan) else _NO_PLAN


_NO_PLAN = RescalePlan()


def _downsample(
    layer: Any, features: Tensor, emb: Tensor, context: Any, options: Mapping[str, Any], *rest: Any
) -> Tensor:
    settings = _plan(features).dilated.get(options["block"][1])
    if settings is None:
        return layer(features)
    features = _times(features, settings.pre_downscale_multiplier)
    features = with_cast_weights(layer.op, features, dilated_convolution)
    return _times(features, settings.post_downscale_multiplier)


def _upsample(
    layer: Any,
    features: Tensor,
    emb: Tensor,
    context: Any,
    options: Mapping[str, Any],
    output_shape: Sequence[int] | None = None,
    *rest: Any,
) -> Tensor:
    settings = _plan(features).enlarged.get(options["block"][1])
    if settings is None or output_shape is None or not _changes_upsample(settings):
        return layer(features, output_shape=output_shape)
    height, width = output_shape[-2:]
    features = _times(features, settings.pre_upscale_multiplier)
    if settings.two_stage_upscale_mode != "disabled":
        features = resize(
            features, (max(1, height // 2), max(1, width // 2)), settings.two_stage_upscale_mode
        )
    features = resize(features, (height, width), settings.upscale_mode)
    return _times(layer.conv(features) if layer.use_conv else features, settings.post_upscale_multiplier)


def _pool_before_skip(features: Tensor, options: Mapping[str, Any]) -> Tensor:
    return _pool(features, options, after_skip=False)


def _pool_after_skip(features: Tensor, options: Mapping[str, Any]) -> Tensor:
    return _pool(features, options, after_skip=True)


def _pool(features: Tensor, options: Mapping[str, Any], after_skip: bool) -> Tensor:
    block = options["block"][1]
    pooling = _plan(features).pooled.get(block)
    if pooling is None or pooling.settings.ca_input_after_skip_mode != after_skip:
        return features
    settings, size = pooling.settings, (features.shape[-2], features.shape[-1])
    features = _times(features, settings.ca_pre_downscale_multiplier)
    if settings.ca_downscale_mode == "avg_pool2d":
        features = F.avg_pool2d(features, pooling.kernel(size), ceil_mode=settings.ca_avg_pool2d_ceil_mode)
    elif settings.ca_downscale_mode == "adaptive_avg_pool2d":
        features = F.adaptive_avg_pool2d(features, pooling.size(size))
    else:
        features = resize(features, pooling.size(size), settings.ca_downscale_mode)
    return _times(features, settings.ca_post_downscale_multiplier)


def _restore(
    features: Tensor, skip: Tensor | None, options: Mapping[str, Any]
) -> tuple[Tensor, Tensor | None]:
    settings = _plan(features).restored.get(options["block"][1])
    if settings is None or skip is None or features.shape[-2:] == skip.shape[-2:]:
        return features, skip
    features = _times(features, settings.ca_pre_upscale_multiplier)
    features = resize(features, skip.shape[-2:], settings.ca_upscale_mode)
    return _times(features, settings.ca_post_upscale_multiplier), skip


def _times(features: Tensor, multiplier: float) -> Tensor:
    return features if multiplier == 1.0 else features * multiplier
