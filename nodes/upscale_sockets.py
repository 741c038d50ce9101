"""Sockets that several nodes with an upscale model share."""

from __future__ import annotations

from comfy_api.latest import io

from ..host.upscale import GPUS

PRECISIONS = ["auto", "float32", "float16", "bfloat16"]
LARGEST_SIDE = 65536


def exact_side(name: str, other: str) -> io.Int.Input:
    """Return the input for the exact height or width of the result."""
    return io.Int.Input(
        name,
        default=0,
        min=0,
        max=LARGEST_SIDE,
        optional=True,
        advanced=True,
        tooltip=f"Exact {name} of the result in pixels; overrides scale_by. 0 follows from {other} if that "
        "is set, else from scale_by.",
    )


def gpus_socket(what: str = "GPUs that upscale the tiles.") -> io.Combo.Input:
    """Return the input for the GPUs that are used."""
    return io.Combo.Input(
        "gpus",
        options=list(GPUS),
        optional=True,
        advanced=True,
        tooltip=f"{what} all: shares the work between all GPUs that this ComfyUI sees. one: only the loader's GPU, for several ComfyUIs on one "
        "machine. Changes the speed, not the image.",
    )
