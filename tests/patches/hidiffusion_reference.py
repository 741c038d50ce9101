"""HiDiffusion written out slowly: what its reference code does, step by step,
on the layers of the host's own UNet.

It shares nothing with the code under test. It walks the UNet's blocks by hand, takes every attention apart
into its projections, and follows the published rules literally: which step has which pair on, what the pairs
do to the features, and which tokens see each other. The one part that is ours is the window form for odd
sizes, where the reference code resizes the features: two windows of half a side, rounded up, that share one
row or column.

How far the windows are moved is an argument, for the method draws that at random.

B C H W are batch, channels, height, width of the features; tokens are (B, H * W, D), row after row.
"""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from comfy.ldm.modules.attention import SpatialTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample, ResBlock, Upsample

# The blocks of the method. `pooled` shrinks after its input block, `restored` grows before its output block.
DILATED = {"sd15": 3, "sd21": 3, "sdxl": 6}
POOLED = {"sd15": 4, "sd21": 4, "sdxl": 4}
RESTORED = {"sd15": 8, "sd21": 8, "sdxl": 5}

_SD_WINDOWS = [("input", 1, 0), ("input", 2, 0), ("output", 9, 0), ("output", 10, 0), ("output", 11, 0)]
_SDXL_WINDOWS = [
    (kind, block, layer) for kind, blocks in (("input", (4, 5)), ("output", (3, 4, 5))) for block in blocks
    for layer in (0, 1)
]  # fmt: skip
WINDOWED = {"sd15": _SD_WINDOWS, "sd21": _SD_WINDOWS, "sdxl": _SDXL_WINDOWS}

LARGE_SIDE = {"sd15": 256, "sd21": 256, "sdxl": 512}


def pairs_on(family, latent_size, step, steps, large_side=None):
    """Return whether (the dilated pair, the pooled pair) is on in a step, counted from 0,
    of a run without control.
    """
    large = min(latent_size) >= (LARGE_SIDE[family] if large_side is None else large_side)
    if family == "sdxl" and not large:
        change, end = int(8 / 50 * steps), int(0.4 * steps)
        return step < change, change <= step < end
    if family == "sdxl":
        return step < int(0.3 * steps), step < int(0.7 * steps)
    if large:
        return step < int(0.7 * steps), step < int(0.3 * steps)
    return step < int(0.4 * steps), False


def unet_output(unet, family, x, timesteps, context, y=None, *, dilated=False, pooled=False, quarters=None):
    """Return what `unet` gives for `x` with the chosen pairs on.

    `quarters` tells by (kind of block, block, layer) how many quarters of a window that layer's windows are
    moved; None leaves all attention whole.
    """
    emb = unet.time_embed(_time_embedding(timesteps, unet.model_channels))
    if y is not None:
        emb = emb + unet.label_emb(y)
    layers = _Layers(family, emb, context, quarters or {})
    h, skips = _way_down(
        unet, layers, x, DILATED[family] if dilated else None, POOLED[family] if pooled else None
    )
    for layer in unet.middle_block:
        h = layers.run(layer, h, ("middle", 0))
    h = _way_up(unet, layers, h, skips, RESTORED[family] if pooled else None)
    return unet.out(h)


def _way_down(unet, layers, h, dilated_block, pooled_block):
    """Return the features behind the last input block, and the skips."""
    skips = []
    for number, block in enumerate(unet.input_blocks):
        for layer in block:
            if number == dilated_block and isinstance(layer, Downsample):
                h = F.conv2d(h, layer.op.weight, layer.op.bias, stride=4, padding=2, dilation=2)
            else:
                h = layers.run(layer, h, ("input", number))
        if number == pooled_block:
            # Ahead of the skip: the hidden state that the reference keeps for the way back is the pooled one.
            h = F.avg_pool2d(h, 2, ceil_mode=True)
        skips.append(h)
    return h, skips


def _way_up(unet, layers, h, skips, restored_block):
    for number, block in enumerate(unet.output_blocks):
        skip = skips.pop()
        if number == restored_block:
            h = F.interpolate(h, size=skip.shape[-2:], mode="bicubic")
        if h.shape[-2:] != skip.shape[-2:]:
            raise AssertionError(f"output {number}: features {h.shape} meet a skip {skip.shape}")
        h = torch.cat([h, skip], dim=1)
        for layer in block:
            if isinstance(layer, Upsample):
                h = layer.conv(F.interpolate(h, size=skips[-1].shape[-2:], mode="nearest"))
            else:
                h = layers.run(layer, h, ("output", number))
    return h


def _time_embedding(timesteps, width):
    frequencies = torch.exp(-math.log(10000) * torch.arange(width // 2, dtype=torch.float32) / (width // 2))
    angles = timesteps[:, None].float() * frequencies[None]
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class _Layers:
    """The layers that the pairs do not touch, in one call."""

    def __init__(self, family, emb, context, quarters):
        self.windowed = WINDOWED[family]
        self.emb = emb
        self.context = context
        self.quarters = quarters

    def run(self, layer, h, place):
        if isinstance(layer, ResBlock):
            return layer(h, self.emb)
        if isinstance(layer, SpatialTransformer):
            return self.transformer(layer, h, place)
        return layer(h)

    def transformer(self, layer, h, place):
        batch, _, height, width = h.shape
        tokens = layer.norm(h)
        if not layer.use_linear:
            tokens = layer.proj_in(tokens)
        tokens = tokens.permute(0, 2, 3, 1).reshape(batch, height * width, -1)
        if layer.use_linear:
            tokens = layer.proj_in(tokens)
        for index, block in enumerate(layer.transformer_blocks):
            quarter = None
            if (*place, index) in self.windowed:
                quarter = self.quarters.get((*place, index))
            tokens = tokens + self_attention(block.attn1, block.norm1(tokens), (height, width), quarter)
            tokens = tokens + block.attn2(block.norm2(tokens), context=self.context)
            tokens = tokens + block.ff(block.norm3(tokens))
        if layer.use_linear:
            tokens = layer.proj_out(tokens)
        tokens = tokens.reshape(batch, height, width, -1).permute(0, 3, 1, 2)
        if not layer.use_linear:
            tokens = layer.proj_out(tokens)
        return h + tokens


def self_attention(attention, tokens, size, quarter):
    """Attend within 2x2 windows moved by `quarter`, or among all tokens where it is None."""
    q, k, v = attention.to_q(tokens), attention.to_k(tokens), attention.to_v(tokens)
    if quarter is None:
        out = dense_attention(q, k, v, attention.heads)
    elif size[0] % 2 == 0 and size[1] % 2 == 0:
        out = published_windows(q, k, v, attention.heads, size, quarter)
    else:
        out = dense_attention(q, k, v, attention.heads, window_mask(size, quarter))
    return attention.to_out(out)


def dense_attention(q, k, v, heads, mask=None):
    """softmax(q k^T / sqrt(D)) v, head by head; `mask` (N, N) is true where a query sees a key."""
    results = []
    for one_q, one_k, one_v in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True):
        scores = one_q @ one_k.transpose(1, 2) / one_q.shape[-1] ** 0.5
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf)
        results.append(scores.softmax(-1) @ one_v)
    return torch.cat(results, -1)


def published_windows(q, k, v, heads, size, quarter):
    """The published form for even sizes: roll, reshape into four windows, attend in each,
    reshape and roll back.
    """
    height, width = size
    window = height // 2, width // 2
    shift = quarter * (window[0] // 4), quarter * (window[1] // 4)

    def cut(tokens):
        grid = tokens.reshape(tokens.shape[0], height, width, -1).roll((-shift[0], -shift[1]), (1, 2))
        top, bottom = grid[:, : window[0]], grid[:, window[0] :]
        parts = [
            half[:, :, part] for half in (top, bottom) for part in (slice(window[1]), slice(window[1], None))
        ]
        return [part.flatten(1, 2) for part in parts]

    done = [
        dense_attention(*parts, heads).unflatten(1, window)
        for parts in zip(cut(q), cut(k), cut(v), strict=True)
    ]
    grid = torch.cat([torch.cat(done[:2], 2), torch.cat(done[2:], 2)], 1)
    return grid.roll(shift, (1, 2)).flatten(1, 2)


@cache
def window_mask(size, quarter):
    """Return (N, N): whether a query sees a key, by the row and the column of both."""
    rows, columns = (_seen_along(length, quarter) for length in size)
    seen = rows[:, None, :, None] & columns[None, :, None, :]
    return seen.reshape(size[0] * size[1], size[0] * size[1])


def _seen_along(length, quarter):
    """For one side, the same by place: the two windows lie at both ends of the moved side."""
    window = math.ceil(length / 2)
    shift = quarter * (window // 4)
    seen = torch.zeros(length, length, dtype=torch.bool)
    for query in range(length):
        # The middle place of an odd side is as near to either window's centre, and belongs to the first.
        begin = 0 if (query - shift) % length < window else length - window
        for moved in range(begin, begin + window):
            seen[query, (moved + shift) % length] = True
    return seen
