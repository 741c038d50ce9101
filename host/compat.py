"""Everything of ComfyUI that the patches use and that may move between its versions, in one place."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import comfy.ops
import comfy.utils
import torch
from comfy.conds import CONDCrossAttn
from comfy.controlnet import ControlBase, T2IAdapter
from comfy.latent_formats import SD15, SDXL, SDXL_Playground_2_5
from comfy.ldm.modules import attention
from comfy.ldm.modules.attention import SpatialTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample, Upsample, forward_timestep_embed
from comfy.model_base import BaseModel, ModelType
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP, WrappersMP
from torch import Tensor, nn

__all__ = [
    "SCALE_MODES",
    "BaseModel",
    "CONDCrossAttn",
    "CallbacksMP",
    "ControlBase",
    "Downsample",
    "ModelPatcher",
    "SpatialTransformer",
    "T2IAdapter",
    "Upsample",
    "WrappersMP",
    "attend",
    "compute_dtype",
    "reaches_upsample",
    "resize",
    "scale_modes",
    "trained_side",
    "with_cast_weights",
]

_LATENT_PIXEL = 8  # picture pixels to a latent pixel, in every UNet-based family


SCALE_MODES = ("bicubic", "bislerp", "bilinear", "nearest-exact", "nearest", "area")
_BLEH = re.compile(r"(?:^|[/\\.])[^/\\.]*bleh[^/\\.]*\.py\.latent_utils$", re.IGNORECASE)


def scale_modes() -> tuple[str, ...]:
    """Return the host's modes for `resize`, then those that the ComfyUI-bleh pack adds where it is loaded."""
    bleh = _bleh()
    return tuple(dict.fromkeys((*SCALE_MODES, *(bleh.UPSCALE_METHODS if bleh else ()))))


def resize(features: Tensor, size: Sequence[int], mode: str) -> Tensor:
    """Resize (B, C, H, W) to (B, C, *size) with one of `scale_modes`.

    Raises:
        ValueError: a mode that nobody knows, or one that cannot make this size; one sentence.
    """
    height, width = size
    if mode in SCALE_MODES:
        return comfy.utils.common_upscale(features, width, height, mode, "disabled")
    bleh = _bleh()
    if bleh is None or mode not in bleh.UPSCALE_METHODS:
        raise ValueError(
            f"scale mode: expected one of {', '.join(scale_modes())}, got {mode}. "
            "Choose one of them; the ComfyUI-bleh pack adds more."
        )
    resized = bleh.scale_samples(features, width, height, mode=mode)
    if tuple(resized.shape[-2:]) != (height, width):
        raise ValueError(
            f"scale mode: expected one that makes {height}x{width} features, got {mode}. "
            "Choose another; this one fits only some sizes."
        )
    return resized


def _bleh() -> Any | None:
    """Return the module with the scale modes of the ComfyUI-bleh pack, or None.

    The host names a pack's modules by its folder's path, so it cannot be imported by a fixed name.
    """
    ends = [name for name in list(sys.modules) if name.endswith(".latent_utils")]  # a few of thousands
    for module in (sys.modules[name] for name in ends if _BLEH.search(name)):
        if hasattr(module, "UPSCALE_METHODS") and hasattr(module, "scale_samples"):
            return module
    return None


def with_cast_weights(
    layer: Any, features: Tensor, convolve: Callable[[Tensor, Tensor, Tensor | None], Tensor]
) -> Tensor:
    """Return `convolve(features, weight, bias)` with the layer's weights as it would use them itself.

    They may lie on another device, in another type, or wait for a LoRA: the host's own casting fetches them. A layer that
    brings a casting of its own (a quantised one) is asked first.
    """
    if hasattr(layer, "cast_bias_weight"):
        return convolve(features, *layer.cast_bias_weight(features))
    weight, bias, stream = comfy.ops.cast_bias_weight(layer, features, offloadable=True)
    features = convolve(features, weight, bias)
    comfy.ops.uncast_bias_weight(layer, weight, bias, stream)
    return features


def attend(
    queries: Tensor, keys: Tensor, values: Tensor, heads: int, options: Mapping[str, Any] | None = None
) -> Tensor:
    """Return the attention (B, N, D) that the host has chosen for this machine, as its own layers call it.

    `options` are those that a patch inside a layer was given; a replacement of the host's attention is found in them.
    """
    options = {} if options is None else options
    precision = options.get("attn_precision")
    return attention.optimized_attention(
        queries, keys, values, heads, attn_precision=precision, transformer_options=options
    )


def compute_dtype(model: BaseModel) -> torch.dtype:
    """Return the type of numbers that the model's layers work on, whatever type its weights are kept in."""
    return model.get_dtype_inference()


@cache
def reaches_upsample() -> bool:
    """Tell whether this ComfyUI offers an Upsample to a patch; before 0.19 it offered only a Downsample."""
    asked: list[nn.Module] = []

    def note(layer: nn.Module, features: Tensor, *_: Any) -> Tensor:
        asked.append(layer)
        return features

    patches = {"forward_timestep_embed_patch": [(Upsample, note)]}
    layers: Any = [Upsample(1, use_conv=False)]
    forward_timestep_embed(layers, torch.zeros(1, 1, 1, 1), None, transformer_options={"patches": patches})
    return bool(asked)


def trained_side(model: BaseModel, pixels: int = 0) -> int:
    """Return the side of the square latent that `model` was trained on, in latent pixels.

    `pixels`, where given, says it in picture pixels; 0 asks the model. No topology tells this (a UNet runs at any
    size), so it comes from the family: 1024 px for SDXL, 768 px for the v-prediction SD 2.x, 512 px for the other
    SD 1.x and 2.x.

    Raises:
        ValueError: the family is not known and `pixels` is 0.
    """
    if pixels:
        return max(1, pixels // _LATENT_PIXEL)
    if isinstance(model.latent_format, (SDXL, SDXL_Playground_2_5)):
        return 1024 // _LATENT_PIXEL
    if isinstance(model.latent_format, SD15):
        is_sd2 = model.model_config.unet_config.get("context_dim") == 1024
        side = 768 if is_sd2 and model.model_type == ModelType.V_PREDICTION else 512
        return side // _LATENT_PIXEL
    raise ValueError(
        f"trained_size: expected the pixels of a side for {type(model).__name__}, got 0. "
        "Type the picture size that this model was trained at."
    )
