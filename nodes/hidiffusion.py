"""The node of HiDiffusion in one piece."""

from __future__ import annotations

from typing import get_args

from comfy_api.latest import io

from ..patches.hidiffusion import HiDiffusion, Mode, WindowChoice, apply_hidiffusion
from .sockets import model_socket, trained_size_socket


class MegapixelHiDiffusion(io.ComfyNode):
    """Small features and MSW-MSA, or the published RAU-Net, with everything chosen from the model and the size."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MegapixelHiDiffusion",
            display_name="HiDiffusion (Megapixel)",
            category="model/patch/unet",
            description=(
                "Large pictures without doubled objects, and faster: small features keep the composition whole while it "
                "forms, windowed attention (MSW-MSA) saves time in all steps. Blocks, windows and schedule are chosen "
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
                    options=list(get_args(Mode)),
                    tooltip="auto makes the features as small as the model was trained at, by the picture's size. "
                    "published is the paper's RAU-Net: its blocks, its shares of the steps and 2x2 windows.",
                ),
                io.Combo.Input(
                    "windows",
                    options=list(get_args(WindowChoice)),
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
