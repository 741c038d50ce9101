"""Random InstantID weights under the published names, with a narrow resampler, for a tiny UNet.

The ControlNet that belongs to it is any ControlNet of that UNet, see :func:`.random_models.controlnet`.
"""

import torch

from .topology import SDXL, UnetConfig

EMBEDDING = 512
TOKENS = 16
WIDTH = 128
HEADS = 2
DEPTH = 2

State = dict[str, torch.Tensor]


def attention_widths(unet: UnetConfig = SDXL) -> list[int]:
    """Return the width of each cross-attention of a UNet: input blocks, output blocks, middle block."""
    widths = [unet["model_channels"] * factor for factor in unet["channel_mult"]]
    blocks = unet["num_res_blocks"]
    inputs = [width for width, count in zip(widths, blocks, strict=True) for _ in range(count)]
    outputs = [width for width, count in zip(widths, blocks, strict=True) for _ in range(count + 1)]
    pairs = [
        *zip(unet["transformer_depth"], inputs, strict=True),
        *zip(reversed(unet["transformer_depth_output"]), reversed(outputs), strict=True),
        (unet["transformer_depth_middle"], widths[-1]),
    ]
    return [width for depth, width in pairs for _ in range(depth)]


def instant_id_state(unet: UnetConfig = SDXL, seed: int = 0, tokens: int = TOKENS) -> State:
    """Return weights by their flat names, as in a .safetensors file."""
    generator = torch.Generator().manual_seed(seed)
    context = unet["context_dim"]

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * shape[-1] ** -0.5

    def norm(name: str, width: int) -> State:
        return {f"{name}.weight": 1 + 0.1 * draw(width), f"{name}.bias": draw(width)}

    state: State = {
        "latents": draw(1, tokens, WIDTH),
        "proj_in.weight": draw(WIDTH, EMBEDDING),
        "proj_in.bias": draw(WIDTH),
        "proj_out.weight": draw(context, WIDTH),
        "proj_out.bias": draw(context),
        **norm("norm_out", context),
    }
    for i in range(DEPTH):
        state |= norm(f"layers.{i}.0.norm1", WIDTH) | norm(f"layers.{i}.0.norm2", WIDTH)
        state |= {
            f"layers.{i}.0.to_q.weight": draw(WIDTH, WIDTH),
            f"layers.{i}.0.to_kv.weight": draw(2 * WIDTH, WIDTH),
            f"layers.{i}.0.to_out.weight": draw(WIDTH, WIDTH),
            **norm(f"layers.{i}.1.0", WIDTH),
            f"layers.{i}.1.1.weight": draw(4 * WIDTH, WIDTH),
            f"layers.{i}.1.3.weight": draw(WIDTH, 4 * WIDTH),
        }
    state = {f"image_proj.{name}": value for name, value in state.items()}
    for number, width in enumerate(attention_widths(unet)):
        for name in ("to_k_ip", "to_v_ip"):
            state[f"ip_adapter.{2 * number + 1}.{name}.weight"] = draw(width, context)
    return state


def as_bin(state: State) -> dict[str, State]:
    """Return weights as the published .bin file nests them."""
    return {
        part: {name.removeprefix(f"{part}."): value for name, value in state.items() if name.startswith(part)}
        for part in ("image_proj", "ip_adapter")
    }
