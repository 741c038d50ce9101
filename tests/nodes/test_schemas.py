"""Every node's schema as users' graphs know it: ids, inputs in order,
defaults and ranges never change silently.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from megapixel.nodes import NODES

from devhost.schemas import SNAPSHOT, contracts

SECTIONS = ("When to use it", "Inputs", "When bypassed", "What can go wrong")  # of every help page


def test_schemas_are_as_released():
    assert contracts(NODES) == json.loads(SNAPSHOT.read_text(encoding="utf-8")), "dev.py schemas writes them"


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
    assert [section for section in SECTIONS if f"\n## {section}\n" not in text] == []
    assert "\n|" not in text, "a table is wider than the panel of the front end"
