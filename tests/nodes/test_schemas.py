"""Every node's schema as users' graphs know it: ids, inputs in order, defaults and ranges never change silently."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from megapixel.nodes import NODES

HOST_LISTS = {"sampler_name", "scheduler"}  # their options are the host's, and other packs add to them
SNAPSHOT = Path(__file__).with_name("schemas.json")


def hidden_from(name):
    """Return what may change about an input without harm to a saved workflow."""
    return {"tooltip", "advanced"} | ({"options"} if name in HOST_LISTS else set())


def contract(node):
    """Return the part of a schema that a saved workflow depends on."""
    info = node.GET_SCHEMA().get_v1_info(node)
    inputs = {
        group: {name: [kind, {k: v for k, v in options.items() if k not in hidden_from(name)}]
                for name, (kind, options) in inputs.items()}
        for group, inputs in info.input.items()
        if group != "hidden"  # what the host fills in, for an output node
    }  # fmt: skip
    return {
        "input": inputs,
        "input_order": {group: info.input_order[group] for group in inputs},
        "output": info.output,
        "name": info.output_name,
    }


def test_schemas_are_as_released():
    current = {node.GET_SCHEMA().node_id: contract(node) for node in NODES}
    released = json.loads(SNAPSHOT.read_text(encoding="utf-8"))
    assert json.loads(json.dumps(current)) == released


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.__name__)
def test_every_node_is_fit_for_people(node):
    schema = node.GET_SCHEMA()
    assert schema.node_id.startswith("Megapixel")
    assert schema.node_id == node.__name__
    assert len(schema.description) > 80
    assert schema.search_aliases
    for socket in schema.inputs:
        assert socket.tooltip, f"{socket.id} has no tooltip"


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.__name__)
def test_every_node_has_a_help_page(node):
    page = Path(__file__).resolve().parents[2] / "web" / "docs" / f"{node.__name__}.md"
    text = page.read_text(encoding="utf-8")
    for socket in node.GET_SCHEMA().inputs:
        assert f"`{socket.id}`" in text, f"{page.name} does not explain {socket.id}"
