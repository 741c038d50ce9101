"""Sockets shared by the nodes of RAU-Net and MSW-MSA, HiDiffusion's two parts,
and how their values are read.
"""

from __future__ import annotations

from typing import get_args

from comfy_api.latest import io

from ..errors import bad_input
from ..patches.rau_net_published import kind_of
from ..patches.schedule import Unit
from ..patches.topology import Topology
from ..scaling.rau_net import Kind

KINDS: dict[str, Kind] = {"SD15": "sd", "SDXL": "sdxl"}


def model_type_socket() -> io.Combo.Input:
    """Return the choice of a model family, which only checks the model."""
    return io.Combo.Input(
        "model_type",
        options=["auto", *KINDS],
        tooltip="Model family. auto reads it from the model. SD15 (also for SD 1.4 and 2.x) and SDXL only "
        "check that the model belongs to that family.",
    )


def check_model_type(model_type: str, topology: Topology) -> None:
    """Raise unless `model_type` is "auto" or the family of the topology.

    Raises:
        ValueError: when it is the other family.
    """
    if model_type == "auto" or KINDS[model_type] == kind_of(topology):
        return
    right = next(name for name in KINDS if name != model_type)
    hint = "Choose auto, which reads it from the model."
    raise bad_input("model_type", f"{right} for this model", model_type, hint)


def blocks_socket(name: str, default: str, tooltip: str, empty: str = "none") -> io.String.Input:
    """Return a list of block numbers as text; `empty` says which blocks an empty text means."""
    return io.String.Input(
        name, default=default, tooltip=f"{tooltip} Separate numbers with commas; empty means {empty}."
    )


def parse_blocks(text: str, socket: str) -> tuple[int, ...]:
    """Return the block numbers in a text such as "1,2" or "9 10 11": sorted, each once; empty is none.

    Raises:
        ValueError: when a part of the text is not a number.
    """
    words = text.replace(",", " ").split()
    if wrong := [word for word in words if not (word.isascii() and word.isdigit())]:
        hint = "Write them like 1,2, or leave it empty for none."
        raise bad_input(socket, "block numbers separated by commas", f"'{wrong[0]}'", hint)
    return tuple(sorted({int(word) for word in words}))


def time_mode_socket() -> io.Combo.Input:
    """Return the unit of the times."""
    return io.Combo.Input(
        "time_mode",
        options=list(get_args(Unit)),
        tooltip="Unit of the start and end times. percent: 0 is the start of sampling, 1 its end. timestep: "
        "from 999 down to 0. sigma: falling noise levels. steps: share of the steps that the sampler runs, "
        "as in the paper, without the step at the end.",
    )


def time_socket(name: str, default: float, tooltip: str, **settings: float | bool) -> io.Float.Input:
    """Return a time in the unit of `time_mode`."""
    limits: dict[str, float | bool] = {"min": 0.0, "max": 999.0, "step": 0.01, "round": False}
    return io.Float.Input(name, default=default, tooltip=tooltip, **(limits | settings))  # pyright: ignore[reportArgumentType]


def multiplier_socket(name: str, of: str) -> io.Float.Input:
    """Return a factor on features."""
    return io.Float.Input(
        name,
        default=1.0,
        min=-10.0,
        max=10.0,
        step=0.01,
        round=False,
        optional=True,
        advanced=True,
        tooltip=f"Multiplier on {of}. 0.9 to 1.1 is a slight change; 1 changes nothing.",
    )


def parameters_socket(example: str) -> io.String.Input:
    """Return the text with further settings of older workflows."""
    return io.String.Input(
        "yaml_parameters",
        default="",
        multiline=True,
        optional=True,
        tooltip=f"Settings of older workflows as YAML or JSON, one `key: value` per line, such as {example}. "
        "Each key is the name of an input and overrides it. Empty changes nothing.",
    )
