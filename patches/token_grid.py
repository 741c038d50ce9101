"""Whether the tokens of a layer still are a grid: other packs merge or drop some of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..host.log import log_once
from ..scaling.size import Size


def token_grid(label: str, options: Mapping[str, Any], *tokens: Tensor) -> Size | None:
    """Return the (height, width) of a layer's grid, or None and a log line where any of `tokens` (B, N, D) are no grid.

    Args:
        label: of the effect that then does nothing in this layer.
        options: those that a patch inside the layer was given.
    """
    height, width = options["activations_shape"][-2:]
    if all(each.shape[1] == height * width for each in tokens):
        return height, width
    log_once("%s: skipped %s block %s, because another patch changed its tokens", label, *options["block"])
    return None
