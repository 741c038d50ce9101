"""The pictures in assets/ that open as the example workflows."""

from __future__ import annotations

import json

import pytest

from devhost.example_pictures import EXAMPLES, picture_of

FILES = sorted(EXAMPLES.glob("*.json"))
MOST_BYTES = 300_000


@pytest.mark.parametrize("example", FILES, ids=lambda file: file.stem)
def test_the_picture_carries_exactly_the_graph_as_plain_ascii(example):
    graph = json.dumps(json.loads(example.read_text(encoding="utf-8")))
    picture = picture_of(example).read_bytes()
    assert b"tEXtworkflow\0" + graph.encode("ascii") in picture
    assert len(picture) <= MOST_BYTES
