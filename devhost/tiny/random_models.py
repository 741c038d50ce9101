"""Tiny models with random weights from the host's real classes, for tests of shapes, hooks and call orders.

Their results are meaningless, but the host and a patch treat them as a real checkpoint. Without training the
latents grow large (a deviation of 150 and more), so compare them relatively.
"""

import json
from pathlib import Path
from typing import Any

import comfy.cldm.cldm
import comfy.controlnet
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import comfy.supported_models_base
import torch
from comfy.ldm.models.autoencoder import AutoencoderKL
from comfy.t2i_adapter.adapter import Adapter

from . import topology
from .unet import build_unet

POOLED_WIDTH = 1280
TOKENS = 13
"""Of a text in tests; a real one has 77, which at this width are most of the work."""


def random_state(module: torch.nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """Return weights that keep a signal's scale: neutral norms, zero biases, the rest normal by fan-in."""
    generator = torch.Generator().manual_seed(seed)

    def draw(name: str, shape: torch.Size) -> torch.Tensor:
        if len(shape) <= 1:
            return torch.full(shape, 1.0 if name.endswith("weight") else 0.0)
        return torch.randn(shape, generator=generator) * shape[1:].numel() ** -0.5

    return {name: draw(name, value.shape) for name, value in module.named_parameters()}


def sd15(seed: int = 0, **unet: Any) -> comfy.model_patcher.ModelPatcher:
    """Build a tiny SD 1.5; keywords replace entries of the UNet's configuration."""
    return _random_unet(comfy.supported_models.SD15, topology.SD15 | unet, seed)


def sdxl(seed: int = 0, **unet: Any) -> comfy.model_patcher.ModelPatcher:
    """Build a tiny SDXL; keywords replace entries of the UNet's configuration."""
    return _random_unet(comfy.supported_models.SDXL, topology.SDXL | unet, seed)


class _Zero123(comfy.supported_models.Stable_Zero123):
    def get_model(self, state_dict: Any, prefix: str = "", device: Any = None) -> Any:
        generator = torch.Generator().manual_seed(0)
        projection = {
            "cc_projection.weight": torch.randn(768, 772, generator=generator) * 772**-0.5,
            "cc_projection.bias": torch.zeros(768),
        }
        return super().get_model(projection, prefix, device)


def zero123(seed: int = 0) -> comfy.model_patcher.ModelPatcher:
    """Build a tiny Stable Zero123: an SD 1.5 that also reads the latent of a picture."""
    return _random_unet(_Zero123, topology.SD15 | {"in_channels": 8}, seed)


def _random_unet(
    family: type[comfy.supported_models_base.BASE], unet: topology.UnetConfig, seed: int
) -> comfy.model_patcher.ModelPatcher:
    return build_unet(family, unet, lambda network: random_state(network, seed))


def conditioning(
    model: comfy.model_patcher.ModelPatcher, seed: int = 0, tokens: int = TOKENS, batch: int = 1, **extra: Any
) -> list[list[Any]]:
    """Return random conditioning (batch, tokens, context width) for ``model``, with pooled text for SDXL."""
    generator = torch.Generator().manual_seed(seed)
    unet = model.model.model_config.unet_config
    options: dict[str, Any] = {}
    if unet["adm_in_channels"]:
        options["pooled_output"] = torch.randn(batch, POOLED_WIDTH, generator=generator)
    context = torch.randn(batch, tokens, unet["context_dim"], generator=generator)
    return [[context, options | extra]]


def controlnet(
    unet: topology.UnetConfig = topology.SD15, seed: int = 0, hint_channels: int = 3, effect: float = 1.0
) -> comfy.controlnet.ControlNet:
    """Build a ControlNet for a UNet of that topology.

    Its output layers are random too, scaled by ``effect``: untrained ones are zero and would change nothing.
    """
    config = topology.controlnet_config(unet, hint_channels)
    network = comfy.cldm.cldm.ControlNet(
        **config, dtype=torch.float32, operations=comfy.ops.disable_weight_init
    ).eval()
    control = comfy.controlnet.ControlNet(network, load_device=comfy.model_management.get_torch_device())
    state = random_state(network, seed)
    for name in state:
        if name.startswith(("zero_convs.", "middle_block_out.")):
            state[name] *= effect
    network.load_state_dict(state, assign=control.control_model_wrapped.is_dynamic())
    return control


def t2i_adapter(is_sdxl: bool = False, seed: int = 0) -> comfy.controlnet.T2IAdapter:
    """Build a T2I-Adapter for a UNet as narrow as ours, of three colours, as the host reads one from a file."""
    width, cin = 32, 768 if is_sdxl else 192
    channels = [width, 2 * width, 4 * width, 4 * width]
    network = Adapter(channels, nums_rb=2, cin=cin, ksize=1, sk=True, use_conv=False, xl=is_sdxl)
    control = comfy.controlnet.load_t2i_adapter(random_state(network, seed))
    assert control is not None
    return control


def vae(seed: int = 0, width: int = 32) -> comfy.sd.VAE:
    """Build a VAE of the usual kind: 8 pixels and 4 channels a latent pixel."""
    layers = {
        "double_z": True,
        "z_channels": 4,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": width,
        "ch_mult": [1, 1, 1, 1],
        "num_res_blocks": 1,
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    params = {"ddconfig": layers, "embed_dim": 4}
    return comfy.sd.VAE(sd=random_state(AutoencoderKL(**params), seed), config={"params": params})


def clip(seed: int = 0) -> comfy.sd.CLIP:
    """Build a CLIP-L of three narrow layers with the real tokenizer, so prompts are tokenised as usual."""
    target = comfy.supported_models_base.ClipTarget(comfy.sd1_clip.SD1Tokenizer, _TinySD1Clip)
    encoder = comfy.sd.CLIP(target, model_options={"dtype": torch.float32})
    encoder.load_sd(random_state(encoder.cond_stage_model, seed), full_model=True)
    return encoder


class _TinyClipL(comfy.sd1_clip.SDClipModel):
    def __init__(self, **options: Any) -> None:
        full = json.loads((Path(comfy.sd1_clip.__file__).parent / "sd1_clip_config.json").read_text())
        narrow = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
        config = full | narrow | {"num_hidden_layers": 3}
        super().__init__(textmodel_json_config=config, layer="hidden", layer_idx=-2, **options)


class _TinySD1Clip(comfy.sd1_clip.SD1ClipModel):
    def __init__(self, **options: Any) -> None:
        super().__init__(clip_model=_TinyClipL, **options)  # pyright: ignore[reportArgumentType]


def flux(seed: int = 0) -> comfy.model_patcher.ModelPatcher:
    """Build a tiny Flux: a transformer without input blocks, which no UNet effect fits."""
    config = {
        "in_channels": 16, "out_channels": 16, "vec_in_dim": 16, "context_in_dim": 32, "hidden_size": 32,
        "mlp_ratio": 2.0, "num_heads": 2, "depth": 1, "depth_single_blocks": 1, "axes_dim": [4, 6, 6],
        "theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": False, "txt_ids_dims": [],
    }  # fmt: skip
    return build_unet(comfy.supported_models.Flux, config, lambda network: random_state(network, seed))
