"""Notices of nodes that change nothing, or less than requested: one line in the log,
and the same text at the node.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io, ui

from .log import log


def nothing_to_do(text: str, *outputs: Any) -> io.NodeOutput:
    """Return the outputs of a node that passes its inputs on unchanged.

    Args:
        text: "<what>: nothing to do, <why>. <what to do>"; `web/notices.js` shows it until the node runs
            again.
        outputs: what the node returns.
    """
    return with_notices(logged([text]), *outputs)


def logged(texts: Sequence[str]) -> Sequence[str]:
    """Log the texts of a node before it starts, one line each, and return them for `with_notices`."""
    for text in texts:
        log.info(text)
    return texts


def with_notices(texts: Sequence[str], *outputs: Any) -> io.NodeOutput:
    """Return the outputs of a node, with texts that are shown at the node if there are any."""
    if not texts:
        return io.NodeOutput(*outputs)
    return io.NodeOutput(*outputs, ui=ui.PreviewText("\n".join(texts)))


def pictures_with_notices(texts: Sequence[str], images: Any, node: Any) -> io.NodeOutput:
    """Return IMAGE (B, H, W, C) and show it at the node, with texts below it."""
    shown = ui.PreviewImage(images, cls=node).as_dict()
    return io.NodeOutput(
        images, ui={**shown, **(ui.PreviewText("\n".join(texts)).as_dict() if texts else {})}
    )


def patched_model(label: str, model: Any, why_idle: str | None) -> io.NodeOutput:
    """Return the patched model of an effect, with a notice if its settings do nothing at any size."""
    if why_idle is None:
        return io.NodeOutput(model)
    return nothing_to_do(f"{label}: nothing to do, {why_idle}.", model)
