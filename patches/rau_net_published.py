"""The published RAU-Net: its blocks, and its shares of the executed steps.

Source: HiDiffusion (arXiv 2311.17528v2) and its reference code.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TypedDict

from ..errors import bad_input
from ..record import record
from ..scaling.rau_net import Kind, Phases, published_phases
from .model_call import ModelCall
from .rau_net_settings import RAUNet
from .topology import Blocks, Topology

TURBO_SIDE = 64  # SDXL-Turbo was trained at 512 px


@record
class Published:
    """The reference code's blocks and shares of the executed steps, by the class of the image size."""

    upscale_mode: str = "nearest"
    ca_upscale_mode: str = "bicubic"
    turbo: bool = False

    def settings(self, call: ModelCall) -> RAUNet | None:
        """Return the reference's settings for a latent of this size; the reference acts at every size."""
        phases = published_phases(
            kind_of(call.topology), call.latent_size, turbo=self.turbo, control=call.has_control
        )
        return in_phases(call.topology, phases, self.upscale_mode, self.ca_upscale_mode)


@lru_cache(maxsize=16)
def in_phases(
    topology: Topology, phases: Phases, upscale_mode: str = "nearest", ca_upscale_mode: str = "bicubic"
) -> RAUNet:
    """Return the published rescalings, on in `phases`."""
    dilated, pooled = method_blocks(topology)
    return RAUNet(
        **pairs_of(topology, (dilated,), (pooled,)),
        time_mode="steps",
        start_time=phases.dilated[0],
        end_time=phases.dilated[1],
        ca_start_time=phases.pooled[0],
        ca_end_time=phases.pooled[1],
        upscale_mode=upscale_mode,
        ca_upscale_mode=ca_upscale_mode,
        ca_downscale_mode="avg_pool2d",
        ca_latent_pixel_increment=1,
    )


def kind_of(topology: Topology) -> Kind:
    """Return the published family: SDXL has no attention at the latent's own size."""
    return "sd" if topology.attention_level == 0 else "sdxl"


def method_blocks(topology: Topology) -> tuple[int, int]:
    """Return the published input blocks: the Downsample after the first attention level,
    and the pooled block.

    That is 3 and 4 for SD 1.x and 2.x, 6 and 4 for SDXL.

    Raises:
        ValueError: when there are no such blocks.
    """
    below = topology.attention_level + 1
    dilated = [i for i in topology.downsamplers if topology.inputs[i].level == below]
    pooled = [i for i, block in enumerate(topology.inputs) if block.transformers and block.level > 0]
    if not dilated or not pooled:
        expected, got = "a UNet with a Downsample below its first attention", "one without"
        raise bad_input("model", expected, got, "Use RAU-Net, where you choose the blocks.")
    return dilated[0], pooled[0]


class Pairs(TypedDict):
    """The four block lists of `RAUNet`."""

    input_blocks: Blocks
    output_blocks: Blocks
    ca_input_blocks: Blocks
    ca_output_blocks: Blocks


def pairs_of(
    topology: Topology, dilated: Sequence[int], pooled: Sequence[int], after_skip: bool = False
) -> Pairs:
    """Return the four block lists for the given input blocks."""
    return {
        "input_blocks": tuple(dilated),
        "output_blocks": tuple(topology.skip_partner(block) for block in dilated),
        "ca_input_blocks": tuple(pooled),
        "ca_output_blocks": tuple(ca_partners(topology, block, after_skip)[0] for block in pooled),
    }


def ca_partners(topology: Topology, block: int, after_skip: bool) -> Blocks:
    """Return the output blocks at which features pooled after `block` may be restored;
    the first is the usual one.

    If features are pooled before the skip, the skip is small too, and the next one is the first at full size.
    After a Downsample, the Upsample restores the size, and both numbers are used for it.
    """
    partner = topology.skip_partner(block)
    if after_skip:
        return (partner,)
    usual = partner + 1
    return (usual, partner) if topology.inputs[block].resample == "down" else (usual,)
