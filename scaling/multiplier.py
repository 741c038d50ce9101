"""A factor on features or tokens."""

from __future__ import annotations

from torch import Tensor


def times(features: Tensor, multiplier: float) -> Tensor:
    """Return `features` times `multiplier`; at 1 the same tensor is returned."""
    return features if multiplier == 1.0 else features * multiplier
