"""Merging what several workers refined, with the bits of one worker's result."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .paste import GRID


def merge_results(picture: Tensor, results: Sequence[Tensor], tolerance: float = 0.0) -> Tensor:
    """Return (H, W, C) with all that several workers changed in copies of `picture`, each by its own segments.

    The same bits as one worker's result, if they used the functions of `paste`. Differences up to `tolerance` are taken as none: for workers
    that send pictures of 8 bits.
    """
    grid = (picture * GRID).round_()
    changes, count, merged = torch.zeros_like(picture), torch.zeros_like(picture), picture
    for result in results:
        changed = (result - picture).abs() > tolerance if tolerance else result != picture
        changes += torch.where(changed, (result * GRID).round_().sub_(grid), 0)
        count += changed
        merged = torch.where(changed, result, merged)
    return torch.where(count > 1, (grid + changes).mul_(1 / GRID), merged)
