"""Whether the tokens of a layer are a grid: other packs merge or drop some of them, models for video have layers
that attend over time, and a few small models attend to the text only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..host.log import log_once
from ..scaling.size import Size


def token_grid(label: str, options: Mapping[str, Any], *tokens: Tensor) -> Size | None:
    """Return the (height, width) of a layer's grid; if any of `tokens` (B, N, D) is not a grid,
    log a line and return None. Attention over time returns None without a line.

    Args:
        label: label of the effect, which skips this layer then.
        options: the options of a patch inside the layer.
    """
    pictures, _, height, width = options["activations_shape"]
    if all(each.shape[1] == height * width for each in tokens):
        return height, width
    if not all(_are_over_time(each, pictures, height * width) for each in tokens):
        log_once(
            "%s: skipped %s block %s, because its tokens are not those of the image", label, *options["block"]
        )
    return None


def _are_over_time(tokens: Tensor, pictures: int, places: int) -> bool:
    """Return whether tokens (B, N, D) are the frames of a video, for each place by itself.

    They are not part of any grid, so nothing is missing if an effect leaves them.
    """
    batch, frames, _ = tokens.shape
    return pictures % frames == 0 and batch == pictures // frames * places
