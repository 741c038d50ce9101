"""Resizing features by the host's modes, and by those that the ComfyUI-bleh pack adds."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any

import comfy.utils
from torch import Tensor

from ..errors import bad_input

SCALE_MODES = ("bicubic", "bislerp", "bilinear", "nearest-exact", "nearest", "area")
_BLEH = re.compile(r"(?:^|[/\\.])[^/\\.]*bleh[^/\\.]*\.py\.latent_utils$", re.IGNORECASE)


def scale_modes() -> tuple[str, ...]:
    """Return the host's modes for `resize`, then those of the ComfyUI-bleh pack, if it is loaded."""
    bleh = _bleh()
    return tuple(dict.fromkeys((*SCALE_MODES, *(bleh.UPSCALE_METHODS if bleh else ()))))


def resize(features: Tensor, size: Sequence[int], mode: str) -> Tensor:
    """Resize (B, C, H, W) to (B, C, *size) with one of `scale_modes`.

    Raises:
        ValueError: when the mode is unknown or cannot give this size.
    """
    height, width = size
    if mode in SCALE_MODES:
        return comfy.utils.common_upscale(features, width, height, mode, "disabled")
    bleh = _bleh()
    if bleh is None or mode not in bleh.UPSCALE_METHODS:
        one_of = f"one of {', '.join(scale_modes())}"
        raise bad_input("scale mode", one_of, mode, "Choose one of them; the ComfyUI-bleh pack adds more.")
    resized = bleh.scale_samples(features, width, height, mode=mode)
    if tuple(resized.shape[-2:]) != (height, width):
        fitting = f"one that makes {height}x{width} features"
        raise bad_input("scale mode", fitting, mode, "Choose another; this one fits only some sizes.")
    return resized


def _bleh() -> Any | None:
    """Return the module with the scale modes of the ComfyUI-bleh pack, or None.

    The host names a pack's modules by its folder's path, so it cannot be imported by a fixed name.
    """
    ends = [name for name in list(sys.modules) if name.endswith(".latent_utils")]  # a few of thousands
    for module in (sys.modules[name] for name in ends if _BLEH.search(name)):
        if hasattr(module, "UPSCALE_METHODS") and hasattr(module, "scale_samples"):
            return module
    return None
