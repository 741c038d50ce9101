"""The node of HiDiffusion, with automatic settings."""

from __future__ import annotations

from typing import get_args

from comfy_api.latest import io

from ..patches.hidiffusion import HiDiffusion, Mode, WindowChoice, apply_hidiffusion
from .sockets import model_socket, trained_size_socket


class MegapixelHiDiffusion(io.ComfyNode):
    """Downscaled features and MSW-MSA, or the published RAU-Net,
    with all settings chosen from the model and the size.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MegapixelHiDiffusion",
            display_name="HiDiffusion (Megapixel)",
            category="model/patch/unet",
            description=(
                "Keeps large images coherent and samples them faster. It downscales the UNet's features "
                "while the composition forms, and runs self-attention in windows (MSW-MSA). All settings "
                "are automatic: they follow from the model and the image size and are written to the log. "
                "At or below the trained size it does nothing."
            ),
            search_aliases=[
                "HiDiffusion",
                "RAUNet",
                "MSW-MSA",
                "jankhidiffusion",
                "hires fix",
                "high resolution",
            ],
            inputs=[
                model_socket(),
                io.Combo.Input(
                    "mode",
                    options=list(get_args(Mode)),
                    tooltip="auto: downscales like Deep Shrink in auto, to the trained size. published: "
                    "downscales like RAU-Net, with the blocks, schedule and 2x2 windows of HiDiffusion's "
                    "paper.",
                ),
                io.Combo.Input(
                    "windows",
                    options=list(get_args(WindowChoice)),
                    optional=True,
                    advanced=True,
                    tooltip="Windows of the self-attention. native: each window has as many tokens as the "
                    "model was trained with; fastest at large sizes. 2x2: four windows, as published. off: "
                    "no windows. auto: native, or 2x2 in published mode.",
                ),
                trained_size_socket("Used in both modes", "Set 512 for SDXL-Turbo."),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model, **settings) -> io.NodeOutput:
        return io.NodeOutput(apply_hidiffusion(model, HiDiffusion(**settings)))
