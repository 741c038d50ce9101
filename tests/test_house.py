"""The house: which folder may import what."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HOST = {
    "comfy",
    "comfy_api",
    "comfy_extras",
    "comfy_execution",
    "nodes",
    "folder_paths",
    "server",
    "execution",
}
PURE = [
    folder
    for folder in ("scaling", "attention", "upscale", "segs", "faces", "video")
    if (ROOT / folder).is_dir()
]
ALLOWED = {  # folder -> folders of the pack below it
    "scaling": set(),
    "attention": {"scaling"},
    "upscale": {"scaling"},
    "segs": {"scaling", "upscale"},
    "faces": {"scaling"},
    "video": set(),
    "host": {"segs", "upscale", "attention", "scaling", "faces", "video"},
    "patches": {"host", "scaling", "attention"},
    "nodes": {"patches", "host", "segs", "upscale", "attention", "scaling", "faces", "video"},
}
AT_ONCE = {"torch", "numpy", "PIL", "yaml", "latent_preview"}  # the host has these when it loads a pack
ROOM_OF_ALL = {"errors"}  # what every folder may import
FILES = [file for folder in ALLOWED for file in sorted((ROOT / folder).rglob("*.py"))]


def imports(file):
    """Yield (level, dotted name) of every import in a file, also those inside functions."""
    yield from _imports(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))


def imports_at_once(file):
    """Yield the same of the imports that run when the file is loaded."""
    yield from _imports(ast.parse(file.read_text(encoding="utf-8")).body)


def _imports(nodes):
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or ""


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_point_downwards_and_pure_folders_know_no_host(file):
    folder = file.relative_to(ROOT).parts[0]
    depth = len(file.relative_to(ROOT).parts) - 1
    for level, name in imports(file):
        top = name.split(".")[0]
        if level == 0:
            assert top not in ALLOWED, f"{file}: imports inside the pack are relative, not '{name}'"
            assert folder not in PURE or top not in HOST, f"{file}: a pure folder imports '{name}'"
        elif level > depth:
            assert top in ALLOWED[folder] | ROOM_OF_ALL, f"{file}: {folder}/ must not import '{name}'"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_file_loads_at_once_only_what_the_host_has_loaded(file):
    for level, name in imports_at_once(file):
        known = AT_ONCE | HOST | sys.stdlib_module_names
        assert level or name.split(".")[0] in known, f"{file}: import '{name}' where it is used"


def test_the_pack_loads_nothing_but_itself():
    program = """
import sys
from devhost.host import PACK, find_host, import_host

find_host()
import nodes

host = set(sys.modules)
import_host()
assert f"{PACK}.nodes.upscale" in sys.modules
print(*(name for name in set(sys.modules) - host - sys.stdlib_module_names if name.split(".")[0] != PACK))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_the_checker_sees_a_forbidden_import(tmp_path):
    file = tmp_path / "x.py"
    file.write_text("def f():\n    import comfy.utils\n    from ..nodes import deep_shrink\n")
    assert set(imports(file)) == {(0, "comfy.utils"), (2, "nodes")}


def test_requirements_install_line_by_line():
    from packaging.requirements import Requirement

    for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            Requirement(line)  # raises on an option, a file or a nested list
