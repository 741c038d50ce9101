"""The nodes of RAU-Net: with all settings, and with the original pack's or the paper's presets."""

from __future__ import annotations

from typing import Any, get_args

from comfy_api.latest import io

from ..errors import bad_input
from ..host.compat import SHOWN_AGAIN
from ..host.notice import patched_model
from ..host.parameter_text import LEVEL, SWITCH, read_parameters
from ..host.scale_modes import scale_modes
from ..patches.executed_steps import schedule_in
from ..patches.rau_net import apply_rau_net
from ..patches.rau_net_effect import never_on
from ..patches.rau_net_preset import original_preset
from ..patches.rau_net_published import Published, kind_of
from ..patches.rau_net_settings import Pool, RAUNet
from ..patches.topology import Topology, topology_in
from .hidiffusion_sockets import (
    blocks_socket,
    check_model_type,
    model_type_socket,
    multiplier_socket,
    parameters_socket,
    parse_blocks,
    time_mode_socket,
    time_socket,
)
from .sockets import model_socket

OFF = -1.0  # no valid time
MULTIPLIERS = {
    "pre_upscale_multiplier": "the features before the Upsample",
    "post_upscale_multiplier": "the features after the Upsample",
    "pre_downscale_multiplier": "the features before the Downsample with stride 4",
    "post_downscale_multiplier": "the features after the Downsample with stride 4",
    "ca_pre_upscale_multiplier": "the features before the CA pair upscales them",
    "ca_post_upscale_multiplier": "the features after the CA pair upscales them",
    "ca_pre_downscale_multiplier": "the features before the CA pair pools them",
    "ca_post_downscale_multiplier": "the features after the CA pair pools them",
}
UNUSED = {"ca_output_sigma_hack": SWITCH, "verbose": LEVEL}
NULLABLE = ("ca_fadeout_start_time", "ca_downscale_factor_w")


class MegapixelRAUNet(io.ComfyNode):
    """RAU-Net with all settings; those that only `yaml_parameters` could set come last,
    with their own sockets.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MegapixelRAUNet",
            display_name="RAU-Net (Megapixel)",
            category="model/patch/unet",
            description=(
                "Keeps images larger than the model's trained size coherent. In the early steps a "
                "Downsample gets stride 4 instead of 2 and its Upsample restores the size (the Downsample "
                "pair), and features after a cross-attention block are pooled and upscaled again (the CA "
                "pair). You set all blocks and times here; RAU-Net Simple chooses them for you."
            ),
            search_aliases=["ApplyRAUNet", "RAUNet", "HiDiffusion", "jankhidiffusion", "hires fix"],
            inputs=[*_original_inputs(), parameters_socket("ca_fadeout_start_time: 0.2"), *_further_inputs()],
            outputs=[io.Model.Output()],
            **SHOWN_AGAIN,
        )

    @classmethod
    def execute(cls, model, yaml_parameters="", **settings) -> io.NodeOutput:
        settings |= read_parameters(yaml_parameters, cls.define_schema().inputs, UNUSED, NULLABLE)
        config = _rau_net(settings)
        return patched_model("RAU-Net", apply_rau_net(model, config), never_on(config))


def _rau_net(sockets: dict[str, Any]) -> RAUNet:
    """Return the settings for the sockets' values."""
    settings = sockets | {
        name: parse_blocks(text, name) for name, text in sockets.items() if name.endswith("_blocks")
    }
    settings["ca_downscale_factor_w"] = sockets.get("ca_downscale_factor_w") or None
    fade = sockets.get("ca_fadeout_start_time", OFF)
    settings["ca_fadeout_start_time"] = None if fade < 0 else fade
    # Older workflows turn a pair off by its times and keep any blocks.
    if not _is_ever_on(settings, ""):
        settings |= {"input_blocks": (), "output_blocks": ()}
    if not _is_ever_on(settings, "ca_"):
        settings |= {"ca_input_blocks": (), "ca_output_blocks": (), "ca_fadeout_start_time": None}
    return RAUNet(**settings)


def _is_ever_on(settings: dict[str, Any], pair: str) -> bool:
    start, end = settings[f"{pair}start_time"], settings[f"{pair}end_time"]
    return schedule_in(settings["time_mode"], start, end).is_ordered


def _original_inputs() -> list[io.Input]:
    modes = list(scale_modes())
    return [
        model_socket(),
        blocks_socket(
            "input_blocks",
            "3",
            "Input blocks whose Downsample gets stride 4. 3 suits SD 1.x; 3 or 6 suits SDXL.",
        ),
        blocks_socket(
            "output_blocks",
            "8",
            "Output blocks whose Upsample restores the size: 8 for input 3 in SD 1.x, 5 for input 3 in SDXL.",
            empty="the partners of input_blocks",
        ),
        time_mode_socket(),
        time_socket("start_time", 0.0, "Start of the Downsample pair, inclusive. 0 is the first step."),
        time_socket(
            "end_time",
            0.45,
            "End of the Downsample pair, inclusive. 0.4 to 0.6 is usual: a later end leaves fewer "
            "duplicated objects, an earlier end gives sharper images. An end before the start turns the "
            "pair off.",
        ),
        io.Combo.Input(
            "upscale_mode",
            options=modes,
            tooltip="Interpolation of the Upsample. bicubic is the original pack's default; the model was "
            "trained with nearest.",
        ),
        time_socket("ca_start_time", 0.0, "Start of the CA pair, inclusive. 0 is the first step."),
        time_socket(
            "ca_end_time",
            0.3,
            "End of the CA pair, inclusive. 0.2 to 0.45 is usual; use it above twice the trained size. An "
            "end before the start turns the pair off.",
        ),
        blocks_socket(
            "ca_input_blocks",
            "4",
            "Input blocks after which the features are pooled: 4 or 1 in SD 1.x, 4 in SDXL.",
        ),
        blocks_socket(
            "ca_output_blocks",
            "8",
            "Output blocks before which the features are upscaled again: 8 for input 4 in SD 1.x, 5 for "
            "input 4 in SDXL.",
            empty="the partners of ca_input_blocks",
        ),
        io.Combo.Input(
            "ca_upscale_mode",
            options=modes,
            tooltip="Interpolation with which the CA pair upscales the features. bicubic is the original "
            "pack's default and the paper's choice.",
        ),
        io.Combo.Input(
            "ca_downscale_mode",
            options=list(dict.fromkeys((*get_args(Pool), *modes))),
            default="adaptive_avg_pool2d",
            tooltip="How the CA pair downscales the features. avg_pool2d is the published one and needs "
            "whole factors; adaptive_avg_pool2d takes any factor.",
        ),
        io.Float.Input(
            "ca_downscale_factor",
            default=2.0,
            min=0.01,
            max=100.0,
            step=0.1,
            round=False,
            tooltip="Factor by which the CA pair downscales the features. 2 halves width and height, 1.5 is "
            "weaker, 1 changes nothing.",
        ),
        io.Combo.Input(
            "two_stage_upscale_mode",
            options=["disabled", *modes],
            default="disabled",
            tooltip="Two-stage Upsample: the first half of the enlargement uses this mode, the second half "
            "uses upscale_mode. disabled uses upscale_mode for all of it.",
        ),
    ]


def _further_inputs() -> list[io.Input]:
    return [
        io.Boolean.Input(
            "ca_input_after_skip_mode",
            default=False,
            optional=True,
            advanced=True,
            tooltip="On: the block's skip connection keeps its full size, as in Deep Shrink; "
            "ca_output_blocks must then be one lower (7 for input 4 in SD 1.x), or empty. Off: the skip "
            "connection is pooled too.",
        ),
        time_socket(
            "ca_fadeout_start_time",
            OFF,
            "Start of a fade-out: from here the CA pair weakens until ca_end_time, instead of stopping at "
            "once. Any value below 0 turns the fade off.",
            min=OFF,
            optional=True,
            advanced=True,
        ),
        io.Float.Input(
            "ca_fadeout_cap",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.01,
            optional=True,
            advanced=True,
            tooltip="Lowest strength that the fade-out reaches, as a share of the CA pair's full strength. "
            "0 fades out completely, 1 does not fade.",
        ),
        io.Float.Input(
            "ca_downscale_factor_w",
            default=0.0,
            min=0.0,
            max=100.0,
            step=0.1,
            round=False,
            optional=True,
            advanced=True,
            tooltip="Separate factor for the width, 1 to 4 for wide images. 0 uses ca_downscale_factor.",
        ),
        io.Int.Input(
            "ca_latent_pixel_increment",
            default=8,
            min=1,
            max=64,
            optional=True,
            advanced=True,
            tooltip="Width and height of the pooled features are rounded down to multiples of this, in "
            "feature pixels. 8 is the original pack's default; 1 rounds least.",
        ),
        io.Boolean.Input(
            "ca_avg_pool2d_ceil_mode",
            default=True,
            optional=True,
            advanced=True,
            tooltip="For avg_pool2d with odd width or height. On: the last row and column are included. "
            "Off: they are dropped.",
        ),
        *(multiplier_socket(name, of) for name, of in MULTIPLIERS.items()),
    ]


RES_MODES = ("high (1536-2048)", "low (1024 or lower)", "ultra (over 2048)")
SCHEDULES = ("known", "published", "published (turbo)")


class MegapixelRAUNetSimple(io.ComfyNode):
    """RAU-Net with the original pack's presets, or with the paper's."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        modes = ["default", *scale_modes()]
        return io.Schema(
            node_id="MegapixelRAUNetSimple",
            display_name="RAU-Net Simple (Megapixel)",
            category="model/patch/unet",
            description=(
                "Keeps images larger than the model's trained size coherent. Choose the image size; blocks "
                "and times come from the original pack's presets or from the paper, and are written to the "
                "log under the input names of RAU-Net."
            ),
            search_aliases=["ApplyRAUNetSimple", "RAUNet", "HiDiffusion", "jankhidiffusion", "hires fix"],
            inputs=[
                model_socket(),
                model_type_socket(),
                io.Combo.Input(
                    "res_mode",
                    options=list(RES_MODES),
                    tooltip="Width or height of the image in pixels, roughly: high has a stronger effect "
                    "than low, ultra the strongest. With SDXL, low does nothing.",
                ),
                io.Combo.Input(
                    "upscale_mode",
                    options=modes,
                    tooltip="Interpolation of the Upsample. default is bicubic, or nearest in the published "
                    "schedules.",
                ),
                io.Combo.Input(
                    "ca_upscale_mode",
                    options=modes,
                    tooltip="Interpolation for upscaling the pooled features again (CA pair, see RAU-Net). "
                    "default is bicubic.",
                ),
                io.Combo.Input(
                    "schedule",
                    options=list(SCHEDULES),
                    optional=True,
                    tooltip="Where blocks and times come from. known: the original pack's presets, by "
                    "res_mode. published: the paper's, by the latent size; res_mode is ignored. published "
                    "(turbo): the paper's for SDXL-Turbo.",
                ),
            ],
            outputs=[io.Model.Output()],
            **SHOWN_AGAIN,
        )

    @classmethod
    def execute(
        cls, model, model_type, res_mode, upscale_mode, ca_upscale_mode, schedule="known"
    ) -> io.NodeOutput:
        topology = topology_in(model)
        check_model_type(model_type, topology)
        chosen = {"upscale_mode": upscale_mode, "ca_upscale_mode": ca_upscale_mode}
        modes = {name: mode for name, mode in chosen.items() if mode != "default"}
        if schedule == "known":
            return io.NodeOutput(
                apply_rau_net(model, original_preset(topology, res_mode.partition(" ")[0], **modes))
            )
        return io.NodeOutput(apply_rau_net(model, _published(topology, schedule, modes)))


def _published(topology: Topology, schedule: str, modes: dict[str, str]) -> Published:
    turbo = schedule == "published (turbo)"
    if turbo and kind_of(topology) == "sd":
        right = "published for an SD 1.x or 2.x model"
        raise bad_input("schedule", right, schedule, "published (turbo) is for SDXL-Turbo only.")
    return Published(**modes, turbo=turbo)
