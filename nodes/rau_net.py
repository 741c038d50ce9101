"""The nodes of RAU-Net: all numbers, and the original pack's presets."""

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
from ..patches.rau_net_preset import known_preset
from ..patches.rau_net_published import Published, kind_of
from ..patches.rau_net_settings import Pool, RAUNet
from ..patches.topology import Topology, topology_of
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

OFF = -1.0  # a time that none is
MULTIPLIERS = {
    "pre_upscale_multiplier": "the features ahead of the Upsample",
    "post_upscale_multiplier": "the features behind the Upsample",
    "pre_downscale_multiplier": "the features ahead of the Downsample with stride 4",
    "post_downscale_multiplier": "the features behind the Downsample with stride 4",
    "ca_pre_upscale_multiplier": "the features ahead of the CA pair's enlargement",
    "ca_post_upscale_multiplier": "the features behind the CA pair's enlargement",
    "ca_pre_downscale_multiplier": "the features ahead of the CA pair's pooling",
    "ca_post_downscale_multiplier": "the features behind the CA pair's pooling",
}
UNUSED = {"ca_output_sigma_hack": SWITCH, "verbose": LEVEL}
NULLABLE = ("ca_fadeout_start_time", "ca_downscale_factor_w")


class MegapixelRAUNet(io.ComfyNode):
    """RAU-Net with every number in sight; what only a text could set has sockets of its own after those."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MegapixelRAUNet",
            display_name="RAU-Net (Megapixel)",
            category="model/patch/unet",
            description=(
                "Keeps the composition whole in pictures larger than the model was trained for: in the early steps a "
                "Downsample has stride 4 instead of 2, and the features of an attention block (the CA "
                "pair) are pooled. All blocks and times are set here; RAU-Net Simple chooses them for you."
            ),
            search_aliases=["ApplyRAUNet", "RAUNet", "HiDiffusion", "jankhidiffusion", "hires fix"],
            inputs=[*_known_inputs(), parameters_socket("ca_fadeout_start_time: 0.2"), *_further_inputs()],
            outputs=[io.Model.Output()],
            **SHOWN_AGAIN,
        )

    @classmethod
    def execute(cls, model, yaml_parameters="", **settings) -> io.NodeOutput:
        settings |= read_parameters(yaml_parameters, cls.define_schema().inputs, UNUSED, NULLABLE)
        config = _rau_net(settings)
        return patched_model("RAU-Net", apply_rau_net(model, config), never_on(config))


def _rau_net(sockets: dict[str, Any]) -> RAUNet:
    """Return the settings that the sockets' values mean."""
    settings = sockets | {
        name: parse_blocks(text, name) for name, text in sockets.items() if name.endswith("_blocks")
    }
    settings["ca_downscale_factor_w"] = sockets.get("ca_downscale_factor_w") or None
    fade = sockets.get("ca_fadeout_start_time", OFF)
    settings["ca_fadeout_start_time"] = None if fade < 0 else fade
    # Older workflows switch a pair off by its times and leave whatever blocks there were.
    if not _is_ever_on(settings, ""):
        settings |= {"input_blocks": (), "output_blocks": ()}
    if not _is_ever_on(settings, "ca_"):
        settings |= {"ca_input_blocks": (), "ca_output_blocks": (), "ca_fadeout_start_time": None}
    return RAUNet(**settings)


def _is_ever_on(settings: dict[str, Any], pair: str) -> bool:
    start, end = settings[f"{pair}start_time"], settings[f"{pair}end_time"]
    return schedule_in(settings["time_mode"], start, end).is_ordered


def _known_inputs() -> list[io.Input]:
    modes = list(scale_modes())
    return [
        model_socket(),
        blocks_socket(
            "input_blocks", "3", "Input blocks whose Downsample gets stride 4. 3 suits SD 1.x, 3 or 6 SDXL."
        ),
        blocks_socket(
            "output_blocks",
            "8",
            "Output blocks whose Upsample undoes it: 8 for input 3 in SD 1.x, 5 for 3 in SDXL. Left empty, the partners "
            "are found.",
        ),
        time_mode_socket(),
        time_socket(
            "start_time", 0.0, "When the Downsample pair begins, this moment included. 0 is the first step."
        ),
        time_socket(
            "end_time",
            0.45,
            "When the Downsample pair ends, this moment included. 0.4 to 0.6; later is safer against doubled objects, "
            "earlier is sharper. An end before the start switches the pair off.",
        ),
        io.Combo.Input(
            "upscale_mode",
            options=modes,
            tooltip="How the Upsample enlarges. Bicubic is the known default, nearest what the model was trained with.",
        ),
        time_socket(
            "ca_start_time", 0.0, "When the CA pair begins, this moment included. 0 is the first step."
        ),
        time_socket(
            "ca_end_time",
            0.3,
            "When the CA pair ends, this moment included. 0.2 to 0.45; above twice the trained size. An end before the "
            "start switches the pair off.",
        ),
        blocks_socket(
            "ca_input_blocks",
            "4",
            "Input blocks behind which features are pooled: 4 or 1 in SD 1.x, 4 in SDXL.",
        ),
        blocks_socket(
            "ca_output_blocks",
            "8",
            "Output blocks ahead of which they are enlarged again: 8 for input 4 in SD 1.x, 5 for 4 in SDXL. Left empty, "
            "the partners are found.",
        ),
        io.Combo.Input(
            "ca_upscale_mode",
            options=modes,
            tooltip="How the CA pair enlarges. Bicubic is the known and the published one.",
        ),
        io.Combo.Input(
            "ca_downscale_mode",
            options=list(dict.fromkeys((*get_args(Pool), *modes))),
            default="adaptive_avg_pool2d",
            tooltip="How the CA pair makes features smaller. avg_pool2d is the published one and takes whole factors "
            "only; adaptive_avg_pool2d takes any.",
        ),
        io.Float.Input(
            "ca_downscale_factor",
            default=2.0,
            min=0.01,
            max=100.0,
            step=0.1,
            round=False,
            tooltip="How far the CA pair shrinks. 2 halves the features, 1.5 is gentler, 1 changes nothing.",
        ),
        io.Combo.Input(
            "two_stage_upscale_mode",
            options=["disabled", *modes],
            default="disabled",
            tooltip="The Upsample enlarges half the way in this mode and the rest in upscale_mode. disabled is one way "
            "throughout.",
        ),
    ]


def _further_inputs() -> list[io.Input]:
    return [
        io.Boolean.Input(
            "ca_input_after_skip_mode",
            default=False,
            optional=True,
            advanced=True,
            tooltip="On: the block's skip connection keeps its full size, as in Deep Shrink, and the partner output "
            "block is one lower. Off: it is pooled as well.",
        ),
        time_socket(
            "ca_fadeout_start_time",
            OFF,
            "From here on the CA pair weakens until ca_end_time, instead of stopping at once. Any number below 0 is off.",
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
            tooltip="The share of the CA pair's strength below which the fade does not go. 0 fades to nothing, 1 is no "
            "fade.",
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
            tooltip="How far the CA pair shrinks the width, 1 to 4 for wide pictures. 0 takes ca_downscale_factor.",
        ),
        io.Int.Input(
            "ca_latent_pixel_increment",
            default=8,
            min=1,
            max=64,
            optional=True,
            advanced=True,
            tooltip="The pooled sides are multiples of this many pixels of the features. 8 is the known default, 1 "
            "rounds least.",
        ),
        io.Boolean.Input(
            "ca_avg_pool2d_ceil_mode",
            default=True,
            optional=True,
            advanced=True,
            tooltip="For avg_pool2d and odd sides. On: the last row and column count. Off: they are dropped.",
        ),
        *(multiplier_socket(name, of) for name, of in MULTIPLIERS.items()),
    ]


RES_MODES = ("high (1536-2048)", "low (1024 or lower)", "ultra (over 2048)")
SCHEDULES = ("known", "published", "published (turbo)")


class MegapixelRAUNetSimple(io.ComfyNode):
    """RAU-Net with the original pack's presets, or by the paper's."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        modes = ["default", *scale_modes()]
        return io.Schema(
            node_id="MegapixelRAUNetSimple",
            display_name="RAU-Net Simple (Megapixel)",
            category="model/patch/unet",
            description=(
                "Keeps the composition whole in pictures larger than the model was trained for. Choose how large the "
                "picture is; blocks and times come from the original pack's presets, or from the paper, and are written to the "
                "log in the words of the RAU-Net node."
            ),
            search_aliases=["ApplyRAUNetSimple", "RAUNet", "HiDiffusion", "jankhidiffusion", "hires fix"],
            inputs=[
                model_socket(),
                model_type_socket(),
                io.Combo.Input(
                    "res_mode",
                    options=list(RES_MODES),
                    tooltip="How large the picture is, in pixels of a side. It need not be exact: high is stronger than "
                    "low, ultra strongest. SDXL does nothing at low.",
                ),
                io.Combo.Input(
                    "upscale_mode",
                    options=modes,
                    tooltip="How the Upsample enlarges. default is bicubic, or nearest in the published schedules.",
                ),
                io.Combo.Input(
                    "ca_upscale_mode", options=modes, tooltip="How the CA pair enlarges. default is bicubic."
                ),
                io.Combo.Input(
                    "schedule",
                    options=list(SCHEDULES),
                    optional=True,
                    tooltip="known: the presets by res_mode. published: the paper's blocks and shares of the steps, by "
                    "the latent's size, with res_mode ignored; published (turbo) for SDXL-Turbo.",
                ),
            ],
            outputs=[io.Model.Output()],
            **SHOWN_AGAIN,
        )

    @classmethod
    def execute(
        cls, model, model_type, res_mode, upscale_mode, ca_upscale_mode, schedule="known"
    ) -> io.NodeOutput:
        topology = topology_of(model.get_model_object("diffusion_model"))
        check_model_type(model_type, topology)
        chosen = {"upscale_mode": upscale_mode, "ca_upscale_mode": ca_upscale_mode}
        modes = {name: mode for name, mode in chosen.items() if mode != "default"}
        if schedule == "known":
            return io.NodeOutput(
                apply_rau_net(model, known_preset(topology, res_mode.partition(" ")[0], **modes))
            )
        return io.NodeOutput(apply_rau_net(model, _published(topology, schedule, modes)))


def _published(topology: Topology, schedule: str, modes: dict[str, str]) -> Published:
    turbo = schedule == "published (turbo)"
    if turbo and kind_of(topology) == "sd":
        right = "published for an SD 1.x or 2.x model"
        raise bad_input("schedule", right, schedule, "Turbo's is for SDXL-Turbo.")
    return Published(**modes, turbo=turbo)
