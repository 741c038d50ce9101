"""Tiny UNets inside the host's own classes, and the trained one of the toy world.

The trained model draws one object a picture at 16 x 16 latent pixels and, like the real one, duplicates it
above that size. Its latents are colours and mask (see :mod:`.scenes`), hence the scale factor 1. At this
width group norm acts as an instance norm, so the network cannot tell the mean or scale of its noise; a
wrapper whitens the start noise.

Dimensions: B pictures, C channels, H and W in latent pixels, T tokens, D their width.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.latent_formats
import comfy.model_management
import comfy.model_patcher
import comfy.patcher_extension
import comfy.supported_models
import comfy.supported_models_base
import torch
from safetensors.torch import load_file

from .topology import TRAINED_SD15, UnetConfig

WHITENING_KEY = "megapixel.dev.whitened_noise"
CLASS_TOKENS_KEY = "class_tokens"

State = dict[str, torch.Tensor]
Family = type[comfy.supported_models_base.BASE]


class SceneLatents(comfy.latent_formats.SD15):
    """Latents whose first three channels are red, green and blue in [-1, 1]."""

    def __init__(self) -> None:
        super().__init__(scale_factor=1.0)
        self.latent_rgb_factors = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]


class SceneSD15(comfy.supported_models.SD15):
    """SD 1.5 on scene latents."""

    latent_format = SceneLatents


def load_sd15(path: Path) -> tuple[comfy.model_patcher.ModelPatcher, torch.Tensor]:
    """Load the trained model and its class tokens, (13, 4, 64): classes, close-ups, empty prompt."""
    state = {name: value.float() for name, value in load_file(path).items()}
    class_tokens = state.pop(CLASS_TOKENS_KEY)
    model = build_unet(SceneSD15, TRAINED_SD15, lambda _: state)
    model.add_wrapper_with_key(
        comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, WHITENING_KEY, sample_from_whitened_noise
    )
    return model, class_tokens


def build_unet(
    family: Family,
    topology: UnetConfig,
    make_state: Callable[[torch.nn.Module], State],
    dtype: torch.dtype = torch.float32,
) -> comfy.model_patcher.ModelPatcher:
    """Build a model of ``family`` with the weights ``make_state(network)``, kept and computed with in ``dtype``."""
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


def sample_from_whitened_noise(
    executor: Callable[..., torch.Tensor], noise: torch.Tensor, *args: Any, **kwargs: Any
) -> torch.Tensor:
    """Wrap a sampling run: give it whitened start noise."""
    return executor(whiten_noise(noise), *args, **kwargs)


def whiten_noise(noise: torch.Tensor) -> torch.Tensor:
    """Return noise (B, C, H, W) with mean 0 and deviation 1 per picture and channel; no noise stays none."""
    if not noise.any():
        return noise
    return (noise - noise.mean((2, 3), keepdim=True)) / noise.std((2, 3), keepdim=True)
