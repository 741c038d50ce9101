"""The words of all nodes as ComfyUI's front end reads them: `locales/<language>/nodeDefs.json`.

English is written from the schemas, by `python3 dev.py locales`; the other languages are written by hand. There a
tooltip begins with the input's own id, by which errors, help pages and other tooltips call it.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

from .environment import ROOT
from .host import import_host

LOCALES = ROOT / "locales"
ENGLISH = LOCALES / "en" / "nodeDefs.json"

Words = dict[str, Any]


def node_words(node: Any) -> Words:
    """Return the English words of one node, from its schema."""
    schema = node.GET_SCHEMA()
    info = schema.get_v1_info(node)
    inputs = {
        name: _named(name, options["tooltip"])
        for group in ("required", "optional")
        for name, (_, options) in info.input.get(group, {}).items()
    }
    outputs = zip(info.output_name, info.output_tooltips, strict=True)
    return {
        "display_name": schema.display_name,
        "description": schema.description,
        "inputs": inputs,
        "outputs": {str(index): _named(*output) for index, output in enumerate(outputs)},
    }


def english_words(nodes: list[Any]) -> dict[str, Words]:
    """Return the English words of all nodes by their ids."""
    return {node.__name__: node_words(node) for node in nodes}


def as_text(words: Words) -> str:
    """Return the file's text."""
    return json.dumps(words, ensure_ascii=False, indent=2) + "\n"


def _named(name: str, tooltip: str | None) -> dict[str, str]:
    return {"name": name, "tooltip": tooltip} if tooltip else {"name": name}


def main() -> int:
    """Write the English words."""
    import_host()
    nodes = importlib.import_module("megapixel.nodes").NODES
    ENGLISH.write_text(as_text(english_words(nodes)), encoding="utf-8", newline="\n")
    print(ENGLISH)
    return 0


if __name__ == "__main__":
    sys.exit(main())
