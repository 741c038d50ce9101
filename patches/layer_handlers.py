"""Handlers of one layer that all run.

The host runs only the first handler in `forward_timestep_embed_patch` that fits a layer. A handler of another
pack does something before and after its layer and calls it; ours replace the layer itself, so it can get ours
as its layer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample, Upsample
from torch import Tensor

from ..record import record

Handler = tuple[type, Callable[..., Tensor]]
Replaces = Callable[[Tensor, Mapping[str, Any]], bool]


def chain_handlers(
    handlers: list[Handler], ours: Collection[Callable[..., Tensor]], replaces: Replaces
) -> None:
    """Put our handlers first in a run's own list, each wrapped by those of other packs.

    `replaces(features, options)` returns whether ours do something at the current layer.
    """
    others = [each for each in handlers if each[1] not in ours]
    own = [
        (kind, partial(_run_both, ours=handler, replaces=replaces, others=others))
        for kind, handler in handlers
        if handler in ours
    ]
    handlers[:] = [*own, *others]


def _run_both(
    layer: Downsample | Upsample,
    features: Tensor,
    emb: Tensor,
    context: Any,
    options: dict[str, Any],
    output_shape: Sequence[int] | None = None,
    *rest: Any,
    ours: Callable[..., Tensor],
    replaces: Replaces,
    others: Sequence[Handler],
) -> Tensor:
    def run_ours(features: Tensor, output_shape: Sequence[int] | None = None) -> Tensor:
        return ours(layer, features, emb, context, options, output_shape, *rest)

    other = next((handler for kind, handler in others if isinstance(layer, kind)), None)
    if other is None:
        return run_ours(features, output_shape)
    inner = _Replaced(layer, run_ours) if replaces(features, options) else layer
    return other(inner, features, emb, context, options, output_shape, *rest)


@record
class _Replaced:
    """A layer whose call is replaced."""

    layer: Downsample | Upsample
    run: Callable[..., Tensor]

    def __call__(self, features: Tensor, output_shape: Sequence[int] | None = None) -> Tensor:
        return self.run(features, output_shape)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.layer, name)
