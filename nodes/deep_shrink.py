"""The node of Deep Shrink."""

from __future__ import annotations

from typing import get_args

from comfy_api.latest import io

from ..host.compat import SHOWN_AGAIN
from ..host.notice import patched_model
from ..patches.deep_shrink import DeepShrink, Mode, ScaleMethod, apply_deep_shrink, never_on
from .sockets import model_socket, trained_size_socket


class MegapixelDeepShrink(io.ComfyNode):
    """The original Deep Shrink, with `mode`, `fade_percent` and `trained_size` after its inputs."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MegapixelDeepShrink",
            display_name="Deep Shrink (Megapixel)",
            category="model/patch/unet",
            description=(
                "Keeps the composition whole in pictures larger than the model was trained for: the UNet's features "
                "shrink in the early steps, so objects are not drawn twice. Set mode to auto to have the factor chosen "
                "from the model and the image's size; at or below the trained size it then does nothing."
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
                    tooltip="Input block after which the features shrink. 3 (the first at half resolution) suits SD "
                    "1.x and SDXL; smaller numbers are faster and coarser. Ignored in auto.",
                ),
                io.Float.Input(
                    "downscale_factor",
                    default=2.0,
                    min=0.1,
                    max=9.0,
                    step=0.001,
                    tooltip="How far the features shrink: picture side divided by trained side, so 2 for 1024 px on "
                    "an SD 1.5 model. 1 changes nothing. Ignored in auto.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    advanced=True,
                    tooltip="When the shrink begins, as a share of sampling. 0 is the first step. Ignored in auto.",
                ),
                io.Float.Input(
                    "end_percent",
                    default=0.35,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    advanced=True,
                    tooltip="When the shrink ends. Later (0.5 to 0.7) is safer against doubled objects, earlier is "
                    "sharper. Ignored in auto.",
                ),
                io.Boolean.Input(
                    "downscale_after_skip",
                    default=True,
                    advanced=True,
                    tooltip="On: the block's skip connection keeps its full size. Off: it shrinks as well. Ignored in auto.",
                ),
                io.Combo.Input(
                    "downscale_method",
                    options=list(get_args(ScaleMethod)),
                    advanced=True,
                    tooltip="How the features are made smaller. Bicubic is the known default, and auto takes it.",
                ),
                io.Combo.Input(
                    "upscale_method",
                    options=list(get_args(ScaleMethod)),
                    advanced=True,
                    tooltip="How the features are made larger again. Bicubic is the known default, and auto takes it.",
                ),
                io.Combo.Input(
                    "mode",
                    options=list(get_args(Mode)),
                    default="manual",
                    optional=True,
                    tooltip="manual uses the numbers above. auto takes the published ones and the factor that fits the "
                    "image's size when sampling starts, and writes them to the log.",
                ),
                io.Float.Input(
                    "fade_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    optional=True,
                    advanced=True,
                    tooltip="After end_percent the factor falls to 1 over this share of sampling instead of at once. "
                    "0 is a hard stop. Ignored in auto.",
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
