from __future__ import annotations

import pytest
from megapixel.nodes.hidiffusion_sockets import parse_blocks


@pytest.mark.parametrize(
    ("text", "blocks"),
    [("", ()), (" ", ()), ("3", (3,)), ("1,2", (1, 2)), ("11, 10 ,9", (9, 10, 11)), ("9 10 11", (9, 10, 11)),
     ("4,4", (4,)), (" ,1,,2, ", (1, 2)), ("03", (3,))],
)  # fmt: skip
def test_numbers_with_commas_or_spaces_between(text, blocks):
    assert parse_blocks(text, "input_blocks") == blocks


@pytest.mark.parametrize(
    ("text", "wrong"), [("1;2", "1;2"), ("1,two", "two"), ("-1", "-1"), ("3.0", "3.0"), ("²", "²")]
)
def test_what_is_no_number_is_said_with_its_socket(text, wrong):
    with pytest.raises(
        ValueError, match=rf"^ca_output_blocks: expected block numbers .*, got '{wrong}'\. Write them like"
    ):
        parse_blocks(text, "ca_output_blocks")
