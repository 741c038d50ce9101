"""Sockets that several nodes share."""

from __future__ import annotations

from comfy_api.latest import io


def model_socket() -> io.Model.Input:
    """Return the socket of the model to be patched."""
    return io.Model.Input("model", tooltip="An SD 1.x, SD 2.x or SDXL model, with or without other patches.")


def trained_size_socket(purpose: str, advice: str = "") -> io.Int.Input:
    """Return the trained size: the side of a square in pixels."""
    return io.Int.Input(
        "trained_size",
        default=0,
        min=0,
        max=8192,
        step=8,
        optional=True,
        advanced=True,
        tooltip=f"{purpose}: image size that the model was trained at, as the side of a square in pixels. 0 "
        f"reads it from the model: 512 for SD 1.x, 1024 for SDXL. {advice}".rstrip(),
    )
