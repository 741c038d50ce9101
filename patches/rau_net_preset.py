"""The preset of the original simple node (`ApplyRAUNetSimple`)."""

from __future__ import annotations

from typing import Literal

from .rau_net_published import kind_of, pairs_of
from .rau_net_settings import RAUNet
from .topology import Topology

Resolution = Literal["low", "high", "ultra"]


def original_preset(
    topology: Topology,
    resolution: Resolution,
    upscale_mode: str = "bicubic",
    ca_upscale_mode: str = "bicubic",
) -> RAUNet:
    """Return the settings for a resolution, their blocks read from the topology."""
    is_sd = kind_of(topology) == "sd"
    windows: dict[Resolution, tuple[float, float]] = {
        "low": (0.4, 0.0) if is_sd else (0.0, 0.0),
        "high": (0.5, 0.35) if is_sd else (0.0, 0.5),
        "ultra": (0.6, 0.45) if is_sd else (0.45, 0.6),
    }
    end, ca_end = windows[resolution]
    first_attention = topology.attention_inputs(topology.attention_level)[0]
    return RAUNet(
        **pairs_of(topology, topology.downsamplers[:1] if end else (), (first_attention,) if ca_end else ()),
        end_time=end,
        ca_end_time=ca_end,
        ca_downscale_mode="avg_pool2d",
        upscale_mode=upscale_mode,
        ca_upscale_mode=ca_upscale_mode,
    )
