"""ControlNet residuals that fit the features they are added to, also after an effect resized the features.

The host adds a residual with `h += residual` and drops it with a log line if the shapes differ. A residual from here
is an ordinary tensor except for that one operation: if it is added in place to features of another height or
width, it is resized first. If the sizes agree, the result has the same bits as without this pack.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Control = Mapping[str, Sequence[Tensor | None]]

_ADDITIONS = {Tensor.__iadd__, Tensor.add_}


class FittedResidual(Tensor):
    """A residual (B, C, H, W) that is resized when it is added in place to features of another size."""

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            if func in _ADDITIONS:
                features, residual, *rest = args
                args = (features, fit_residual(residual, features.shape[-2:]), *rest)
            return func(*args, **(kwargs or {}))


def fit_residual(residual: Tensor, size: Sequence[int]) -> Tensor:
    """Resize a residual (B, C, H, W) to (B, C, *size): area when it shrinks, bilinear when it grows.

    Area averaging keeps the mean of a residual and so its strength. The same size returns the residual itself.
    """
    if tuple(residual.shape[-2:]) == tuple(size):
        return residual
    shrinks = size[0] <= residual.shape[-2] and size[1] <= residual.shape[-1]
    return F.interpolate(residual, size=tuple(size), mode="area" if shrinks else "bilinear")


def fit_control(control: Control | None) -> dict[str, list[Tensor | None]] | None:
    """Return the same residuals as `FittedResidual`s. The argument and its tensors are not changed."""
    if control is None:
        return None
    return {
        place: [None if residual is None else residual.as_subclass(FittedResidual) for residual in residuals]
        for place, residuals in control.items()
    }
