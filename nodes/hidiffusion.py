"""The node of HiDiffusion in one piece."""

from __future__ import annotations

from comfy_api.latest import io

from ..patches.hidiffusion import MODES, WINDOWS, HiDiffusion, apply_hidiffusion
from .sockets import model_socket, trained_size_socket


class MegapixelHiDiffusion(io.ComfyNode):
    """RAU-Net and MSW-MSA with everything chosen from the model and the size."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MegapixelHiDiffusion",
            display_name="HiDiffusion (Megapixel)",
            category="model/patch/unet",
            description=(
                "Large pictures without doubled objects, and faster: RAU-Net keeps the composition whole in the early "
                "steps, windowed attention (MSW-MSA) saves time in all of them. Blocks, windows and schedule are chosen "
                "from the model and the picture's size when sampling starts, and written to the log; at or below the "
                "trained size nothing is done."
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
                    options=list(MODES),
                    tooltip="auto goes by the picture's size relative to the size that the model was trained at. "
                    "published has the paper's shares of the steps and 2x2 windows.",
                ),
                io.Combo.Input(
                    "windows",
                    options=list(WINDOWS),
                    optional=True,
                    advanced=True,
                    tooltip="Windows of the self-attention. native: as many tokens each as the model was trained with, "
                    "the fastest at large sizes. 2x2: four, as published. off: none. auto: native, or 2x2 in published.",
                ),
                trained_size_socket("To measure by", "Type 512 for SDXL-Turbo."),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model, **settings) -> io.NodeOutput:
        return io.NodeOutput(apply_hidiffusion(model, HiDiffusion(**settings)))
