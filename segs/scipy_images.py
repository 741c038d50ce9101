"""The image functions of SciPy."""

from __future__ import annotations

from typing import Any


def ndimage() -> Any:
    """Return scipy.ndimage, which has no types. It is slow to load, and few segments need it."""
    import scipy.ndimage  # pyright: ignore[reportMissingTypeStubs]

    return scipy.ndimage
