"""The methods that are compared: a name, and a function from a model to a model.

Sources: Deep Shrink as in ComfyUI's `PatchModelAddDownscale`, HiDiffusion (arXiv 2311.17528v2); the automatic
methods are Deep Shrink with a factor that follows from the size.
"""

# The pack has its name only after `import_host()`.
# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

Method = Callable[[Any], Any]

TRAINED_PIXELS = 128
"""Side of the pictures that the models were trained on; a latent pixel is 8 of it."""
PLAIN = "plain"
DRAWN = "drawn scenes"
"""No method: scenes as in the training data, drawn at the requested size."""
SETTLED = "drawn small"
"""A bound for methods that compose at a small size until their end.

Until then nothing is sampled; plain sampling continues from an enlarged scene of the trained size.
"""


def plain(model: Any) -> Any:
    """Return the model unchanged."""
    return model


def deep_shrink(model: Any, **settings: Any) -> Any:
    """Apply Deep Shrink, by default with the settings of ComfyUI's own node."""
    from megapixel.patches.deep_shrink import DeepShrink, apply_deep_shrink

    return apply_deep_shrink(model, DeepShrink(trained_size=TRAINED_PIXELS, **settings))


def automatic_until(model: Any, end: float) -> Any:
    """Apply the automatic settings of Deep Shrink at twice the trained size, with another end."""
    from megapixel.patches.deep_shrink import AUTOMATIC, apply_deep_shrink
    from megapixel.scaling.deep_shrink import automatic_factor

    factor = automatic_factor((2, 2), 1)
    return apply_deep_shrink(
        model, replace(AUTOMATIC, mode="manual", downscale_factor=factor, end_percent=end)
    )


def hidiffusion(model: Any, **settings: Any) -> Any:
    """Apply the node HiDiffusion; without windows it equals Deep Shrink with automatic settings."""
    from megapixel.patches.hidiffusion import HiDiffusion, apply_hidiffusion

    return apply_hidiffusion(model, HiDiffusion(trained_size=TRAINED_PIXELS, **settings))


def published_rau_net(model: Any, *, end: float | None = None) -> Any:
    """Apply RAU-Net's published schedule, on at every size; with `end`, its last phase ends there."""
    from megapixel.patches.rau_net import apply_rau_net
    from megapixel.patches.rau_net_published import Published

    return apply_rau_net(model, Published() if end is None else _Until(end))


MAIN: dict[str, Method] = {
    PLAIN: plain,
    "Deep Shrink auto": partial(deep_shrink, mode="auto"),
    "HiDiffusion auto": hidiffusion,
}
"""What the table has by default."""

METHODS: dict[str, Method] = MAIN | {
    "Deep Shrink known": deep_shrink,
    "RAU-Net published": published_rau_net,
    "HiDiffusion published": partial(hidiffusion, mode="published"),
}

CURVES: dict[str, Callable[[Any, float], Any]] = {
    "Deep Shrink": automatic_until,
    "RAU-Net": lambda model, end: published_rau_net(model, end=end),
    SETTLED: lambda model, end: plain(model),
}
"""Methods with one number: the share of the sampling at which they end."""
UNTIL = " until "


def curve_method(curve: str, end: float) -> str:
    """Return the name of a method on a curve; `curve_point` is its inverse."""
    return f"{curve}{UNTIL}{end:g}"


def curve_point(name: str) -> tuple[str, float] | None:
    """Return the curve and the end of a method's name, or None if it is on no curve."""
    curve, until, end = name.partition(UNTIL)
    return (curve, float(end)) if until else None


def method_of(name: str) -> Method:
    """Return a method by its name, which may be one on a curve.

    Raises:
        KeyError: when no method has this name.
    """
    if point := curve_point(name):
        curve, end = point
        return lambda model: CURVES[curve](model, end)
    return METHODS[name]


@dataclass(frozen=True)
class _Until:
    """The published rescalings of RAU-Net with another end: the last phase ends at it,
    and no other goes beyond it.
    """

    end: float

    def settings(self, call: Any) -> Any:
        """Return them for a latent of any size."""
        from megapixel.patches.rau_net_published import in_phases, kind_of
        from megapixel.scaling.rau_net import Phases, published_phases

        published = published_phases(kind_of(call.topology), call.latent_size, control=call.has_control)
        last = max(published.dilated[1], published.pooled[1])
        spans = (
            (min(start, self.end), self.end if stop == last else min(stop, self.end))
            for start, stop in (published.dilated, published.pooled)
        )
        return in_phases(call.topology, Phases(*spans))
