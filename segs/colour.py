"""Matching the colours of the surroundings: slow shifts by a decoder are removed, details stay."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

CELL = 64  # pixels: shifts over a longer distance are taken back


def match_colours(refined: Tensor, base: Tensor, strength: float) -> Tensor:
    """Return (h, w, C) with the low frequencies of `base`; `strength` 0 returns it unchanged.

    Strength 1 removes a constant shift of a segment completely; variation within `CELL` pixels stays.
    """
    if not strength:
        return refined
    shift = (base - refined).movedim(-1, 0)[None]
    height, width = refined.shape[:2]
    cells = max(1, round(height / CELL)), max(1, round(width / CELL))
    slow = F.interpolate(F.adaptive_avg_pool2d(shift, cells), (height, width), mode="bilinear")
    return refined + strength * slow[0].movedim(0, -1)
