"""The real ComfyUI inside this process, for tests and benchmarks.

`import_host()` makes the host importable and registers the pack as the package `megapixel`, as the host
itself does under a path: the pack's own folder must not be on `sys.path`, where its `nodes` would hide the
host's `nodes.py`.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

from .environment import ROOT

PACK = "megapixel"


def import_host() -> None:
    """Make `comfy`, the host's `nodes` and `megapixel` importable. For the rest see `find_host`."""
    find_host()
    if PACK not in sys.modules:
        import_pack(ROOT, PACK)


def find_host() -> None:
    """Make `comfy` and the host's `nodes` importable, without the pack. CPU, PyTorch attention, one thread.

    Raises:
        RuntimeError: when COMFYUI_PATH is not a ComfyUI.
    """
    path = Path(os.environ.get("COMFYUI_PATH", ""))
    if not (path / "comfy").is_dir():
        raise RuntimeError(
            f"COMFYUI_PATH: expected the folder of a ComfyUI, got '{path}'. Run through `python3 dev.py`, which sets it."
        )
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
    sys.path.insert(0, str(path))
    from comfy.cli_args import args  # parses nothing unless the host's main.py asked for it

    args.cpu = True
    args.use_pytorch_cross_attention = True  # the default on a CPU is several times slower
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


def import_pack(folder: Path, name: str) -> ModuleType:
    """Import a pack as the host does, as a package of its own whatever its folder is
    called, under a name; once.
    """
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]
