"""PyAV, which comes with ComfyUI; loaded when a video is read or written, not when the pack loads."""

from __future__ import annotations

from typing import Any


def load_av() -> Any:
    """Return the module `av`. Its own types are incomplete, so it is untyped here."""
    import av
    import av.error  # pyright: ignore[reportUnusedImport]
    import av.filter  # pyright: ignore[reportUnusedImport]

    return av
