"""Every name of ComfyUI that the pack imports or reads from an imported module is there in the installed one.

What differs between versions is asked for in host/compat.py, with `getattr`.
"""

from __future__ import annotations

import ast
import importlib

import pytest

from devhost.house import ROOT, pack_files

FILES = sorted(pack_files(ROOT))


def names_of_the_host(tree):
    """Yield the (module, attributes) of ComfyUI that a file imports, and those that it reads as `comfy.…`."""
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").startswith("comfy"):
            yield from ((node.module, (alias.name,)) for alias in node.names)
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names if alias.name.startswith("comfy")}
    yield from ((module, ()) for module in modules)
    for node in ast.walk(tree):
        path = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
        for module in modules:
            if path.startswith(f"{module}.") and path.replace(".", "").isidentifier():
                yield module, (path.removeprefix(f"{module}.").split(".")[0],)


def exists(module, attributes):
    try:
        found = importlib.import_module(module)
        return all(hasattr(found, name) or importlib.import_module(f"{module}.{name}") for name in attributes)
    except ImportError:
        return False


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_they_are_there(file):
    found = set(names_of_the_host(ast.parse(file.read_text(encoding="utf-8"))))
    assert [name for name in found if not exists(*name)] == []


def test_the_search_sees_what_is_missing():
    source = "import comfy.utils\nfrom comfy.sample import nothing\nfrom comfy_api.latest import io\ncomfy.utils.never(1)"
    found = set(names_of_the_host(ast.parse(source)))
    assert sorted(name for name in found if not exists(*name)) == [
        ("comfy.sample", ("nothing",)),
        ("comfy.utils", ("never",)),
    ]
