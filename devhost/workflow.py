"""Converts an API prompt, which the server runs, to a workflow that the front end opens.

A prompt names each node's inputs; the graph that the front end opens (version 0.4) lists sockets, links,
positions, and the widgets' values by position, in the order of the node's schema. The layout runs from left
to right: a node is to the right of all its inputs, level with the first of them if there is room.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Prompt = Mapping[str, Mapping[str, Any]]
Graph = dict[str, Any]

_WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3"}
_SEED_NAMES = {"seed", "noise_seed"}
_SHOW_PICTURES = {
    "LoadImage",
    "SaveImage",
    "PreviewImage",
    "MegapixelPlan",
    "MegapixelSEGSPreview",
    "LoadVideo",
    "MegapixelUpscaleVideo",
}
_GAP = (80, 80)
_WIDTH, _TEXT_WIDTH = 320, 420
_TITLE, _SLOT, _WIDGET, _TEXT, _PICTURE = 40, 24, 30, 110, 320


@dataclass(frozen=True)
class _Input:
    """One input of a node's schema."""

    name: str
    type: str
    is_widget: bool
    default: Any
    is_seed: bool
    is_text: bool


@dataclass(frozen=True)
class _Link:
    """An output slot joined to an input slot; nodes by their ids in the prompt."""

    number: int
    source: str
    source_slot: int
    target: str
    target_slot: int
    type: str


@dataclass(frozen=True)
class _Node:
    """A node of the prompt beside what its schema says."""

    key: str
    number: int
    type: str
    title: str
    inputs: tuple[_Input, ...]
    outputs: tuple[tuple[str, str], ...]
    given: Mapping[str, Any]

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) with room for every slot and widget, and for images if the node shows some."""
        widgets = [entry for entry in self.inputs if entry.is_widget]
        texts = sum(entry.is_text for entry in widgets)
        slots = max(len(self.inputs) - len(widgets), len(self.outputs))
        lines = len(widgets) + sum(entry.is_seed for entry in widgets)
        shows = self.type in _SHOW_PICTURES
        height = _TITLE + _SLOT * slots + _WIDGET * lines + _TEXT * texts + _PICTURE * shows
        return (_TEXT_WIDTH if texts or shows else _WIDTH), height


def to_graph(prompt: Prompt, object_info: Mapping[str, Any]) -> Graph:
    """Return the workflow that the front end turns back into exactly this prompt.

    Nodes keep their `_meta` titles, and their ids if all are numbers; a linked widget keeps its default.

    Raises:
        ValueError: when `object_info` does not have a node or an input of the prompt, or a value is missing.
    """
    nodes = _nodes(prompt, object_info)
    links = list(_links(nodes))
    positions = _positions(nodes, links)
    return {
        "revision": 0,
        "last_node_id": max((node.number for node in nodes.values()), default=0),
        "last_link_id": len(links),
        "nodes": [
            _node_entry(node, order, positions[node.key], links) for order, node in enumerate(nodes.values())
        ],
        "links": [
            [link.number, nodes[link.source].number, link.source_slot,
             nodes[link.target].number, link.target_slot, link.type]
            for link in links
        ],
        "groups": [],
        "config": {},
        "extra": {},
        "version": 0.4,
    }  # fmt: skip


def prompt_node(class_type: str, title: str, **inputs: Any) -> dict[str, Any]:
    """Return a node of an API prompt with a title as the front end stores it."""
    return {"class_type": class_type, "inputs": inputs, "_meta": {"title": title}}


def read_png_text(path: Path) -> dict[str, str]:
    """Return the text chunks of a PNG by keyword, such as `prompt` and `workflow`."""
    from PIL import Image, PngImagePlugin

    with Image.open(path, formats=["PNG"]) as picture:
        assert isinstance(picture, PngImagePlugin.PngImageFile)
        return dict(picture.text)


def _nodes(prompt: Prompt, object_info: Mapping[str, Any]) -> dict[str, _Node]:
    numbered = all(key.isdecimal() for key in prompt)
    nodes = {}
    for position, (key, entry) in enumerate(prompt.items(), start=1):
        name = entry["class_type"]
        if name not in object_info:
            raise ValueError(f"class_type: expected a node that the server knows, got {name} in node {key}")
        schema = object_info[name]
        inputs = tuple(_schema_inputs(schema))
        if unknown := entry["inputs"].keys() - {known.name for known in inputs}:
            raise ValueError(
                f"inputs: expected those of {name}, got {', '.join(sorted(unknown))} in node {key}"
            )
        nodes[key] = _Node(
            key=key,
            number=int(key) if numbered else position,
            type=name,
            title=entry.get("_meta", {}).get("title") or schema["display_name"],
            inputs=inputs,
            outputs=tuple(zip(schema["output_name"], schema["output"], strict=True)),
            given=entry["inputs"],
        )
    return nodes


def _schema_inputs(schema: Mapping[str, Any]) -> Iterator[_Input]:
    for group in ("required", "optional"):
        for name, (kind, *rest) in schema["input"].get(group, {}).items():
            options = rest[0] if rest else {}
            choices = kind if isinstance(kind, list) else options.get("options")
            type_name = "COMBO" if isinstance(kind, list) else kind
            yield _Input(
                name=name,
                type=type_name,
                is_widget=type_name in _WIDGET_TYPES and not options.get("forceInput"),
                default=options.get("default", choices[0] if choices else None),
                is_seed=options.get("control_after_generate", type_name == "INT" and name in _SEED_NAMES),
                is_text=type_name == "STRING" and options.get("multiline", False),
            )


def _is_link(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2


def _links(nodes: Mapping[str, _Node]) -> Iterator[_Link]:
    number = 0
    for node in nodes.values():
        for slot, entry in enumerate(node.inputs):
            value = node.given.get(entry.name)
            if value is None or not _is_link(value):
                continue
            source, source_slot = value
            if source not in nodes or source_slot >= len(nodes[source].outputs):
                raise ValueError(
                    f"{entry.name}: expected an output in the prompt, got {value} in node {node.key}"
                )
            number += 1
            yield _Link(number, source, source_slot, node.key, slot, nodes[source].outputs[source_slot][1])


def _node_entry(node: _Node, order: int, position: tuple[int, int], links: list[_Link]) -> dict[str, Any]:
    into = {link.target_slot: link.number for link in links if link.target == node.key}
    return {
        "id": node.number,
        "type": node.type,
        "pos": list(position),
        "size": list(node.size),
        "flags": {},
        "order": order,
        "mode": 0,
        "inputs": [
            {"name": entry.name, "type": entry.type, "link": into.get(slot)}
            | ({"widget": {"name": entry.name}} if entry.is_widget else {})
            for slot, entry in enumerate(node.inputs)
        ],
        "outputs": [
            {"name": name, "type": kind, "links": _out_of(node, slot, links)}
            for slot, (name, kind) in enumerate(node.outputs)
        ],
        "title": node.title,
        "properties": {"Node name for S&R": node.type},
        "widgets_values": list(_widget_values(node)),
    }


def _out_of(node: _Node, slot: int, links: list[_Link]) -> list[int]:
    return [link.number for link in links if (link.source, link.source_slot) == (node.key, slot)]


def _widget_values(node: _Node) -> Iterator[Any]:
    for entry in node.inputs:
        if not entry.is_widget:
            continue
        value = node.given.get(entry.name, entry.default)
        yield entry.default if _is_link(value) else value
        if entry.is_seed:
            yield "fixed"  # what the front end does with the seed after a run


def _positions(nodes: Mapping[str, _Node], links: list[_Link]) -> dict[str, tuple[int, int]]:
    """Return the upper left corner of every node; no two nodes overlap."""
    columns = _columns(nodes, links)
    first_source = {link.target: link.source for link in reversed(links)}
    positions: dict[str, tuple[int, int]] = {}
    left = 0
    for column in range(max(columns.values(), default=-1) + 1):
        members = [node for key, node in nodes.items() if columns[key] == column]
        bottom = 0
        for node in members:
            level = positions[first_source[node.key]][1] if node.key in first_source else 0
            positions[node.key] = (left, max(bottom, level))
            bottom = positions[node.key][1] + node.size[1] + _GAP[1]
        left += max((node.size[0] for node in members), default=0) + _GAP[0]
    return positions


def _columns(nodes: Mapping[str, _Node], links: list[_Link]) -> dict[str, int]:
    """Return each node's column: right of all it reads from, or else just left of its first reader."""
    sources = {key: [link.source for link in links if link.target == key] for key in nodes}
    targets = {key: [link.target for link in links if link.source == key] for key in nodes}
    depths: dict[str, int] = {}

    def depth(key: str) -> int:
        if key not in depths:
            depths[key] = max((depth(source) + 1 for source in sources[key]), default=0)
        return depths[key]

    return {
        key: min(depth(target) for target in targets[key]) - 1
        if targets[key] and not sources[key]
        else depth(key)
        for key in nodes
    }
