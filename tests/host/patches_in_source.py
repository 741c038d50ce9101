"""What the host's own source puts into a model's patches, wrappers and functions, found by reading it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

SETTER = re.compile(
    r"set_model_(?!compute_dtype|rope_options)\w+|add_wrapper\w*|add_callback\w*|set_model_options_\w+"
)


def patches_in_source(root: Path) -> set[str]:
    """Return file and name of each class and function that files below `comfy_extras`
    and `comfy/ldm` put into a model.
    """
    files = [*root.glob("comfy_extras/**/*.py"), *root.glob("comfy/ldm/**/*.py")]
    found: set[str] = set()
    defined: dict[str, str] = {}
    for file in files:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        found.update(_named_patches(tree, file.stem), _patches_in(tree, file.stem))
        classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
        defined.update({node.name: file.stem for node in classes})
    return {
        f"{defined.get(name.partition('.')[2], name.partition('.')[0])}.{name.partition('.')[2]}"
        for name in found
    }


def _patches_in(tree: ast.Module, stem: str) -> Iterator[str]:
    for chain, node in _calls(tree, ()):
        if isinstance(node.func, ast.Attribute) and SETTER.fullmatch(node.func.attr):
            for value in [*node.args, *(keyword.value for keyword in node.keywords)]:
                for name in _names_of(value, chain):
                    yield f"{stem}.{name}"


def _named_patches(tree: ast.Module, stem: str) -> Iterator[str]:
    """Yield patches and wrappers by their names, which may be put into a model in another way."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.ClassDef)
            and re.search("(?i)(patch|wrapper)$", node.name)
            and any(getattr(each, "name", "") == "__call__" for each in node.body)
        ):
            yield f"{stem}.{node.name}"


def _calls(node: ast.AST, chain: tuple[ast.AST, ...]) -> Iterator[tuple[tuple[ast.AST, ...], ast.Call]]:
    """Yield each call with the module, the classes and the functions around it."""
    if isinstance(node, ast.Call):
        yield chain, node
    inner = (
        (*chain, node)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        else chain
    )
    for child in ast.iter_child_nodes(node):
        yield from _calls(child, inner)


def _names_of(value: ast.AST, chain: tuple[ast.AST, ...]) -> Iterator[str]:
    """Yield the qualified name of what an argument is: of a class for an object or a method,
    of a function for itself.
    """
    if isinstance(value, ast.Tuple):
        for each in value.elts:
            yield from _names_of(each, chain)
    elif isinstance(value, ast.Lambda):
        yield f"{_qualified(chain)}<lambda>"
    elif isinstance(value, ast.Call):
        name = ast.unparse(value.func).rpartition(".")[2]
        if name[:1].isupper():
            yield name
    elif isinstance(value, ast.Attribute) and ast.unparse(value.value) == "self":
        yield next(part.name for part in reversed(chain) if isinstance(part, ast.ClassDef))
    elif isinstance(value, ast.Name):
        yield from _defined(value.id, chain)


def _defined(name: str, chain: tuple[ast.AST, ...]) -> Iterator[str]:
    """Yield what a name was given in the functions around it, the nearest first."""
    for depth in range(len(chain), 0, -1):
        scope = chain[depth - 1]
        if isinstance(scope, ast.ClassDef):
            continue
        found = False
        for node in ast.walk(scope):
            if isinstance(node, ast.FunctionDef) and node.name == name and node is not scope:
                yield _qualified(chain[:depth]) + name
                found = True
            if isinstance(node, ast.Assign) and any(ast.unparse(target) == name for target in node.targets):
                yield from _names_of(node.value, chain[:depth])
                found = True
        if found:
            return


def _qualified(chain: tuple[ast.AST, ...]) -> str:
    """Return the prefix of a qualified name inside classes and functions."""
    parts = [
        part.name + (".<locals>." if not isinstance(part, ast.ClassDef) else ".")
        for part in chain
        if not isinstance(part, ast.Module)
    ]
    return "".join(parts)
