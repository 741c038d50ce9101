"""The packages that face analysis needs: imported when a face node runs, and what to do where that fails.

onnxruntime and its build for NVIDIA, onnxruntime-gpu, fill one folder, and the one that was installed last is what imports.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from typing import Any

from ..errors import bad_input
from .log import log

PACKAGES = {"insightface": "insightface", "onnxruntime": "onnxruntime", "cv2": "opencv-python"}
GPU_BUILD = "onnxruntime-gpu"
PROVIDERS = {  # their names in onnxruntime, the older one first
    "CPU": (),
    "CUDA": ("CUDAExecutionProvider",),
    "ROCM": ("ROCMExecutionProvider", "MIGraphXExecutionProvider"),
    "CoreML": ("CoreMLExecutionProvider",),
}
CPU = "CPUExecutionProvider"


def import_face_analysis() -> Any:
    """Return insightface's class FaceAnalysis.

    Raises:
        ValueError: it cannot be imported; the message holds the command for this Python.
    """
    try:
        from insightface.app import FaceAnalysis
    except ImportError as failure:
        raise _not_importable(failure) from failure
    return FaceAnalysis


def choose_providers(provider: str) -> list[str]:
    """Return onnxruntime's names for the provider and then for the CPU; log where only the CPU is left."""
    import onnxruntime

    available = onnxruntime.get_available_providers()
    names = [name for name in PROVIDERS[provider] if name in available][:1]
    if PROVIDERS[provider] and not names:
        remedy = f" Run {_pip(_again())}" if provider == "CUDA" else ""
        log.warning(
            "provider: expected %s, got an onnxruntime without it: the CPU does it.%s", provider, remedy
        )
    return [*names, CPU]


def report_fallback(provider: str, wanted: list[str], got: list[str]) -> None:
    """Log where a provider that onnxruntime has could not be started."""
    if not set(wanted) <= set(got):
        log.warning("provider: expected %s, got libraries that do not fit: the CPU does it.", provider)


def _not_importable(failure: ImportError) -> ValueError:
    missing = [package for module, package in PACKAGES.items() if importlib.util.find_spec(module) is None]
    if not missing:
        got, command = f"an error ({failure})", _pip("--force-reinstall --no-deps insightface")
    else:
        got, command = f"no {' and no '.join(missing)}", _pip(" ".join(missing))
        if any(importlib.metadata.distributions(name=GPU_BUILD)):
            command += f" and then {_pip(_again())}"
    hint = f"Run {command} and restart ComfyUI."
    return bad_input("insightface", "a package that can be imported", got, hint)


def _again() -> str:
    """Return what makes the build for NVIDIA the one that imports."""
    return f"--force-reinstall --no-deps {GPU_BUILD}"


def _pip(arguments: str) -> str:
    """Return the command that installs into the Python that runs this."""
    python = f'"{sys.executable}"' if " " in sys.executable else sys.executable
    return f"{python} -m pip install {arguments}"
