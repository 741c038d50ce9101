"""The pack's logger, and lines that appear once per queued prompt instead of once per step or process."""

from __future__ import annotations

import logging

from .compat import executing_node

log = logging.getLogger("megapixel")

_logged: dict[str | None, set[tuple[object, ...]]] = {}  # by queued prompt; only the newest one is kept


def log_once(text: str, *arguments: object, level: int = logging.INFO) -> None:
    """Log a line unless this node has logged it in this queued prompt already.

    Outside a queued prompt (a script, a test) it appears once per sampling run: see `forget_lines`.
    """
    prompt, node = executing_node()
    if prompt not in _logged:
        _logged.clear()
    line = (node, text, *arguments)
    if line not in _logged.setdefault(prompt, set()):
        _logged[prompt].add(line)
        log.log(level, text, *arguments)


def forget_lines() -> None:
    """Allow lines to appear again outside a queued prompt: called when a sampling run begins."""
    _logged.pop(None, None)
