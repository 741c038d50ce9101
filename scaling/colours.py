"""Colours of pictures with any channels: 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA."""

from __future__ import annotations

from torch import Tensor


def rgb(picture: Tensor, dimension: int) -> Tensor:
    """Return a view with three channels along `dimension`: grey is repeated, alpha is left out."""
    if picture.shape[dimension] >= 3:
        return picture.narrow(dimension, 0, 3)
    shape = list(picture.shape)
    shape[dimension] = 3
    return picture.narrow(dimension, 0, 1).expand(shape)
