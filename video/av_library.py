"""PyAV, which comes with ComfyUI; loaded where a video is read or written, not when the pack is."""

from __future__ import annotations

from typing import Any


def load_av() -> Any:
    """Return the module `av`. Its own types leave much open, so it is untyped here."""
    import av
    import av.error  # pyright: ignore[reportUnusedImport]
    import av.filter  # pyright: ignore[reportUnusedImport]

    return av
