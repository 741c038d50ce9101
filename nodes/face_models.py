"""Load insightface's FaceAnalysis with antelopev2, which is taken from where it lies and never downloaded.

insightface downloads a model whose folder is missing, so it is only ever given a folder that holds the files.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import sys
from pathlib import Path
from typing import Any

import folder_paths

log = logging.getLogger("megapixel")

AUTO = "auto"
FILES = ("glintr100.onnx", "scrfd_10g_bnkps.onnx")  # recognition and detection
TASKS = ("detection", "recognition")
DEPTH = 4  # of folders: the archive holds one of its own, so that models/antelopev2/antelopev2 is common
CPU = "CPUExecutionProvider"
PROVIDERS = {  # their names in onnxruntime, the older one first
    "CPU": (),
    "CUDA": ("CUDAExecutionProvider",),
    "ROCM": ("ROCMExecutionProvider", "MIGraphXExecutionProvider"),
    "CoreML": ("CoreMLExecutionProvider",),
}


def list_model_folders() -> dict[str, Path]:
    """Return the folders that hold antelopev2, by their names below the insightface folders; shallow ones first."""
    found: dict[str, Path] = {}
    for root in _roots():
        for depth in range(DEPTH):
            for file in sorted(root.glob("*/" * depth + FILES[0])):
                if all((file.parent / name).is_file() for name in FILES):
                    found.setdefault(file.parent.relative_to(root).as_posix(), file.parent)
    return found


def load_analysis(provider: str, folder: str = AUTO) -> Any:
    """Return insightface's FaceAnalysis, ready to detect and to recognise.

    Raises:
        ValueError: no insightface, no model or a broken one; one sentence with the remedy.
    """
    analysis_class = _analysis_class()
    path = _model_folder(folder)
    wanted = _available(provider)
    try:
        analysis = analysis_class(name=str(path), allowed_modules=[*TASKS], providers=[*wanted, CPU])
    except Exception as failure:  # those of onnxruntime have no base of their own
        raise ValueError(_broken(path, failure)) from failure
    if set(wanted) - set(analysis.models["detection"].session.get_providers()):
        log.warning(
            "provider: expected %s, got an onnxruntime that could not start it. Faces are analysed on the CPU.",
            provider,
        )
    analysis.prepare(ctx_id=0, det_size=(640, 640))
    return analysis


def _roots() -> list[Path]:
    """Return the registered insightface folders and the usual one."""
    usual = str(Path(folder_paths.models_dir, "insightface"))
    registered, _ = folder_paths.folder_names_and_paths.get("insightface", ([], set()))
    return [Path(root) for root in dict.fromkeys([*registered, usual])]


def _model_folder(folder: str) -> Path:
    found = list_model_folders()
    if folder in found:
        return found[folder]
    if folder == AUTO and found:
        return next(iter(found.values()))
    places = " or ".join(str(root / "models" / "antelopev2") for root in _roots())
    wanted = "antelopev2" if folder == AUTO else folder
    raise ValueError(
        f"folder: expected {FILES[0]} and {FILES[1]} side by side, got no such folder for {wanted}. "
        f"Unpack antelopev2.zip of insightface's model zoo into {places}."
    )


def _analysis_class() -> Any:
    try:
        from insightface.app import FaceAnalysis
    except ImportError as failure:
        raise ValueError(_not_installed(failure)) from failure
    return FaceAnalysis


def _available(provider: str) -> list[str]:
    """Return the provider's name in onnxruntime, nothing for the CPU or where this onnxruntime lacks it."""
    import onnxruntime

    names = [name for name in PROVIDERS[provider] if name in onnxruntime.get_available_providers()]
    if PROVIDERS[provider] and not names:
        log.warning(
            "provider: expected %s, got an onnxruntime without it. Faces are analysed on the CPU.%s",
            provider,
            f" Run {_pip('--force-reinstall --no-deps onnxruntime-gpu')}" if provider == "CUDA" else "",
        )
    return names[:1]


def _not_installed(failure: ImportError) -> str:
    """Return the sentence for a package that cannot be imported."""
    packages = {"insightface": "insightface", "onnxruntime": "onnxruntime", "cv2": "opencv-python"}
    missing = [package for module, package in packages.items() if importlib.util.find_spec(module) is None]
    if not missing:
        return (
            f"insightface: expected a package that works, got: {failure}. "
            f"Run {_pip('--force-reinstall insightface')} and restart ComfyUI."
        )
    again = (
        "" if not _has("onnxruntime-gpu") else f" and {_pip('--force-reinstall --no-deps onnxruntime-gpu')}"
    )
    return (
        f"insightface: expected it to be installed, got no {' and no '.join(missing)}. "
        f"Run {_pip(' '.join(missing))}{again}, then restart ComfyUI."
    )


def _broken(path: Path, failure: Exception) -> str:
    """Return the sentence for a folder whose files do not load."""
    names = [file.name for file in path.glob("*.onnx") if file.name in str(failure)]
    return (
        f"folder: expected ONNX networks in {path}, got one that does not load: {', '.join(names)} ({failure}). "
        "Copy the file there again; it may have been cut off."
    )


def _has(distribution: str) -> bool:
    return any(importlib.metadata.distributions(name=distribution))


def _pip(arguments: str) -> str:
    """Return the command that installs something into the Python that runs."""
    return f'"{sys.executable}" -m pip install {arguments}'
