"""The snapshot of all schemas, `tests/nodes/schemas.json`: the parts that saved workflows depend on.

`python3 dev.py schemas` writes it. A difference in a released node either breaks saved workflows or is an
addition at the end.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

from .environment import ROOT
from .host import import_host

SNAPSHOT = ROOT / "tests" / "nodes" / "schemas.json"
HOST_LISTS = {"sampler_name", "scheduler"}  # their options are the host's, and other packs add to them


def contract(node: Any) -> dict[str, Any]:
    """Return the part of a node's schema that a saved workflow depends on."""
    info = node.GET_SCHEMA().get_v1_info(node)
    inputs = {
        group: {name: [kind, _lasting(name, options)] for name, (kind, options) in sockets.items()}
        for group, sockets in info.input.items()
        if group != "hidden"  # what the host fills in, for an output node
    }
    return {
        "input": inputs,
        "input_order": {group: info.input_order[group] for group in inputs},
        "output": info.output,
        "name": info.output_name,
    }


def contracts(nodes: list[Any]) -> dict[str, dict[str, Any]]:
    """Return the contracts of all nodes by their ids, as JSON would give them back."""
    return json.loads(json.dumps({node.GET_SCHEMA().node_id: contract(node) for node in nodes}))


def _lasting(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of an input without those that may change without harm to a saved workflow."""
    changing = {"tooltip", "advanced"} | ({"options"} if name in HOST_LISTS else set())
    return {key: value for key, value in options.items() if key not in changing}


def main() -> int:
    """Write the snapshot."""
    import_host()
    nodes = importlib.import_module("megapixel.nodes").NODES
    text = json.dumps(contracts(nodes), indent=2) + "\n"
    SNAPSHOT.write_text(text, encoding="utf-8", newline="\n")
    print(SNAPSHOT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
