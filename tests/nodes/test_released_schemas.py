"""Graphs saved with the last release: they open and run, because nothing that they hold on to was taken away.

A release is a tag `v<version>`, and its schemas are the snapshot beside this file as it was there. A graph in
the front end holds widgets by place, links by name and outputs by number; a prompt holds everything by name.
"""

from __future__ import annotations

import copy
import json
import subprocess

import pytest

from devhost.environment import ROOT

SNAPSHOT = "tests/nodes/schemas.json"
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}


def git(*arguments):
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)


def inputs(node):
    """Return {name: (group, kind, options)} of a node's inputs, in order."""
    return {
        name: (group, *node["input"][group][name])
        for group in ("required", "optional")
        for name in node["input_order"].get(group, ())
    }


def widgets(node):
    return [name for name, (_, kind, options) in inputs(node).items()
            if kind in WIDGETS and not options.get("forceInput")]  # fmt: skip


def is_narrower(old, new):
    """Return whether an input refuses a value that it took before."""
    return (
        new.get("min", float("-inf")) > old.get("min", float("-inf"))
        or new.get("max", float("inf")) < old.get("max", float("inf"))
        or not set(old.get("options") or ()) <= set(new.get("options") or ())
    )


def broken(released, current):
    """Yield a text for each way in which the current schemas fail graphs of the released ones."""
    for node_id, old in released.items():
        if node_id not in current:
            yield f"{node_id} is gone"
            continue
        yield from (f"{node_id}: {fault}" for fault in _broken_node(old, current[node_id]))


def _broken_node(old, new):
    before, after = inputs(old), inputs(new)
    for name, (_, kind, options) in before.items():
        if name not in after:
            yield f"{name} is gone"
        elif after[name][1] != kind:
            yield f"{name} was {kind}, is {after[name][1]}"
        elif is_narrower(options, after[name][2]):
            yield f"{name} takes less"
    for name, (group, *_) in after.items():
        if group == "required" and before.get(name, ("",))[0] != "required":
            yield f"{name} must now be given"
    if widgets(new)[: len(widgets(old))] != widgets(old):
        yield "widgets have moved"
    if new["output"][: len(old["output"])] != old["output"]:
        yield "outputs have moved"


@pytest.fixture(scope="module")
def current():
    return json.loads((ROOT / SNAPSHOT).read_text(encoding="utf-8"))


def test_graphs_of_the_last_release_open_and_run(current):
    tag = git("describe", "--tags", "--abbrev=0", "--match=v*")
    if tag.returncode:
        pytest.skip("nothing is released yet, or the checkout has no tags")
    released = json.loads(git("show", f"{tag.stdout.strip()}:{SNAPSHOT}").stdout)
    assert list(broken(released, current)) == []


def test_what_is_added_at_the_end_breaks_nothing(current):
    changed = copy.deepcopy(current)
    node = changed["MegapixelDeepShrink"]
    node["input"].setdefault("optional", {})["new"] = ["INT", {"default": 0}]
    node["input_order"].setdefault("optional", []).append("new")
    node["input"]["required"]["block_number"][1]["max"] += 1
    node["output"].append("IMAGE")
    changed["MegapixelNew"] = node
    assert list(broken(current, changed)) == []


def remove_node(nodes, node):
    del nodes["MegapixelDeepShrink"]


def remove_input(nodes, node):
    del node["input"]["required"]["model"]
    node["input_order"]["required"].remove("model")


def change_type(nodes, node):
    node["input"]["required"]["block_number"][0] = "STRING"


def narrow_range(nodes, node):
    node["input"]["required"]["block_number"][1]["max"] = 4


def remove_option(nodes, node):
    node["input"]["required"]["upscale_method"][1]["options"].pop()


def require_more(nodes, node):
    node["input"]["required"]["new"] = ["IMAGE", {}]
    node["input_order"]["required"].append("new")


def move_widgets(nodes, node):
    node["input_order"]["required"].reverse()


def move_outputs(nodes, node):
    node["output"].insert(0, "IMAGE")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (remove_node, "is gone"),
        (remove_input, "model is gone"),
        (change_type, "block_number was INT, is STRING"),
        (narrow_range, "block_number takes less"),
        (remove_option, "upscale_method takes less"),
        (require_more, "new must now be given"),
        (move_widgets, "widgets have moved"),
        (move_outputs, "outputs have moved"),
    ],
)
def test_what_breaks_saved_graphs_is_found(current, change, fault):
    changed = copy.deepcopy(current)
    change(changed, changed["MegapixelDeepShrink"])
    found = list(broken(current, changed))
    assert any(
        sentence.startswith("MegapixelDeepShrink") and sentence.endswith(fault) for sentence in found
    ), found
