"""A node that changes nothing says so: one line in the log, and the same text at the node."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from .log import log


def nothing_to_do(text: str, *outputs: Any) -> io.NodeOutput:
    """Return the outputs of a node that passes its inputs on unchanged.

    Args:
        text: "<what>: nothing to do, <why>. <what to do>"; `web/notices.js` shows it at the node until the next run.
        outputs: what the node returns.
    """
    log.info(text)
    return io.NodeOutput(*outputs, ui=ui.PreviewText(text))
