"""The pack's one logger, and lines that appear once in a queued prompt instead of once in a step or a process."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from .compat import executing_node

log = logging.getLogger("megapixel")


@dataclass
class _Lines:
    """What was logged in a queued prompt, by node; None outside of one."""

    prompt: str | None = None
    logged: set[tuple[object, ...]] = field(default_factory=set[tuple[object, ...]])

    def of(self, prompt: str | None) -> set[tuple[object, ...]]:
        if prompt != self.prompt:
            self.prompt = prompt
            self.logged.clear()
        return self.logged


_lines = _Lines()


def log_once(text: str, *arguments: object, level: int = logging.INFO) -> None:
    """Log a line unless this node has logged it in this queued prompt already.

    Outside of a queued prompt (a script, a test) it is once in a sampling run: see `forget_lines`.
    """
    prompt, node = executing_node()
    logged, line = _lines.of(prompt), (node, text, *arguments)
    if line not in logged:
        logged.add(line)
        log.log(level, text, *arguments)


def forget_lines() -> None:
    """Let every line appear again where no prompt is executed: called when a sampling run begins."""
    if executing_node() == (None, None):
        _lines.of(None).clear()
