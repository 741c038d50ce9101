"""Draws the graph of an example workflow as its thumbnail, for examples without an image of their result.

    python3 -m devhost.graph_picture segs_z_image segs_qwen_image_edit

Nodes and links have the positions of the front end; lengths are in its units until they are drawn.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from .environment import ROOT

EXAMPLES = ROOT / "example_workflows"
WIDTH = 1200  # pixels of the thumbnail
_MARGIN, _HEAD, _SLOT = 60, 34, 20
_PAPER, _BOX, _HEADER, _INK, _QUIET = "#202226", "#3a3d44", "#4b5058", "#f2f3f5", "#b4b8c0"
_LINKS = ("#e0a458", "#7fb2e5", "#8fce7a", "#d98cc0", "#c9c46b", "#9c8ce0", "#66c9bd", "#e07f7f")
_STEPS = 24  # lines to a curve

Graph = Mapping[str, Any]
Place = tuple[float, float]


def draw_graph(graph: Graph, width: int = WIDTH) -> Image.Image:
    """Return the graph of a workflow in the front end's format, `width` pixels wide."""
    nodes = {node["id"]: node for node in graph["nodes"]}
    left, top = (min(node["pos"][axis] for node in nodes.values()) - _MARGIN for axis in (0, 1))
    right, bottom = (
        max(node["pos"][axis] + node["size"][axis] for node in nodes.values()) + _MARGIN for axis in (0, 1)
    )
    scale = width / (right - left)

    def place(point: Place) -> Place:
        return (point[0] - left) * scale, (point[1] - top + _HEAD) * scale

    picture = Image.new("RGB", (width, round((bottom - top + _HEAD) * scale)), _PAPER)
    pen = ImageDraw.Draw(picture)
    kinds = sorted({link[-1] for link in graph["links"]})
    for _, source, source_slot, target, target_slot, kind in graph["links"]:
        start = _socket(nodes[source], source_slot, nodes[source]["size"][0])
        curve = [place(point) for point in _curve(start, _socket(nodes[target], target_slot, 0))]
        pen.line(curve, fill=_LINKS[kinds.index(kind) % len(_LINKS)], width=3, joint="curve")
    for node in nodes.values():
        _draw_node(pen, node, place, scale)
    return picture


def _socket(node: Graph, slot: int, offset: float) -> Place:
    x, y = node["pos"]
    return x + offset, y + (slot + 0.7) * _SLOT


def _curve(start: Place, end: Place) -> list[Place]:
    """Return points of a curve that leaves to the right and arrives from the left."""
    (x1, y1), (x2, y2) = start, end
    pull = max(60.0, abs(x2 - x1) / 2)
    points: list[Place] = []
    for step in range(_STEPS + 1):
        t = step / _STEPS
        weights = (1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3
        xs, ys = (x1, x1 + pull, x2 - pull, x2), (y1, y1, y2, y2)
        points.append((_sum(weights, xs), _sum(weights, ys)))
    return points


def _sum(weights: tuple[float, ...], values: tuple[float, ...]) -> float:
    return sum(weight * value for weight, value in zip(weights, values, strict=True))


def _draw_node(pen: ImageDraw.ImageDraw, node: Graph, place: Any, scale: float) -> None:
    (x, y), (width, height) = node["pos"], node["size"]
    pen.rounded_rectangle((*place((x, y - _HEAD)), *place((x + width, y + height))), 8 * scale, fill=_BOX)
    pen.rounded_rectangle((*place((x, y - _HEAD)), *place((x + width, y))), 8 * scale, fill=_HEADER)
    title = node.get("title") or node["type"]
    _write(pen, place((x + 12, y - _HEAD / 2)), title, 24 * scale, _INK, "lm")
    if title != node["type"]:
        _write(pen, place((x + width / 2, y + height / 2)), node["type"], 19 * scale, _QUIET, "mm")


def _write(pen: ImageDraw.ImageDraw, at: Place, text: str, size: float, colour: str, anchor: str) -> None:
    pen.text(at, text, colour, ImageFont.load_default(max(9, size)), anchor=anchor)


def write_thumbnail(example: Path) -> Path:
    """Write the thumbnail beside the example, and return its path."""
    file = example.with_suffix(".jpg")
    draw_graph(json.loads(example.read_text(encoding="utf-8"))).save(file, quality=88, optimize=True)
    return file


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="devhost.graph_picture", description=__doc__)
    parser.add_argument("names", nargs="+", help="of example workflows")
    for name in parser.parse_args().names:
        print(write_thumbnail(EXAMPLES / f"{name}.json"))
