"""The house: which folder may import what."""

from __future__ import annotations

import ast
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
PURE = [folder for folder in ("scaling", "attention", "upscale", "segs", "faces") if (ROOT / folder).is_dir()]
ALLOWED = {  # folder -> folders of the pack below it
    "scaling": set(),
    "attention": set(),
    "upscale": {"scaling"},
    "segs": {"scaling", "upscale"},
    "faces": set(),
    "patches": {"scaling", "attention"},
    "nodes": {"patches", "segs", "upscale", "attention", "scaling", "faces"},
}
FILES = [file for folder in ALLOWED for file in sorted((ROOT / folder).rglob("*.py"))]


def imports(file):
    """Yield (level, dotted name) of every import in a file, also those inside functions."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
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
            assert top in ALLOWED[folder], f"{file}: {folder}/ must not import '{name}'"


def test_the_checker_sees_a_forbidden_import(tmp_path):
    file = tmp_path / "x.py"
    file.write_text("def f():\n    import comfy.utils\n    from ..nodes import deep_shrink\n")
    assert set(imports(file)) == {(0, "comfy.utils"), (2, "nodes")}


def test_requirements_install_line_by_line():
    from packaging.requirements import Requirement

    for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            Requirement(line)  # raises on an option, a file or a nested list
