"""Tiny models of current families in the host's own classes, with random weights; and a VAE and a sampler
that show what a segment receives.

A latent of `IdentityVae` is the image itself: each square of pixels becomes the channels of one latent pixel.
With `IDENTITY` as the sampler the model is called once, and the latent is returned unchanged: with both, the
image is returned bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.latent_formats
import comfy.model_patcher
import comfy.supported_models
import torch
import torch.nn.functional as F
from torch import Tensor

from .random_models import random_state
from .unet import build_unet

CELL = 4  # image pixels to a latent pixel
CHANNELS = 3 * CELL * CELL
TEXT_WIDTH = 32
IDENTITY = "identity"

Model = comfy.model_patcher.ModelPatcher

_FLUX = {
    "in_channels": CHANNELS, "out_channels": CHANNELS, "vec_in_dim": 16, "context_in_dim": TEXT_WIDTH, "hidden_size": 32,
    "mlp_ratio": 2.0, "num_heads": 2, "depth": 1, "depth_single_blocks": 1, "axes_dim": [4, 6, 6], "theta": 10000,
    "patch_size": 2, "qkv_bias": True, "guidance_embed": False, "txt_ids_dims": [], "default_ref_method": "offset",
}  # fmt: skip
_FLUX2 = _FLUX | {
    "vec_in_dim": None, "axes_dim": [4, 4, 4, 4], "theta": 2000, "patch_size": 1, "qkv_bias": False, "ops_bias": False,
    "txt_ids_dims": [3], "global_modulation": True, "mlp_silu_act": True, "default_ref_method": "index", "ref_index_scale": 10.0,
}  # fmt: skip
_QWEN = {
    "patch_size": 2, "in_channels": 4 * CHANNELS, "out_channels": CHANNELS, "num_layers": 1, "attention_head_dim": 16,
    "num_attention_heads": 2, "joint_attention_dim": TEXT_WIDTH, "pooled_projection_dim": 16, "axes_dims_rope": (4, 6, 6),
}  # fmt: skip
_Z_IMAGE = {
    "patch_size": 2, "in_channels": CHANNELS, "dim": 256, "n_layers": 1, "n_refiner_layers": 1, "n_heads": 4, "n_kv_heads": 4,
    "multiple_of": 16, "ffn_dim_multiplier": 2.0, "qk_norm": True, "cap_feat_dim": TEXT_WIDTH, "axes_dims": [16, 24, 24],
    "axes_lens": [64, 64, 64], "rope_theta": 256.0, "z_image_modulation": True, "time_scale": 1000.0, "pad_tokens_multiple": 32,
}  # fmt: skip
_KREA = {
    "features": 64, "tdim": 16, "txtdim": TEXT_WIDTH, "heads": 4, "kvheads": 2, "layers": 1, "patch": 2, "channels": CHANNELS,
    "txtlayers": 1, "txtheads": 2, "txtkvheads": 2, "default_ref_method": "index",
}  # fmt: skip
_WAN = {
    "model_type": "t2v", "patch_size": (1, 2, 2), "text_len": 8, "in_dim": CHANNELS, "dim": 48, "ffn_dim": 64, "freq_dim": 16,
    "text_dim": TEXT_WIDTH, "out_dim": CHANNELS, "num_heads": 2, "num_layers": 1,
}  # fmt: skip
_ANIMA = {
    "max_img_h": 64, "max_img_w": 64, "max_frames": 4, "in_channels": CHANNELS, "out_channels": CHANNELS, "patch_spatial": 2,
    "patch_temporal": 1, "concat_padding_mask": True, "model_channels": 64, "num_blocks": 1, "num_heads": 2, "mlp_ratio": 2.0,
    "crossattn_emb_channels": 1024, "pos_emb_cls": "rope3d", "pos_emb_learnable": True, "use_adaln_lora": True,
    "adaln_lora_dim": 16, "rope_enable_fps_modulation": False,
}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """A family: the host's class, the configuration of its network,
    and the shapes of its latents and texts.
    """

    config: type[Any]
    network: dict[str, Any]
    has_time: bool = False
    text_width: int = TEXT_WIDTH

    def model(self) -> Model:
        """Build the model on latents of `IdentityVae`."""
        model = build_unet(self.config, self.network, _state)
        model.add_object_patch("latent_format", _format(self.has_time))
        return model

    def text(self, **options: Any) -> list[list[Any]]:
        """Return a random text with options, as conditioning."""
        generator = torch.Generator().manual_seed(1)
        context = torch.randn(1, 8, self.text_width, generator=generator)
        return [[context, {"pooled_output": torch.randn(1, 16, generator=generator), **options}]]


FAMILIES: dict[str, Family] = {
    "Flux": Family(comfy.supported_models.Flux, _FLUX),
    "Flux.2": Family(comfy.supported_models.Flux2, _FLUX2),
    "Qwen-Image": Family(comfy.supported_models.QwenImage, _QWEN, has_time=True),
    "Z-Image": Family(comfy.supported_models.ZImage, _Z_IMAGE),
    "Krea 2": Family(comfy.supported_models.Krea2, _KREA, has_time=True),
    "Anima": Family(comfy.supported_models.Anima, _ANIMA, has_time=True, text_width=1024),
    "Wan": Family(comfy.supported_models.WAN21_T2V, _WAN, has_time=True),
    "Wan image to video": Family(
        comfy.supported_models.WAN21_I2V,
        _WAN | {"model_type": "t2v", "in_dim": 2 * CHANNELS + 4},
        has_time=True,
    ),
}


class IdentityVae:
    """Images (B, H, W, 3) as latents (B, C, h, w), or with a time (1, C, B, h, w), and back.

    Attributes:
        encoded: what it was given so far.
    """

    latent_dim: int
    not_video = False

    def __init__(self, has_time: bool = False) -> None:
        self.latent_dim = 3 if has_time else 2
        self.encoded: list[Tensor] = []

    def encode(self, pictures: Tensor) -> Tensor:
        """Return the latents of images whose sides are multiples of the cell."""
        self.encoded.append(pictures)
        latents = F.pixel_unshuffle(pictures[..., :3].movedim(-1, 1), CELL)
        return latents.movedim(0, 1)[None].contiguous() if self.latent_dim == 3 else latents

    def decode(self, latents: Tensor) -> Tensor:
        """Return the images of latents: the inverse of `encode`."""
        if latents.dim() == 5:
            return F.pixel_shuffle(latents.movedim(1, 2), CELL).movedim(2, -1)
        return F.pixel_shuffle(latents, CELL).movedim(1, -1)

    def spacial_compression_encode(self) -> int:
        """Return the number of pixels of a latent pixel; the host's name."""
        return CELL

    def temporal_compression_decode(self) -> int:
        """Return the number of frames of a latent frame."""
        return 1


def sample_identity(
    model: Any,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any],
    callback: Callable[..., Any] | None = None,
    **_: Any,
) -> Tensor:
    """Call the model once and return the latent that was to be refined,
    under the signature of the host's samplers.
    """
    model(x, sigmas[0] * x.new_ones(len(x)), **extra_args)
    return model.latent_image


sample_identity.__module__ = "comfy.k_diffusion.sampling"  # those of the host take batches


def _format(has_time: bool) -> comfy.latent_formats.LatentFormat:
    made = comfy.latent_formats.LatentFormat()
    made.latent_channels, made.latent_dimensions = CHANNELS, 3 if has_time else 2
    return made


def _state(network: torch.nn.Module) -> dict[str, Tensor]:
    """Return random weights, without the adapter of texts, which is large and not used."""
    adapter = getattr(network, "llm_adapter", None)
    if adapter is not None:
        network.llm_adapter = torch.nn.Identity()  # type: ignore[assignment]
    return random_state(network, 0)
