"""Whether this ComfyUI lets a patch replace an Upsample."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import Upsample, forward_timestep_embed
from torch import Tensor, nn


@cache
def reaches_upsample() -> bool:
    """Return whether this ComfyUI passes an Upsample to patches; before 0.19 it passed only a Downsample."""
    asked: list[nn.Module] = []

    def note(layer: nn.Module, features: Tensor, *_: Any) -> Tensor:
        asked.append(layer)
        return features

    patches = {"forward_timestep_embed_patch": [(Upsample, note)]}
    layers: Any = [Upsample(1, use_conv=False)]
    forward_timestep_embed(layers, torch.zeros(1, 1, 1, 1), None, transformer_options={"patches": patches})
    return bool(asked)
