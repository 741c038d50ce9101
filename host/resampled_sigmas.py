"""The curve of given noise levels at another number of steps."""

from __future__ import annotations

import torch
from torch import Tensor


def resample_levels(sigmas: Tensor, steps: int) -> Tensor:
    """Return steps + 1 levels on the curve of these falling ones, linear in their logarithms;
    a 0 at the end stays.

    The same number of steps returns the levels unchanged.
    """
    if len(sigmas) == steps + 1:
        return sigmas
    levels = sigmas[sigmas > 0]
    ends = len(levels) < len(sigmas)
    count = steps if ends else steps + 1
    places = torch.linspace(0, len(levels) - 1, count, dtype=torch.float64)
    before = places.long().clamp(max=max(0, len(levels) - 2))
    after = (before + 1).clamp(max=len(levels) - 1)
    logs = levels.double().log()
    drawn = torch.lerp(logs[before], logs[after], places - before).exp().to(sigmas)
    return torch.cat([drawn, sigmas.new_zeros(1)]) if ends else drawn
