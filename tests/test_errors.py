"""Every message about a wrong input has one form, and is made in one place."""

from __future__ import annotations

import ast
import re

import pytest
from megapixel.errors import bad_input

from devhost.environment import ROOT

ROOMS = ("nodes", "host", "patches", "segs", "faces", "video", "upscale", "attention", "scaling")


def test_a_message_names_the_socket_what_is_expected_what_came_and_what_to_do():
    error = bad_input("steps", "1 or more", 0, "Type at least 1.")
    assert (type(error), str(error)) == (ValueError, "steps: expected 1 or more, got 0. Type at least 1.")
    assert type(bad_input("image", "less", "more", "Take less.", kind=MemoryError)) is MemoryError


def handmade_messages():
    """Yield (file, line) of every string in a `raise` that is a message of that form."""
    for room in ROOMS:
        for file in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Raise) and node.exc is not None:
                    text = ast.unparse(node.exc)
                    if "bad_input" not in text and re.search(r": expected .*, got ", text):
                        yield f"{file.relative_to(ROOT)}:{node.lineno}"


def test_no_message_is_formatted_by_hand():
    assert list(handmade_messages()) == []


@pytest.mark.parametrize("kind", [ValueError, MemoryError, TypeError])
def test_any_class_of_error_can_be_asked_for(kind):
    with pytest.raises(kind, match=r"^a: expected b, got c\. D\.$"):
        raise bad_input("a", "b", "c", "D.", kind)
