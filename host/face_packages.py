"""The packages for face analysis: imported when a face node runs, and what to do if that fails.

onnxruntime and its NVIDIA build, onnxruntime-gpu, use the same folder, and the one installed last is
imported.
"""

from __future__ import annotations

import importlib
import platform
from importlib.metadata import packages_distributions
from typing import Any

import comfy.model_management

from ..errors import bad_input
from .face_install import GPU_BUILD, MODULES, install_command, missing_modules, other_runtimes, pip_install

PROVIDERS = {  # their names in onnxruntime, the older one first
    "CPU": (),
    "CUDA": ("CUDAExecutionProvider",),
    "ROCM": ("ROCMExecutionProvider", "MIGraphXExecutionProvider"),
    "CoreML": ("CoreMLExecutionProvider",),
}
CPU = "CPUExecutionProvider"
ANOTHER = "Set provider to CPU, or to one that this onnxruntime has."
LOG = "The log names the missing library. Install it and restart ComfyUI, or set provider to CPU."


def import_face_analysis() -> Any:
    """Return insightface's class FaceAnalysis.

    Raises:
        ValueError: when it cannot be imported; the message has the command for this Python.
    """
    try:
        from insightface.app import FaceAnalysis
    except ImportError as failure:
        raise _remedy(failure) from failure
    return FaceAnalysis


def choose_providers(provider: str) -> tuple[list[str], list[str]]:
    """Return onnxruntime's names for the provider and then for the CPU;
    and a notice if only the CPU is left.
    """
    import onnxruntime

    available = onnxruntime.get_available_providers()
    names = [name for name in PROVIDERS[provider] if name in available][:1]
    texts: list[str] = []
    if PROVIDERS[provider] and not names:
        remedy = _cuda_remedy() if provider == "CUDA" and _on_nvidia() else ANOTHER
        texts.append(
            f"provider: expected {provider}, got an onnxruntime without it. The CPU is used. {remedy}"
        )
    return [*names, CPU], texts


def not_started(provider: str, wanted: list[str], got: list[str]) -> list[str]:
    """Return a notice if a provider of onnxruntime could not be started."""
    if set(wanted) <= set(got):
        return []
    return [f"provider: expected {provider}, got libraries that do not fit. The CPU is used. {LOG}"]


def _remedy(failure: ImportError) -> ValueError:
    expected, missing = "packages that can be imported", missing_modules()
    if missing:
        got = " and ".join(f"no {MODULES[module]}" for module in missing)
        command = install_command(missing, nvidia=_on_nvidia())
        return bad_input("insightface", expected, got, f"Run {command} and restart ComfyUI.")
    module, reason = _broken() or ("insightface", failure)
    package = (packages_distributions().get(module) or [MODULES[module]])[0]  # one of its builds
    got = f"an error in {package} ({reason})"
    if "shared object" in str(reason):  # of the system, such as libGL.so.1
        hint = "Install the library named in the error with the system's package manager and restart ComfyUI."
    else:
        again = pip_install("--force-reinstall", "--no-deps", package)
        hint = f"Run {again} and restart ComfyUI."
    return bad_input("insightface", expected, got, hint)


def _broken() -> tuple[str, ImportError] | None:
    """Return the first installed package of insightface's requirements that cannot be imported, and why."""
    for module in list(MODULES)[1:]:
        try:
            importlib.import_module(module)
        except ImportError as failure:
            return module, failure
    return None


def _cuda_remedy() -> str:
    """Return the command that restores the NVIDIA build, unless another build was chosen."""
    if others := other_runtimes():
        installed = " and ".join(others)
        return f"{installed} is installed into the same folder as {GPU_BUILD}; only one of them can be there."
    return f"Run {pip_install('--force-reinstall', '--no-deps', GPU_BUILD)} and restart ComfyUI."


def _on_nvidia() -> bool:
    """Return whether ComfyUI computes on an NVIDIA GPU for which there is a build of onnxruntime."""
    return comfy.model_management.is_nvidia() and platform.machine() in ("x86_64", "AMD64")
