"""Checks of the inputs that a sampler takes, models and conditionings: other packs' nodes may pass nothing, or
something else.

A wrong one raises an error with a message.
"""

from __future__ import annotations

from typing import Any

from ..errors import bad_input
from .compat import missing_of_patcher


def check_model(model: Any) -> None:
    """Check that a MODEL has the parts of the host's ModelPatcher that this pack uses.

    Raises:
        ValueError: when some are missing.
    """
    missing = missing_of_patcher(model)
    if missing:
        got = f"{type(model).__name__} without {', '.join(missing)}"
        hint = "Use a loader whose models work in KSampler."
        raise bad_input("model", "a MODEL as ComfyUI's loaders give it", *_unless_none(model, got, hint))


def check_conditioning(conditioning: Any, socket: str) -> None:
    """Check that a CONDITIONING is a list of texts, each with its options.

    Raises:
        ValueError: when it is something else.
    """
    if not isinstance(conditioning, list) or not all(map(_is_entry, conditioning)):
        got, hint = type(conditioning).__name__, "Connect CLIP Text Encode."
        raise bad_input(socket, "a CONDITIONING", *_unless_none(conditioning, got, hint))


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, (list, tuple)) and len(entry) == 2 and isinstance(entry[1], dict)


def _unless_none(value: Any, got: str, hint: str) -> tuple[str, str]:
    if value is not None:
        return got, hint
    return "nothing", "The connected node gave none. Check whether it is a switch, muted or without a file."
