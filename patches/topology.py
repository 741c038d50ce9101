"""Topology: the blocks of a UNet, read once from the real module.

Block numbers from a user are checked against it, and automatic choices are read from it, so that no effect
needs a table per model family. Input blocks are numbered as ComfyUI does, from 0 (the stem); output block k
takes the skip of input block n - 1 - k.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from functools import cached_property
from typing import Any, Literal

from comfy.ldm.modules.attention import SpatialTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample, Upsample
from torch import nn

from ..errors import bad_input
from ..host.compat import original_module
from ..host.models import check_model
from ..record import record
from ..scaling.size import Size

Blocks = tuple[int, ...]  # numbers of blocks of one kind
BlockKind = Literal["input", "middle", "output"]
BlockId = tuple[BlockKind, int]
LayerId = tuple[BlockKind, int, int]  # kind of block, its number, depth in its transformers
Resample = Literal["down", "up"]


@record
class Block:
    """One input, middle or output block.

    `level` is how often the features of the block's layers before any Upsample were halved; `widths` are
    those of its attention layers, in the order in which they run; `resample` is set if it has a Downsample or
    an Upsample.
    """

    level: int
    widths: tuple[int, ...] = ()
    resample: Resample | None = None

    @property
    def transformers(self) -> int:
        """How many attention layers it has."""
        return len(self.widths)


@record(eq=False)
class Topology:
    """The blocks of a UNet in the order in which they run."""

    inputs: tuple[Block, ...]
    middle: Block
    outputs: tuple[Block, ...]

    @cached_property
    def blocks(self) -> dict[BlockId, Block]:
        """All blocks in the order in which they run."""
        blocks: dict[BlockId, Block] = {("input", number): block for number, block in enumerate(self.inputs)}
        blocks["middle", 0] = self.middle
        blocks.update({("output", number): block for number, block in enumerate(self.outputs)})
        return blocks

    @cached_property
    def layers(self) -> dict[LayerId, int]:
        """The width of every attention layer, in the order in which they run."""
        return {
            (*block_id, depth): width
            for block_id, block in self.blocks.items()
            for depth, width in enumerate(block.widths)
        }

    @property
    def downsamplers(self) -> tuple[int, ...]:
        """The input blocks with a Downsample, shallow to deep."""
        return tuple(i for i, block in enumerate(self.inputs) if block.resample == "down")

    @property
    def first_downsampler(self) -> int:
        """The shallowest input block with a Downsample.

        Raises:
            ValueError: when there is none.
        """
        if not self.downsamplers:
            raise bad_input("model", "a UNet with a Downsample", "one without", "Load another model.")
        return self.downsamplers[0]

    @property
    def attention_level(self) -> int:
        """The shallowest level with attention: 0 for SD 1.x and 2.x, 1 for SDXL.

        Raises:
            ValueError: when there is none.
        """
        levels = [block.level for block in self.inputs if block.transformers]
        if not levels:
            raise bad_input("model", "a UNet with attention", "one without", "Load another model.")
        return min(levels)

    def attention_inputs(self, level: int) -> tuple[int, ...]:
        """The input blocks with attention at `level`, in the order in which they run."""
        return tuple(i for i, b in enumerate(self.inputs) if b.transformers and b.level == level)

    def attention_outputs(self, level: int) -> tuple[int, ...]:
        """The output blocks with attention at `level`, in the order in which they run."""
        return tuple(i for i, b in enumerate(self.outputs) if b.transformers and b.level == level)

    def skip_partner(self, input_block: int) -> int:
        """Return the output block that takes the skip of `input_block`. Its own inverse."""
        return len(self.inputs) - 1 - input_block

    def feature_size(self, latent_size: Size, input_block: int) -> Size:
        """Return the (height, width) of the output of `input_block` without any effect."""
        return size_at(self.inputs[input_block].level, latent_size)

    def check_input_block(self, number: int, socket: str) -> None:
        """Raise unless features can be changed after input block `number`.

        Raises:
            ValueError: when this UNet has no such block.
        """
        last = len(self.inputs) - 1
        if not 1 <= number <= last:
            halving = " and ".join(map(str, self.downsamplers))
            hint = f"Choose one of its input blocks; blocks {halving} halve the features."
            raise bad_input(socket, f"1 to {last} for this UNet", number, hint)


def size_at(level: int, latent_size: Size) -> Size:
    """Return the (height, width) of unchanged features at a level:
    the latent's size halved `level` times, rounded up.
    """
    height, width = latent_size
    return -(-height >> level), -(-width >> level)  # stride 2 with padding 1 rounds up


def listed(blocks: Iterable[int]) -> str:
    """Return block numbers as text, as the nodes accept it, smallest first."""
    return ",".join(map(str, sorted(blocks))) or "none"


def topology_in(model: Any) -> Topology:
    """Read the topology of the UNet in a MODEL.

    Raises:
        ValueError: when it is not a MODEL, or has no UNet.
    """
    check_model(model)
    return topology_of(model.get_model_object("diffusion_model"))


def topology_of(model: nn.Module) -> Topology:
    """Read the topology of a UNet. Cached for as long as the module lives.

    Raises:
        ValueError: when `model` has no input and output blocks.
    """
    unet = original_module(model)
    if unet not in _TOPOLOGIES:
        _TOPOLOGIES[unet] = _read(unet)
    return _TOPOLOGIES[unet]


_TOPOLOGIES: weakref.WeakKeyDictionary[nn.Module, Topology] = weakref.WeakKeyDictionary()


def _read(unet: Any) -> Topology:
    if not (hasattr(unet, "input_blocks") and hasattr(unet, "output_blocks")):
        raise bad_input(
            "model",
            "an SD 1.x, SD 2.x or SDXL model",
            type(unet).__name__,
            "Models without a UNet (Flux, SD3, Qwen and others) have no features to downscale; for large "
            "images use the pack ComfyUI-DyPE.",
        )
    inputs: list[Block] = []
    level = 0
    for module in unet.input_blocks:
        down = _has(module, Downsample)
        level += down
        inputs.append(Block(level, _widths(module), "down" if down else None))
    middle = Block(level, () if unet.middle_block is None else _widths(unet.middle_block))
    outputs: list[Block] = []
    for module in unet.output_blocks:
        up = _has(module, Upsample)
        outputs.append(Block(level, _widths(module), "up" if up else None))
        level -= up
    return Topology(tuple(inputs), middle, tuple(outputs))


def _has(block: nn.Module, kind: type[nn.Module]) -> bool:
    return any(isinstance(layer, kind) for layer in block.children())


def _widths(block: Any) -> tuple[int, ...]:
    return tuple(attention.heads * attention.dim_head for attention in _cross_attentions(block))


def cross_attention(model: nn.Module, layer: LayerId) -> Any:
    """Return the module of a UNet's cross-attention."""
    kind, number, depth = layer
    unet = original_module(model)
    block = unet.middle_block if kind == "middle" else getattr(unet, f"{kind}_blocks")[number]
    return _cross_attentions(block)[depth]


def _cross_attentions(block: Any) -> list[Any]:
    transformers: list[Any] = [layer for layer in block.children() if isinstance(layer, SpatialTransformer)]
    return [each.attn2 for transformer in transformers for each in transformer.transformer_blocks]
