"""Topologies of the tiny UNets: the blocks of the real checkpoints at a tenth of their width.

Block counts, attention levels and transformer depths are those that the host detects in SD 1.5 and SDXL
checkpoints. The host's group norm has 32 groups, so 32 is the least width.
"""

from typing import Any

UnetConfig = dict[str, Any]

_COMMON: UnetConfig = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "use_spatial_transformer": True,
    "use_temporal_attention": False,
    "legacy": False,
}

SD15: UnetConfig = _COMMON | {
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": (1, 2, 4, 4),
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "transformer_depth_middle": 1,
    "use_linear_in_transformer": False,
    "context_dim": 768,
    "num_heads": 2,
    "num_head_channels": -1,
    "adm_in_channels": None,
}

SDXL: UnetConfig = _COMMON | {
    "num_res_blocks": [2, 2, 2],
    "channel_mult": (1, 2, 4),
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "transformer_depth_middle": 10,
    "use_linear_in_transformer": True,
    "context_dim": 2048,
    "num_heads": -1,
    "num_head_channels": 16,
    "num_classes": "sequential",
    "adm_in_channels": 2816,
}
"""Pooled text of 1280 and six size embeddings of 256 make the 2816 ``adm_in_channels``."""

SHALLOW: UnetConfig = {
    "transformer_depth": [0, 0, 2, 2, 1, 1],
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 1, 1, 1],
    "transformer_depth_middle": 1,
}
"""What differs in an SDXL whose deepest transformers have one layer in place of ten: the same blocks in a third
of the time.
"""

SHORT: UnetConfig = {
    "num_res_blocks": [1, 1, 1],
    "channel_mult": (1, 2, 4),
    "transformer_depth": [1, 1, 0],
    "transformer_depth_output": [1, 1, 1, 1, 0, 0],
}
"""What differs in an SD 1.5 of six input blocks, 2 and 4 of them with a Downsample: half the time."""

TWO_LEVELS: UnetConfig = {
    "num_res_blocks": [1, 1],
    "channel_mult": (1, 2),
    "transformer_depth": [0, 1],
    "transformer_depth_output": [0, 0, 1, 1],
    "transformer_depth_middle": 1,
}
"""What differs in a UNet of four input blocks, 2 with a Downsample and 3 with attention: traced in seconds."""

SMALLEST: UnetConfig = {
    "num_res_blocks": [1, 0],
    "channel_mult": (1, 1),
    "transformer_depth": [1],
    "transformer_depth_output": [0, 0, 0],
    "transformer_depth_middle": -2,
}
"""What differs in a UNet of three input blocks, 1 with attention and 2 with a Downsample, and no middle block."""

TRAINED: dict[str, UnetConfig] = {"sd15": SD15, "sdxl": SDXL | {"channel_mult": (1, 2, 2)}}
"""Of the trained models, unless their files differ. SDXL's deepest level has half its width."""


def controlnet_config(unet: UnetConfig, hint_channels: int = 3) -> UnetConfig:
    """Return the configuration of a UNet's ControlNet: encoder and middle, with the hint's channels."""
    decoder_only = {"out_channels", "transformer_depth_output", "use_temporal_attention"}
    encoder = {key: value for key, value in unet.items() if key not in decoder_only}
    return encoder | {"hint_channels": hint_channels}
