"""A tiny SUPIR in the host's own layers, with random weights: a model patch that restores images with SDXL.

The host builds it at one width only, so its list of adapters is repeated here at the width of the tiny SDXL.
"""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import torch
import torch.nn.functional as F
from comfy.ldm.supir.supir_modules import GLVControl, ZeroCrossAttn, ZeroSFT
from torch import Tensor, nn

from .random_models import random_state
from .topology import SDXL

WIDTH = SDXL["model_channels"]
_CONTROL = [1] * 4 + [2] * 3 + [4] * 3  # channels of the control's features, shallow to deep, by the width
_SKIPS = [1] * 2 + [2] * 3 + [4] * 4 + [0]  # channels that an adapter joins
_ATTENTION = (6, 3)  # where an attention stands before an adapter
CELL = 8


def model_patch() -> Any:
    """Return what the host's loader of model patches gives."""
    layers: dict[str, Any] = {"dtype": torch.float32, "operations": comfy.ops.manual_cast}
    network = nn.Module()
    network.control_model = GLVControl(model_channels=WIDTH, transformer_depth=(1, 1, 1), **layers)
    network.project_modules = nn.ModuleList(
        ZeroSFT(WIDTH * control, WIDTH * control, concat_channels=WIDTH * skip, **layers)
        for control, skip in zip(_CONTROL, _SKIPS, strict=True)
    )
    for place in _ATTENTION:
        attention = ZeroCrossAttn(WIDTH * _CONTROL[place], WIDTH * _SKIPS[place], **layers)
        network.project_modules.insert(place, attention)
    network.load_state_dict(random_state(network, 5))
    return comfy.model_patcher.CoreModelPatcher(
        network.eval(),
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


class LocalVae:
    """Four channels of the means of squares: what is encoded of a crop is the crop of what is encoded."""

    def encode(self, pictures: Tensor) -> Tensor:
        """Return (B, 4, h, w) of pictures (B, H, W, 3)."""
        means = F.avg_pool2d(pictures[..., :3].movedim(-1, 1), CELL)
        return torch.cat([means, means.mean(dim=1, keepdim=True)], dim=1)

    def decode(self, latents: Tensor) -> Tensor:
        """Return (B, H, W, 3)."""
        return F.interpolate(latents[:, :3], scale_factor=CELL).movedim(1, -1)

    def spacial_compression_encode(self) -> int:
        """Return the pixels to a latent pixel, under the host's name."""
        return CELL
