"""How the host computes a layer: its attention, its casting of weights, its dtype."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import comfy.ops
import torch
from comfy.ldm.modules import attention
from comfy.model_base import BaseModel
from torch import Tensor


def with_cast_weights(
    layer: Any, features: Tensor, convolve: Callable[[Tensor, Tensor, Tensor | None], Tensor]
) -> Tensor:
    """Return `convolve(features, weight, bias)` with the layer's weights as the layer itself would use them.

    They may be on another device, have another dtype, or need a LoRA: the host's own casting loads them. A layer with its
    own casting (a quantised one) is used first.
    """
    if hasattr(layer, "cast_bias_weight"):
        return convolve(features, *layer.cast_bias_weight(features))
    weight, bias, stream = comfy.ops.cast_bias_weight(layer, features, offloadable=True)
    features = convolve(features, weight, bias)
    comfy.ops.uncast_bias_weight(layer, weight, bias, stream)
    return features


def attend(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    heads: int,
    options: Mapping[str, Any] | None = None,
    kernel: Mapping[str, Any] | None = None,
) -> Tensor:
    """Return the attention (B, N, D) that the host has chosen for this machine, as its own layers call it.

    Args:
        options: the options of a patch inside a layer, which may contain a replacement of the host's attention.
        kernel: `chosen_attention` of that layer.
    """
    options = {} if options is None else options
    precision = options.get("attn_precision")
    return attention.optimized_attention(
        queries, keys, values, heads, attn_precision=precision, transformer_options=options, **(kernel or {})
    )


def compute_dtype(model: BaseModel) -> torch.dtype:
    """Return the dtype in which the model's layers compute, whatever the dtype of its weights is."""
    return model.get_dtype_inference()
