"""What belongs to every node, through the real server: workflows, help pages, a quiet start."""

from __future__ import annotations

import json
import re
import urllib.request

import pytest
from megapixel.nodes import NODES

from devhost.demo import EXAMPLES, workflow_prompt
from devhost.environment import ROOT
from devhost.workflow import to_graph

PAGES = sorted(file.name for file in (ROOT / "web" / "docs").iterdir())


@pytest.mark.parametrize("name", PAGES)
def test_help_pages_and_their_pictures_are_served(server, name):
    with urllib.request.urlopen(f"{server.address}/extensions/megapixel/docs/{name}") as page:
        assert page.status == 200
        assert page.read() == (ROOT / "web" / "docs" / name).read_bytes()


def test_every_picture_of_a_help_page_is_there():
    for page in (ROOT / "web" / "docs").glob("*.md"):
        for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
            assert picture in PAGES, f"{page.name} shows {picture}"


def test_the_words_of_every_language_are_served(server):
    with urllib.request.urlopen(f"{server.address}/i18n") as answer:
        served = json.load(answer)
    files = sorted((ROOT / "locales").glob("*/nodeDefs.json"))
    assert {file.parent.name for file in files} == {"ja", "ko", "zh"}
    for file in files:
        words = json.loads(file.read_text(encoding="utf-8"))
        assert served[file.parent.name]["nodeDefs"].items() >= words.items()
    assert served["ja"]["nodeCategories"]["segments"] == "セグメント"


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_an_example_workflow_is_the_one_that_runs_in_the_demo(server, file):
    example = json.loads(file.read_text(encoding="utf-8"))
    known = server.object_info()
    assert {node["type"] for node in example["nodes"]} <= set(known)
    fresh = to_graph(workflow_prompt(EXAMPLES[file]), known)
    # The order of entries and the offer of a download aside, the file is what the function makes.
    assert [(n["type"], n["widgets_values"]) for n in example["nodes"]] == [
        (n["type"], n["widgets_values"]) for n in fresh["nodes"]
    ]
    assert file.with_suffix(".jpg").is_file()


def test_every_node_is_there_and_the_start_has_no_warning(server):
    known = server.object_info()
    for node in NODES:
        assert known[node.__name__]["python_module"] == "custom_nodes.megapixel"
    log = server.log.read_text()
    assert not re.search(r"(Traceback|Cannot import|IMPORT FAILED|invalid).*megapixel", log, re.IGNORECASE)
