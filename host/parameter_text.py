"""The text of older workflows: `key: value` lines that override a node's inputs and are checked like them."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import yaml
from comfy_api.latest import io

from ..errors import bad_input
from .log import log

SOCKET = "yaml_parameters"
SETTABLE = (io.Boolean.Input, io.Combo.Input, io.Float.Input, io.Int.Input, io.String.Input)
Rule = tuple[str, Callable[[Any], bool]]  # what is expected, as text; whether a value fits

TEXT: Rule = ("text", lambda value: isinstance(value, str))
SWITCH: Rule = ("true or false", lambda value: isinstance(value, bool))
WHOLE: Rule = ("a whole number", lambda value: type(value) is int)  # to Python, true is a whole number too
LEVEL: Rule = ("true, false or a whole number", lambda value: isinstance(value, int))


def read_parameters(
    text: str,
    sockets: Iterable[Any],
    unused: Mapping[str, Rule] | None = None,
    nullable: Collection[str] = (),
) -> dict[str, Any]:
    """Return the values that `text` sets, by input, in the form of the inputs' own values.

    Args:
        text: YAML, so JSON too: one mapping, or nothing.
        sockets: the node's inputs. Numbers, choices, switches and lists of blocks may be set.
        unused: keys of older workflows that have no effect here.
        nullable: inputs for which null sets their default.

    Raises:
        ValueError: when the text is not a mapping, a key is unknown, or a value is invalid for its input.
    """
    valid = {socket.id: socket for socket in sockets if isinstance(socket, SETTABLE) and socket.id != SOCKET}
    rules = {name: _rule(socket) for name, socket in valid.items()} | dict(unused or {})
    values: dict[str, Any] = {}
    idle: list[str] = []
    for key, value in _mapping(text).items():
        if key not in rules:
            raise _unknown(key, rules)
        expected, fits = rules[key]
        is_default = value is None and key in nullable
        if not (is_default or fits(value)):
            hint = "Correct or remove that line."
            raise bad_input(SOCKET, f"{expected} for {key}", _shown(value), hint)
        if key in valid:
            values[key] = valid[key].default if is_default else _as_socket(valid[key], value)
        else:
            idle.append(key)
    if idle:
        log.info("%s: no effect here: %s", SOCKET, ", ".join(idle))
    return values


def _mapping(text: str) -> dict[Any, Any]:
    try:
        entries = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" (line {mark.line + 1})" if mark else ""
        raise _no_mapping(f"text that is not YAML{place}") from error
    if entries is None:
        return {}
    if not isinstance(entries, dict):
        raise _no_mapping(_shown(entries))
    return entries


def _no_mapping(got: str) -> ValueError:
    return bad_input(SOCKET, "lines of the form key: value", got, "Correct the text, or leave it empty.")


def _unknown(key: object, valid: Collection[str]) -> ValueError:
    near = difflib.get_close_matches(str(key), valid, n=1)
    advice = f"Did you mean {near[0]}?" if near else "Correct or remove that line."
    return bad_input(SOCKET, f"keys among {', '.join(valid)}", _shown(key), advice)


def _rule(socket: Any) -> Rule:
    """Return the rule for a socket's values."""
    if isinstance(socket, io.Boolean.Input):
        return SWITCH
    if isinstance(socket, io.Combo.Input):
        options = list(socket.options)
        return f"one of {', '.join(map(str, options))}", lambda value: isinstance(
            value, str
        ) and value in options
    if isinstance(socket, io.String.Input):
        return "block numbers", lambda value: isinstance(value, str) or all(map(_is_block, _as_list(value)))
    kinds, words = (
        ((int,), "a whole number") if isinstance(socket, io.Int.Input) else ((int, float), "a number")
    )
    low, high = socket.min, socket.max
    return (f"{words} from {low:g} to {high:g}", lambda value: type(value) in kinds and low <= value <= high)


def _is_block(value: object) -> bool:
    return type(value) is int and value >= 0


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _as_socket(socket: Any, value: Any) -> Any:
    if isinstance(socket, io.String.Input) and not isinstance(value, str):
        return ",".join(map(str, _as_list(value)))
    return value


def _shown(value: object) -> str:
    shown = json.dumps(value, ensure_ascii=False, default=str, skipkeys=True)
    return shown if len(shown) <= 60 else shown[:57] + "..."
