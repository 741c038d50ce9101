"""Tiny UNets in the host's own classes, and the trained ones of the toy world.

The trained models draw what a prompt names at 16 x 16 latent pixels and, like the real ones, duplicate it
above that size. Their latents are colours and mask (see :mod:`.scenes`), hence the scale factor 1. Their
group norm has 8 groups: at this width the usual 32 groups have one channel each, and the network would lose
the mean and scale of its noise.
"""

from collections.abc import Callable
from typing import Any

import comfy.latent_formats
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.supported_models
import comfy.supported_models_base
import torch

from .topology import UnetConfig

GROUPS = 8

State = dict[str, torch.Tensor]
Family = type[comfy.supported_models_base.BASE]


class SceneOperations(comfy.ops.disable_weight_init):
    """The host's layers with a group norm that fits narrow networks."""

    class GroupNorm(comfy.ops.disable_weight_init.GroupNorm):
        """A group norm of 8 groups, whatever number is requested."""

        def __init__(self, num_groups: int, num_channels: int, *args: Any, **kwargs: Any) -> None:
            del num_groups
            super().__init__(GROUPS, num_channels, *args, **kwargs)


class SceneLatents(comfy.latent_formats.SD15):
    """Latents whose first three channels are red, green and blue in [-1, 1]."""

    def __init__(self) -> None:
        super().__init__(scale_factor=1.0)
        self.latent_rgb_factors = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]


class SceneSD15(comfy.supported_models.SD15):
    """SD 1.5 on scene latents."""

    latent_format = SceneLatents
    custom_operations = SceneOperations


class SceneSDXL(comfy.supported_models.SDXL):
    """SDXL on scene latents."""

    latent_format = SceneLatents
    custom_operations = SceneOperations


TRAINED_FAMILIES: dict[str, Family] = {"sd15": SceneSD15, "sdxl": SceneSDXL}


def build_unet(
    family: Family,
    topology: UnetConfig,
    make_state: Callable[[torch.nn.Module], State],
    dtype: torch.dtype = torch.float32,
) -> comfy.model_patcher.ModelPatcher:
    """Build a model of ``family`` with the weights ``make_state(network)``,
    kept and computed with in ``dtype``.
    """
    config = family(topology)
    config.unet_config.update(topology)  # the family's head counts are those of the full width
    config.set_inference_dtype(dtype, None)
    model = config.get_model({}, prefix="").eval()
    patcher = comfy.model_patcher.CoreModelPatcher(
        model,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )
    state = make_state(model.diffusion_model)
    model.load_model_weights(dict(state), "", assign=patcher.is_dynamic())
    return patcher
