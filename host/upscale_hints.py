"""Notices about settings that this computer does not support, before an upscale starts."""

from __future__ import annotations

import importlib.util
import os
import shutil
from typing import Any

import comfy.model_management

from ..upscale.tensor_format import DTYPES, computes_natively

COMPILERS = ("g++", "clang++", "cl")


def upscale_hints(upscale_model: Any, precision: str = "auto", compile: bool = False, **_: Any) -> list[str]:
    """Return a text for each setting of the node that does not fit this computer."""
    patcher = getattr(upscale_model, "patcher", None)
    device = patcher.load_device if patcher else comfy.model_management.get_torch_device()
    texts: list[str] = []
    if precision in DTYPES and not computes_natively(DTYPES[precision], device):
        texts.append(
            f"precision: this processor has no instructions for {precision}, so float32 is used. Set "
            "precision to auto."
        )
    if compile and (missing := _missing_for_compile(device.type)):
        texts.append(
            f"compile: nothing to do, {missing} is not installed: the model runs uncompiled. Turn compile "
            "off."
        )
    return texts


def _missing_for_compile(device_type: str) -> str | None:
    """Return what torch.compile is missing, or None."""
    if device_type == "cpu":
        found = os.environ.get("CXX") or any(map(shutil.which, COMPILERS))
        return None if found else f"C++ compiler ({', '.join(COMPILERS)})"
    return None if importlib.util.find_spec("triton") else "package triton"
