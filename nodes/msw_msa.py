"""The nodes of MSW-MSA: all numbers, and the original pack's presets."""

from __future__ import annotations

from typing import get_args

from comfy_api.latest import io

from ..host.compat import SHOWN_AGAIN
from ..host.notice import patched_model
from ..host.parameter_text import LEVEL, SWITCH, TEXT, WHOLE, Rule, read_parameters
from ..patches.msw_msa import MSWMSA, ShiftMode, ShiftStrategy, Windows, apply_msw_msa, known_preset
from ..patches.topology import topology_of
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
    "pre_window_multiplier": "the tokens ahead of the cut into windows",
    "post_window_multiplier": "the tokens behind the cut into windows",
    "pre_window_reverse_multiplier": "the attention's result ahead of the windows' joining",
    "post_window_reverse_multiplier": "the attention's result behind the windows' joining",
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
        tooltip="2x2: four windows, as published. native: as many tokens each as the model was trained with, the "
        "fastest at large sizes; at the trained size that is one window, the plain attention.",
    )


class MegapixelMSWMSA(io.ComfyNode):
    """Windowed self-attention with every number in sight."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MegapixelMSWMSA",
            display_name="MSW-MSA Attention (Megapixel)",
            category="model/patch/unet",
            description=(
                "Makes large pictures faster: self-attention of the chosen blocks runs inside windows that move with "
                "every step, at a fraction of the cost. Any size works, and the same seed gives the same picture. All "
                "blocks and times are set here; MSW-MSA Attention Simple chooses them for you."
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
                    "Input blocks with windows. 1,2 suits SD 1.x, 4,5 SDXL; the shallow ones save most.",
                ),
                blocks_socket(
                    "middle_blocks", "", "0 gives the middle block windows. Hardly worth it; empty is usual."
                ),
                blocks_socket(
                    "output_blocks",
                    "9,10,11",
                    "Output blocks with windows. 9,10,11 suits SD 1.x, 3,4,5 SDXL.",
                ),
                time_mode_socket(),
                time_socket(
                    "start_time",
                    0.0,
                    "When the windows begin, this moment included. 0 is the first step; above 2048 px about 0.2.",
                ),
                time_socket(
                    "end_time",
                    1.0,
                    "When the windows end, this moment included. 1 is the last step. An end before the start switches "
                    "them off.",
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
                    tooltip="Whether a layer's windows must not lie where those of the layer before lie: global and both. "
                    "block and ignore: all places are drawn freely. A place follows from the seed and the noise level "
                    "alone, so a step does not know the places of the step before.",
                ),
                io.Combo.Input(
                    "last_shift_strategy",
                    options=list(get_args(ShiftStrategy)),
                    default="decrement",
                    optional=True,
                    advanced=True,
                    tooltip="What becomes of a place that must not be taken: the next quarter of a window, the one "
                    "before, or another draw.",
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
                "Makes large pictures faster: from 20 % of sampling on, self-attention of the most expensive blocks "
                "runs inside windows that move between steps. The blocks come from the model, and are written to the "
                "log in the words of the MSW-MSA Attention node."
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
        topology = topology_of(model.get_model_object("diffusion_model"))
        check_model_type(model_type, topology)
        return io.NodeOutput(apply_msw_msa(model, known_preset(topology, **settings)))
