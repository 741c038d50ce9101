"""Tiny models as a custom node pack of the development host.

Nothing of ComfyUI is imported until it asks for the nodes, so that the pure modules (:mod:`.forms`,
:mod:`.scenes`, :mod:`.counting`) work without one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .node import TinyModelsExtension


async def comfy_entrypoint() -> TinyModelsExtension:
    """Return the extension with the loaders of the tiny models."""
    from .node import TinyModelsExtension

    return TinyModelsExtension()
