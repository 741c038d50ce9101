"""Whether the tokens of a layer are still a grid: other packs merge or drop some of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..host.log import log_once
from ..scaling.size import Size


def token_grid(label: str, options: Mapping[str, Any], *tokens: Tensor) -> Size | None:
    """Return the (height, width) of a layer's grid; if any of `tokens` (B, N, D) is not a grid,
    log a line and return None.

    Args:
        label: label of the effect, which skips this layer then.
        options: the options of a patch inside the layer.
    """
    height, width = options["activations_shape"][-2:]
    if all(each.shape[1] == height * width for each in tokens):
        return height, width
    log_once("%s: skipped %s block %s, because another patch changed its tokens", label, *options["block"])
    return None
