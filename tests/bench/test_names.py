"""A benchmark, which no other test runs, still finds what it imports from this project."""

from __future__ import annotations

import ast
import importlib

import pytest

from devhost.environment import ROOT

OURS = ("bench", "devhost", "megapixel")


def imported(tree):
    """Yield the (module, name) that a file imports from this project."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] in OURS:
            yield from ((node.module, alias.name) for alias in node.names)


def is_there(module, name):
    try:
        found = importlib.import_module(module)
        return hasattr(found, name) or importlib.import_module(f"{module}.{name}") is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("file", sorted((ROOT / "bench").glob("*.py")), ids=lambda file: file.stem)
def test_it_finds_what_it_imports(file):
    names = set(imported(ast.parse(file.read_text(encoding="utf-8"))))
    assert [name for name in names if not is_there(*name)] == []


def test_the_search_sees_what_is_missing():
    source = "from devhost.tiny.unet import no_such_loader\nfrom devhost.environment import ROOT\nfrom devhost import host"
    assert [name for name in imported(ast.parse(source)) if not is_there(*name)] == [
        ("devhost.tiny.unet", "no_such_loader")
    ]
