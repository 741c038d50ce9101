"""The nodes of MSW-MSA: with all settings, and with the original pack's presets."""

from __future__ import annotations

from typing import get_args

from comfy_api.latest import io

from ..host.compat import SHOWN_AGAIN
from ..host.notice import patched_model
from ..host.parameter_text import LEVEL, SWITCH, TEXT, WHOLE, Rule, read_parameters
from ..patches.msw_msa import MSWMSA, ShiftMode, ShiftStrategy, Windows, apply_msw_msa, original_preset
from ..patches.topology import topology_in
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
from .sockets import model_socket, trained_size_socket

MULTIPLIERS = {
    "pre_window_multiplier": "the tokens before they are split into windows",
    "post_window_multiplier": "the tokens after they are split into windows",
    "pre_window_reverse_multiplier": "the attention output before the windows are merged",
    "post_window_reverse_multiplier": "the attention output after the windows are merged",
}
# The windows fit every size here, so nothing is rescaled and there is nothing to warn about.
UNUSED: dict[str, Rule] = {
    "scale_mode": TEXT,
    "reverse_scale_mode": TEXT,
    "rescale_search_tolerance": WHOLE,
    "silent": SWITCH,
    "verbose": LEVEL,
    "force_apply_attn2": ("false (windows are for self-attention alone)", lambda value: value is False),
}


def _windows_socket() -> io.Combo.Input:
    """Return the size of the attention's windows."""
    return io.Combo.Input(
        "windows",
        options=list(get_args(Windows)),
        optional=True,
        tooltip="Window size. 2x2: four windows, as published. native: each window has as many tokens as "
        "the model was trained with; fastest at large sizes. At the trained size, native is one window: "
        "full attention.",
    )


class MegapixelMSWMSA(io.ComfyNode):
    """Windowed self-attention with all settings."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MegapixelMSWMSA",
            display_name="MSW-MSA Attention (Megapixel)",
            category="model/patch/unet",
            description=(
                "Samples large images faster: self-attention of the chosen blocks runs in windows that are "
                "shifted in every step. Works at any size, and the same seed gives the same image. You set "
                "all blocks and times here; MSW-MSA Attention Simple chooses them for you."
            ),
            search_aliases=[
                "ApplyMSWMSAAttention",
                "MSW-MSA",
                "HiDiffusion",
                "jankhidiffusion",
                "windowed attention",
            ],
            inputs=[
                blocks_socket(
                    "input_blocks",
                    "1,2",
                    "Input blocks whose self-attention runs in windows. 1,2 suits SD 1.x; 4,5 suits SDXL. "
                    "The shallow blocks save the most time.",
                ),
                blocks_socket(
                    "middle_blocks",
                    "",
                    "0 uses windows in the middle block. It saves little time; usually left empty.",
                ),
                blocks_socket(
                    "output_blocks",
                    "9,10,11",
                    "Output blocks whose self-attention runs in windows. 9,10,11 suits SD 1.x; 3,4,5 suits "
                    "SDXL.",
                ),
                time_mode_socket(),
                time_socket(
                    "start_time",
                    0.0,
                    "Start of the windows, inclusive. 0 is the first step; about 0.2 is better above 2048 "
                    "px.",
                ),
                time_socket(
                    "end_time",
                    1.0,
                    "End of the windows, inclusive. 1 is the last step. An end before the start turns the "
                    "windows off.",
                ),
                model_socket(),
                parameters_socket("last_shift_mode: block"),
                _windows_socket(),
                trained_size_socket("For native windows"),
                io.Combo.Input(
                    "last_shift_mode",
                    options=list(get_args(ShiftMode)),
                    default="both",
                    optional=True,
                    advanced=True,
                    tooltip="How windows are shifted. global and both: consecutive layers never use the "
                    "same shift. block and ignore: each layer's shift is drawn freely. Shifts depend only "
                    "on the seed and the noise level, never on the previous step.",
                ),
                io.Combo.Input(
                    "last_shift_strategy",
                    options=list(get_args(ShiftStrategy)),
                    default="decrement",
                    optional=True,
                    advanced=True,
                    tooltip="How to replace a shift that the layer before has just used: the next "
                    "quarter-window (increment), the previous one (decrement), or a new draw (retry).",
                ),
                *(multiplier_socket(name, of) for name, of in MULTIPLIERS.items()),
            ],
            outputs=[io.Model.Output()],
            **SHOWN_AGAIN,
        )

    @classmethod
    def execute(cls, model, yaml_parameters="", **settings) -> io.NodeOutput:
        settings |= read_parameters(yaml_parameters, cls.define_schema().inputs, UNUSED)
        settings |= {
            name: parse_blocks(text, name) for name, text in settings.items() if name.endswith("_blocks")
        }
        config = MSWMSA(**settings)
        return patched_model("MSW-MSA", apply_msw_msa(model, config), config.never_on)


class MegapixelMSWMSASimple(io.ComfyNode):
    """Windowed self-attention with the original pack's presets."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MegapixelMSWMSASimple",
            display_name="MSW-MSA Attention Simple (Megapixel)",
            category="model/patch/unet",
            description=(
                "Samples large images faster: from 20 % of sampling on, self-attention of the most "
                "expensive blocks runs in windows that are shifted in every step. The blocks are read from "
                "the model and written to the log under the input names of MSW-MSA Attention."
            ),
            search_aliases=[
                "ApplyMSWMSAAttentionSimple",
                "MSW-MSA",
                "HiDiffusion",
                "jankhidiffusion",
                "windowed attention",
            ],
            inputs=[
                model_type_socket(),
                model_socket(),
                _windows_socket(),
                trained_size_socket("For native windows"),
            ],
            outputs=[io.Model.Output()],
            **SHOWN_AGAIN,
        )

    @classmethod
    def execute(cls, model_type, model, **settings) -> io.NodeOutput:
        topology = topology_in(model)
        check_model_type(model_type, topology)
        return io.NodeOutput(apply_msw_msa(model, original_preset(topology, **settings)))
