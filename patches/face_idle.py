"""Why a face adds nothing according to its settings: the same for the attention and the ControlNet."""

from __future__ import annotations

from torch import Tensor

from .schedule import Schedule


def why_idle(
    strength: float, mask: Tensor | None, start_at: float, end_at: float, name: str = "weight"
) -> str | None:
    """Return the reason, or None if something is added; `name` is the input that sets the strength."""
    if strength == 0:
        return f"{name} is 0"
    if mask is not None and not bool(mask.any()):
        return "the mask is black"
    return None if Schedule(start_at, end_at).is_ordered else "start_at is after end_at"
