"""The node of Deep Shrink."""

from __future__ import annotations

from typing import get_args

from comfy_api.latest import io

from ..host.compat import SHOWN_AGAIN
from ..host.notice import patched_model
from ..patches.deep_shrink import DeepShrink, Mode, ScaleMethod, apply_deep_shrink, never_on
from .sockets import model_socket, trained_size_socket


class MegapixelDeepShrink(io.ComfyNode):
    """The inputs of the original node, followed by `mode`, `fade_percent` and `trained_size`."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MegapixelDeepShrink",
            display_name="Deep Shrink (Megapixel)",
            category="model/patch/unet",
            description=(
                "Keeps images larger than the model's trained size coherent: it downscales the UNet's "
                "features in the early steps, so objects are not duplicated. Set mode to auto to choose the "
                "factor from the model and the image size. At or below the trained size, auto does nothing."
            ),
            search_aliases=["PatchModelAddDownscale", "Kohya Deep Shrink", "hires fix", "high resolution"],
            inputs=[
                model_socket(),
                io.Int.Input(
                    "block_number",
                    default=3,
                    min=1,
                    max=32,
                    advanced=True,
                    tooltip="Input block after which the features are downscaled. 3 (the first at half "
                    "resolution) suits SD 1.x and SDXL; lower numbers are faster and coarser. Ignored in "
                    "auto.",
                ),
                io.Float.Input(
                    "downscale_factor",
                    default=2.0,
                    min=0.1,
                    max=9.0,
                    step=0.001,
                    tooltip="Factor by which the features are downscaled: image side divided by trained "
                    "side, so 2 for 1024 px on an SD 1.5 model. 1 changes nothing. Ignored in auto.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    advanced=True,
                    tooltip="Start of the effect, as a share of sampling. 0 is the first step. Ignored in "
                    "auto.",
                ),
                io.Float.Input(
                    "end_percent",
                    default=0.35,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    advanced=True,
                    tooltip="End of the effect, as a share of sampling. Higher values (0.5 to 0.7) leave "
                    "fewer duplicated objects, lower values give sharper images; 1 keeps it on to the last "
                    "step. Ignored in auto.",
                ),
                io.Boolean.Input(
                    "downscale_after_skip",
                    default=True,
                    advanced=True,
                    tooltip="On: the block's skip connection keeps its full size. Off: it is downscaled "
                    "too. Ignored in auto.",
                ),
                io.Combo.Input(
                    "downscale_method",
                    options=list(get_args(ScaleMethod)),
                    advanced=True,
                    tooltip="Interpolation for downscaling the features. Bicubic is the default of the "
                    "original node, and auto always uses it.",
                ),
                io.Combo.Input(
                    "upscale_method",
                    options=list(get_args(ScaleMethod)),
                    advanced=True,
                    tooltip="Interpolation for upscaling the features again. Bicubic is the default of the "
                    "original node, and auto always uses it.",
                ),
                io.Combo.Input(
                    "mode",
                    options=list(get_args(Mode)),
                    default="manual",
                    optional=True,
                    tooltip="manual: uses the settings above. auto: block 3 from 0 to 0.35, as published by "
                    "the method's author, with the factor that fits the image size; it is chosen when "
                    "sampling starts and written to the log.",
                ),
                io.Float.Input(
                    "fade_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    optional=True,
                    advanced=True,
                    tooltip="Fade-out after end_percent: the factor falls to 1 over this share of sampling. "
                    "0 stops at once. Ignored in auto.",
                ),
                trained_size_socket("For auto"),
            ],
            outputs=[io.Model.Output()],
            **SHOWN_AGAIN,
        )

    @classmethod
    def execute(cls, model, **settings) -> io.NodeOutput:
        config = DeepShrink(**settings)
        return patched_model("Deep Shrink", apply_deep_shrink(model, config), never_on(config))
