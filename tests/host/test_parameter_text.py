"""Texts of older workflows against sockets of every kind,
and the error messages for what is wrong with them.
"""

from __future__ import annotations

import logging
import re

import pytest
from comfy_api.latest import io
from megapixel.host.parameter_text import LEVEL, TEXT, read_parameters

SOCKETS = [
    io.Model.Input("model"),
    io.String.Input("input_blocks", default="3"),
    io.Combo.Input("time_mode", options=["percent", "sigma"]),
    io.Float.Input("end_time", default=-1.0, min=-1.0, max=999.0),
    io.Int.Input("increment", default=8, min=1, max=64),
    io.Boolean.Input("after_skip", default=False),
    io.String.Input("yaml_parameters", default=""),
]


def read(text, **settings):
    return read_parameters(text, SOCKETS, {"verbose": LEVEL, "scale_mode": TEXT}, ("end_time",), **settings)


@pytest.mark.parametrize("text", ["", "  \n", "# only a comment\n", "null", "{}"])
def test_nothing_sets_nothing(text):
    assert read(text) == {}


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("input_blocks: 3", {"input_blocks": "3"}),
        ("input_blocks: [3, 6]", {"input_blocks": "3,6"}),
        ("input_blocks: []", {"input_blocks": ""}),
        ("input_blocks: '3, 6'", {"input_blocks": "3, 6"}),
        ("input_blocks: ''", {"input_blocks": ""}),
        ("time_mode: sigma", {"time_mode": "sigma"}),
        ("end_time: 0.35", {"end_time": 0.35}),
        ("end_time: 999", {"end_time": 999}),
        ("end_time: null", {"end_time": -1.0}),
        ("end_time:", {"end_time": -1.0}),
        ("increment: 1", {"increment": 1}),
        ("after_skip: true", {"after_skip": True}),
        ("verbose: false", {}),
        ("verbose: 2", {}),
        ("scale_mode: disabled", {}),
        ('{"end_time": 0.5, "time_mode": "percent"}', {"end_time": 0.5, "time_mode": "percent"}),
        ("# a note\nend_time: 0.5  # another\n\nincrement: 4\n", {"end_time": 0.5, "increment": 4}),
    ],
)
def test_each_kind_of_socket_takes_its_values(text, values):
    assert read(text) == values


def test_what_has_no_effect_is_said(caplog):
    with caplog.at_level(logging.INFO, "megapixel"):
        read("end_time: 1")
        assert caplog.text == ""
        read("verbose: 1\nend_time: 1\nscale_mode: skip")
    assert "yaml_parameters: no effect here: verbose, scale_mode" in caplog.text


@pytest.mark.parametrize(
    ("text", "expected", "got"),
    [
        ("input_blocks: true", "block numbers", "true"),
        ("input_blocks: null", "block numbers", "null"),
        ("input_blocks: [1, two]", "block numbers", '[1, "two"]'),
        ("input_blocks: [1, true]", "block numbers", "[1, true]"),
        ("input_blocks: -3", "block numbers", "-3"),
        ("input_blocks: 3.0", "block numbers", "3.0"),
        ("input_blocks: {3: 8}", "block numbers", '{"3": 8}'),
        ("time_mode: steps", "one of percent, sigma", '"steps"'),
        ("time_mode: off", "one of percent, sigma", "false"),
        ("time_mode: [percent]", "one of percent, sigma", '["percent"]'),
        ("end_time: soon", "a number from -1 to 999", '"soon"'),
        ("end_time: true", "a number from -1 to 999", "true"),
        ("end_time: '0.5'", "a number from -1 to 999", '"0.5"'),
        ("end_time: -2", "a number from -1 to 999", "-2"),
        ("end_time: 1000", "a number from -1 to 999", "1000"),
        ("end_time: .nan", "a number from -1 to 999", "NaN"),
        ("end_time: 2024-10-14", "a number from -1 to 999", '"2024-10-14"'),
        ("increment: 8.0", "a whole number from 1 to 64", "8.0"),
        ("increment: 0", "a whole number from 1 to 64", "0"),
        ("increment: true", "a whole number from 1 to 64", "true"),
        ("increment: null", "a whole number from 1 to 64", "null"),
        ("after_skip: 1", "true or false", "1"),
        ("after_skip: 'yes'", "true or false", '"yes"'),
        ("verbose: loud", "true, false or a whole number", '"loud"'),
        ("scale_mode: false", "text", "false"),
    ],
)
def test_a_value_that_the_socket_would_not_take(text, expected, got):
    key = text.partition(":")[0]
    sentence = f"yaml_parameters: expected {expected} for {key}, got {got}. Correct or remove that line."
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        read(text)


@pytest.mark.parametrize(
    ("text", "got", "advice"),
    [
        ("end_tim: 1", '"end_tim"', "Did you mean end_time?"),
        ("after_skip_mode: true", '"after_skip_mode"', "Did you mean after_skip?"),
        ("zzz: 1", '"zzz"', "Correct or remove that line."),
        ("model: 1", '"model"', ""),
        ("yaml_parameters: ''", '"yaml_parameters"', ""),
        ("3: 8", "3", "Correct or remove that line."),
    ],
)
def test_an_unknown_key_lists_the_known_ones(text, got, advice):
    known = "input_blocks, time_mode, end_time, increment, after_skip, verbose, scale_mode"
    sentence = f"yaml_parameters: expected keys among {known}, got {got}. {advice}"
    with pytest.raises(ValueError, match="^" + re.escape(sentence)):
        read(text)


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("end_time", '"end_time"'),
        ("- end_time: 1", '[{"end_time": 1}]'),
        ("3", "3"),
        ("a: b\nc: d: e", "text that is not YAML (line 2)"),
        ("[1", "text that is not YAML (line 1)"),
        ("!!python/name:os.system", "text that is not YAML (line 1)"),
        ("word " * 40, '"' + "word " * 11 + "w..."),
    ],
)
def test_what_is_no_mapping(text, got):
    sentence = f"yaml_parameters: expected lines of the form key: value, got {got}. Correct the text"
    with pytest.raises(ValueError, match="^" + re.escape(sentence)):
        read(text)
