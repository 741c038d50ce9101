"""Results that depend on more than the inputs:
the host must not take them from its cache as if they were final.

The host caches a node's result under its inputs and its fingerprint. Here the fingerprint counts what
happened to the node's results: a run that ended early, memory that was missing, a file that is gone. So the
next run of the same inputs is executed.
"""

from __future__ import annotations

from pathlib import Path

from .compat import executing_node

_events: dict[str, int] = {}  # by node
_files: dict[str, Path] = {}  # what a node's last result lies in


def run_again() -> None:
    """Have the next run of the executing node executed, though its inputs are the same.

    Nothing happens in a script.
    """
    _, node = executing_node()
    if node is not None:
        _events[node] = _events.get(node, 0) + 1


def run_again_without(file: Path) -> None:
    """Have the next run of the executing node executed if this file is gone by then."""
    _, node = executing_node()
    if node is not None:
        _files[node] = file


def fingerprint() -> str:
    """Return the fingerprint of the executing node, under which the host caches its result.

    It contains the node's id: another node with the same inputs may have had another result.
    """
    _, node = executing_node()
    if node in _files and not _files[node].is_file():
        del _files[node]
        run_again()
    return f"{node} {_events.get(node or '', 0)}"
