"""Lines that appear once in a queued prompt and node, and the text of a node that changes nothing."""

from __future__ import annotations

import logging

import pytest
from comfy_execution.utils import CurrentNodeContext
from megapixel.host.log import forget_lines, log_once
from megapixel.host.notice import nothing_to_do


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, "megapixel")
    forget_lines()
    return lambda: [record.message for record in caplog.records]


def test_a_line_appears_once_for_each_node_and_prompt(lines):
    for prompt, node in [("p1", "3"), ("p1", "3"), ("p1", "7"), ("p2", "3"), ("p2", "3"), ("p1", "3")]:
        with CurrentNodeContext(prompt, node):
            log_once("%s is off", "it")
    assert lines() == ["it is off"] * 4


def test_other_arguments_are_another_line(lines):
    with CurrentNodeContext("p1", "1"):
        for block in (3, 4, 3):
            log_once("block %s", block)
    assert lines() == ["block 3", "block 4"]


def test_outside_of_a_prompt_a_line_appears_once_in_a_run(lines):
    for _ in range(2):
        forget_lines()
        log_once("a line")
        log_once("a line", level=logging.WARNING)
    assert lines() == ["a line"] * 2


def test_a_run_inside_a_prompt_does_not_repeat_its_lines(lines):
    with CurrentNodeContext("p1", "1"):
        for _ in range(2):
            forget_lines()
            log_once("a line")
    assert lines() == ["a line"]


def test_a_node_that_changes_nothing_logs_it_and_shows_it(lines):
    output = nothing_to_do("Filter: nothing to do, no segment.", 1, 2)
    assert output.args == (1, 2)
    assert output.ui.as_dict() == {"text": ("Filter: nothing to do, no segment.",)}
    assert lines() == ["Filter: nothing to do, no segment."]
