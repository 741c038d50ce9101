"""The command that installs the packages of the face nodes and changes no installed package.

insightface requires `onnxruntime` and `opencv-python` by these names. Their other builds (onnxruntime-gpu,
-openvino, -directml; opencv-contrib-python, opencv-python-headless) use the same folders under other names,
so an ordinary installation would overwrite them. If such a build is or will be installed, insightface is
installed without its requirements, after the missing ones. Every package that pip might update is pinned to
its installed version: pip then finds versions that fit, or stops.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys

INSIGHTFACE = "insightface"
MODULES = {  # what insightface 0.7 to 2.1 imports, and the package to install where it is missing
    INSIGHTFACE: INSIGHTFACE,
    "onnxruntime": "onnxruntime",
    "cv2": "opencv-python",
    "onnx": "onnx",
    "skimage": "scikit-image",
    "scipy": "scipy",
    "requests": "requests",
    "tqdm": "tqdm",
}
GPU_BUILD = "onnxruntime-gpu"
CLOSURE = (  # what these packages require in turn
    "numpy", "scipy", "requests", "tqdm", "protobuf", "ml_dtypes", "typing_extensions", "flatbuffers", "packaging", "networkx", "pillow",
    "imageio", "tifffile", "lazy-loader", "charset-normalizer", "idna", "urllib3", "certifi", "onnx", "scikit-image",
)  # fmt: skip


def missing_modules() -> list[str]:
    """Return the missing modules of MODULES, in that order."""
    return [module for module in MODULES if not has_module(module)]


def install_command(missing: list[str], *, nvidia: bool) -> str:
    """Return the command to install the missing modules; one command, or two joined by "and then".

    Args:
        missing: from `missing_modules`, not empty.
        nvidia: whether ComfyUI computes on an NVIDIA GPU, so that a missing onnxruntime is to be the build
            for it.
    """
    names = dict(MODULES, onnxruntime=GPU_BUILD) if nvidia else MODULES
    packages = [names[module] for module in missing]
    if INSIGHTFACE not in missing or not _other_builds(missing, names):
        return pip_install(*packages, *_pins())
    alone = pip_install("--no-deps", INSIGHTFACE)
    others = packages[1:]
    return f"{pip_install(*others, *_pins())} and then {alone}" if others else alone


def pip_install(*arguments: str) -> str:
    """Return the command that installs into the Python that runs this; with uv if this Python has no pip."""
    python = f'"{sys.executable}"' if " " in sys.executable else sys.executable
    start = f"{python} -m pip install" if has_module("pip") else f"uv pip install --python {python}"
    return " ".join([start, *arguments])


def has_module(name: str) -> bool:
    """Return whether a module of this name can be found;
    a leftover namespace of an uninstalled package does not count.
    """
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None


def installed(package: str) -> bool:
    """Return whether a package of exactly this name is installed."""
    return any(importlib.metadata.distributions(name=package))


def other_runtimes() -> list[str]:
    """Return the installed builds of onnxruntime other than those for the CPU and for NVIDIA."""
    names = {(found.name or "").lower() for found in importlib.metadata.distributions()}
    return sorted(
        name
        for name in names
        if name.startswith("onnxruntime-") and name not in (GPU_BUILD, "onnxruntime-extensions")
    )


def _other_builds(missing: list[str], names: dict[str, str]) -> bool:
    """Return whether onnxruntime or OpenCV is or will be installed under a name that
    insightface does not require.
    """
    return any(
        names[module] != MODULES[module] if module in missing else not installed(MODULES[module])
        for module in ("onnxruntime", "cv2")
    )


def _pins() -> list[str]:
    """Return "name==version" for each package of CLOSURE that is installed."""
    pins: list[str] = []
    for package in CLOSURE:
        found = next(iter(importlib.metadata.distributions(name=package)), None)
        if found is not None:
            pins.append(f"{package}=={found.version}")
    return pins
