"""Tiny models with quantised weights: with a separate patcher class that is called as in ComfyUI-GGUF; and in
the host's fp8.

Such a patcher puts a LoRA beside a weight instead of into it, and makes a clone its own by its class. A
weight is bytes, 8 bits a value and a scale for each row, and says that it has the shape of what it was made
from.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import comfy.lora
import comfy.model_patcher
import comfy.ops
import comfy.utils
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .families import Family

_SCALE = 4  # bytes of a row's scale


class QuantisedWeight(Tensor):
    """Bytes (out, in + 4) of a matrix (out, in), and the patches that are added where it is used."""

    whole: torch.Size
    patches: list[tuple[Any, str]]

    @staticmethod
    def of(weight: Tensor) -> QuantisedWeight:
        """Quantise a matrix."""
        scale = weight.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127
        values = (weight / scale).round().to(torch.int8).view(torch.uint8)
        made = torch.cat([values, scale.float().view(torch.uint8)], dim=1).as_subclass(QuantisedWeight)
        made.whole, made.patches = weight.shape, []
        return made

    @property
    def shape(self) -> torch.Size:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.whole

    def detach(self) -> QuantisedWeight:
        return self

    def to(self, *args: Any, **kwargs: Any) -> QuantisedWeight:
        moved = super().to(*args, **kwargs).as_subclass(QuantisedWeight)
        moved.whole, moved.patches = self.whole, list(self.patches)
        return moved

    def matrix(self) -> Tensor:
        """Return the matrix for the computation: (out, in) float32, with its patches."""
        stored = self.as_subclass(Tensor)
        scale = stored[:, -_SCALE:].contiguous().view(torch.float32)
        weight = stored[:, :-_SCALE].contiguous().view(torch.int8).float() * scale
        for patches, key in self.patches:
            weight = comfy.lora.calculate_weight(patches, weight, key)
        return weight


class QuantisedOps(comfy.ops.manual_cast):
    """The host's layers, of which linear ones take a quantised weight."""

    class Linear(comfy.ops.manual_cast.Linear):
        def forward_comfy_cast_weights(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if not isinstance(self.weight, QuantisedWeight):
                return super().forward_comfy_cast_weights(input, *args, **kwargs)
            return F.linear(input, self.weight.matrix().to(input.dtype), self.bias)


class QuantisedPatcher(comfy.model_patcher.ModelPatcher):
    """A patcher whose class is not the host's."""

    def patch_weight_to_device(self, key: str, *args: Any, **kwargs: Any) -> Any:
        weight = comfy.utils.get_attr(self.model, key)
        if key not in self.patches or not isinstance(weight, QuantisedWeight):
            return super().patch_weight_to_device(key, *args, **kwargs)
        patched = weight.to(weight.device)
        patched.patches = [(self.patches[key], key)]
        return comfy.utils.set_attr_param(self.model, key, patched)

    def unpatch_model(self, device_to: Any = None, unpatch_weights: bool = True) -> Any:
        for weight in self.model.parameters() if unpatch_weights else ():
            if isinstance(weight, QuantisedWeight):
                weight.patches = []
        return super().unpatch_model(device_to, unpatch_weights)

    def load(self, *args: Any, **kwargs: Any) -> Any:
        return super().load(*args, **{**kwargs, "force_patch_weights": True})

    def clone(self, *args: Any, **kwargs: Any) -> Any:
        original: Any = self
        kind, original.__class__ = type(self), QuantisedPatcher  # as it is called on the host's patcher too
        made: Any = super().clone(*args, **kwargs)
        made.__class__, original.__class__ = QuantisedPatcher, kind
        return made


def quantised_model(family: Family) -> tuple[Any, Any]:
    """Return a model with quantised weights, and the host's own patcher of a model with
    the same weights in full precision.
    """
    made: Any = _with_layers(family, QuantisedOps).model()
    plain = family.model()
    for (_, layer), (_, other) in zip(_linear_layers(made), _linear_layers(plain), strict=True):
        weight = QuantisedWeight.of(layer.weight.detach())
        other.weight = nn.Parameter(weight.matrix(), requires_grad=False)
        layer.weight = nn.Parameter(weight, requires_grad=False)
    return QuantisedPatcher.clone(made), plain


def fp8_model(family: Family) -> Any:
    """Return a model whose weights the host stores in 8 bits and casts for each use."""
    made = _with_layers(family, comfy.ops.manual_cast).model()
    made.model.diffusion_model.to(torch.float8_e4m3fn).dtype = torch.float8_e4m3fn
    made.model.manual_cast_dtype = torch.float32
    return made


def _with_layers(family: Family, operations: Any) -> Family:
    return replace(family, config=type("Config", (family.config,), {"custom_operations": operations}))


def _linear_layers(model: Any) -> list[tuple[str, nn.Linear]]:
    return [item for item in model.model.diffusion_model.named_modules() if isinstance(item[1], nn.Linear)]
