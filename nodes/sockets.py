"""Sockets that several nodes share."""

from __future__ import annotations

from comfy_api.latest import io

TIME_MODES = ["percent", "timestep", "sigma", "steps"]


def model_socket() -> io.Model.Input:
    """Return the socket of the model to be patched."""
    return io.Model.Input("model", tooltip="An SD 1.x, SD 2.x or SDXL model, patched or not.")


def model_type_socket() -> io.Combo.Input:
    """Return the known choice of a family, which only checks what is read from the model."""
    return io.Combo.Input(
        "model_type",
        options=["auto", "SD15", "SDXL"],
        tooltip="auto reads it from the model. SD15 (also for SD 1.4 and 2.x) and SDXL are checked against it.",
    )


def blocks_socket(name: str, default: str, tooltip: str) -> io.String.Input:
    """Return a list of block numbers as text."""
    return io.String.Input(
        name, default=default, tooltip=f"{tooltip} Numbers with commas between; empty is none."
    )


def time_mode_socket() -> io.Combo.Input:
    """Return the unit of the times."""
    return io.Combo.Input(
        "time_mode",
        options=TIME_MODES,
        tooltip="What the times count. percent: 0 is the start of sampling, 1 its end. timestep: from 999 down to 0. "
        "sigma: noise levels, falling. steps: shares of the steps that the sampler takes, as the paper counts.",
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
        tooltip=f"Multiplies {of}. 0.9 to 1.1 is a gentle change; 1 changes nothing.",
    )


def windows_socket() -> io.Combo.Input:
    """Return the size of the attention's windows."""
    return io.Combo.Input(
        "windows",
        options=["2x2", "native"],
        optional=True,
        tooltip="2x2: four windows, as published. native: as many tokens each as the model was trained with, the "
        "fastest at large sizes; at the trained size that is one window, the plain attention.",
    )


def trained_size_socket(purpose: str, advice: str = "") -> io.Int.Input:
    """Return the side that the model was trained at."""
    return io.Int.Input(
        "trained_size",
        default=0,
        min=0,
        max=8192,
        step=8,
        optional=True,
        advanced=True,
        tooltip=f"{purpose}: side of the square pictures that the model was trained on, in pixels. 0 takes it from the "
        f"model: 512 for SD 1.x, 1024 for SDXL. {advice}".rstrip(),
    )


def parameters_socket(example: str) -> io.String.Input:
    """Return the text in which old workflows keep their further settings."""
    return io.String.Input(
        "yaml_parameters",
        default="",
        multiline=True,
        optional=True,
        tooltip=f"Settings of older workflows as YAML or JSON, one `key: value` a line, such as {example}. Each key is "
        "an input of this node and replaces it. Empty changes nothing.",
    )
