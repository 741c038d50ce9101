"""The methods that are compared: a name, and a function from a model and its trained size in pixels to a
model.

Sources: Deep Shrink with the settings of its author and of ComfyUI's `PatchModelAddDownscale`; HiDiffusion
(arXiv 2311.17528v2).
"""

# The pack has its name only after `import_host()`.
# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Method = Callable[[Any, int], Any]

PLAIN, KOHYA = "plain", "Deep Shrink as published"
DEEP_SHRINK, HIDIFFUSION = "Deep Shrink auto", "HiDiffusion auto"
HIDIFFUSION_PUBLISHED = "HiDiffusion published"


def _deep_shrink(mode: str) -> Method:
    def apply(model: Any, trained_side: int) -> Any:
        from megapixel.patches.deep_shrink import DeepShrink, apply_deep_shrink

        return apply_deep_shrink(model, DeepShrink(mode=mode, trained_size=trained_side))

    return apply


def _hidiffusion(mode: str) -> Method:
    def apply(model: Any, trained_side: int) -> Any:
        from megapixel.patches.hidiffusion import HiDiffusion, apply_hidiffusion

        return apply_hidiffusion(model, HiDiffusion(mode=mode, trained_size=trained_side))

    return apply


METHODS: dict[str, Method] = {
    PLAIN: lambda model, _: model,
    KOHYA: _deep_shrink("manual"),
    DEEP_SHRINK: _deep_shrink("auto"),
    HIDIFFUSION: _hidiffusion("auto"),
    HIDIFFUSION_PUBLISHED: _hidiffusion("published"),
}


def same_as(method: str, size: str) -> str:
    """Return the method that gives the same bits at a size of `plan.SIZES` and is sampled instead; else the
    method itself.

    At the trained size only the manual shrink does something, and at twice the trained size the automatic
    factor is 2, as published.
    """
    if size == "1x" and method != KOHYA:
        return PLAIN
    return KOHYA if (method, size) == (DEEP_SHRINK, "2x") else method
