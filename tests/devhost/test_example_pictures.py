"""The pictures in assets/ that open as the example workflows."""

from __future__ import annotations

import json

import pytest

from devhost.example_pictures import EXAMPLES, picture_of
from devhost.graph_picture import draw_graph

FILES = sorted(EXAMPLES.glob("*.json"))
MOST_BYTES = 300_000


@pytest.mark.parametrize("example", FILES, ids=lambda file: file.stem)
def test_the_picture_carries_exactly_the_graph_as_plain_ascii(example):
    graph = json.dumps(json.loads(example.read_text(encoding="utf-8")))
    picture = picture_of(example).read_bytes()
    assert b"tEXtworkflow\0" + graph.encode("ascii") in picture
    assert len(picture) <= MOST_BYTES


def test_no_example_has_the_picture_of_another_one():
    pictures = [example.with_suffix(".jpg").read_bytes() for example in FILES]
    assert len(set(pictures)) == len(FILES)


def test_a_drawn_graph_shows_each_node_in_its_place():
    """Two nodes, the right one below the left one, and the link between them."""
    nodes = [
        {"id": 1, "type": "Left", "pos": [0, 0], "size": [200, 100]},
        {"id": 2, "type": "Right", "pos": [400, 300], "size": [200, 100]},
    ]
    picture = draw_graph({"nodes": nodes, "links": [[1, 1, 0, 2, 0, "IMAGE"]]}, 720)
    paper = picture.getpixel((5, 5))
    assert picture.size == (720, 520 + 34)
    scale, head, margin = 1.0, 34, 60
    for x, y in ((100, 80), (500, 380), (300, 164)):  # in both nodes, and half way along the link
        around = [
            picture.getpixel((int((x + margin) * scale), int((y + margin + head) * scale) + step))
            for step in range(-3, 4)
        ]
        assert any(pixel != paper for pixel in around), (x, y)
    assert picture.getpixel((margin + 100, margin + head + 300)) == paper
