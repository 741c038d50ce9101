"""The error message for a wrong input: `<socket>: expected X, got Y. <what to do>`.

Every folder raises through this function, so all messages have one format. It does not import ComfyUI.
"""

from __future__ import annotations

from typing import TypeVar

Failure = TypeVar("Failure", bound=Exception)


def bad_input(
    socket: str, expected: str, got: object, hint: str, kind: type[Failure] = ValueError
) -> Failure:
    """Return the error to raise for a wrong input.

    Args:
        socket: id of the input, as the node shows it.
        expected, got: what the input accepts and what it received; parts of a sentence.
        hint: what to do about it, one or more whole sentences.
        kind: class of the error; MemoryError if memory is missing.
    """
    return kind(f"{socket}: expected {expected}, got {got}. {hint}")
