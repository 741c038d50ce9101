"""The papers at the root: every node is named, and every file that they point at is there."""

from __future__ import annotations

import re

import pytest
from megapixel.nodes import NODES

from devhost.environment import ROOT

PAPERS = ("README.md", "TROUBLESHOOTING.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.__name__)
def test_the_readme_links_every_node_by_its_name_to_its_help_page(node):
    name = re.sub(r",? ?\(?Megapixel\)$", "", node.GET_SCHEMA().display_name)
    name += ")" if "(" in name else ""
    assert f"[{name}](web/docs/{node.__name__}.md)" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("paper", PAPERS)
def test_links_lead_to_what_is_there(paper):
    text = (ROOT / paper).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_readme_offers_every_workflow():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for file in (ROOT / "example_workflows").glob("*.json"):
        assert f"(example_workflows/{file.name})" in text


def test_the_version_is_one_everywhere():
    version = re.search(
        r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE
    )[1]
    assert f"Version {version}" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"version: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\n## {version} - " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
