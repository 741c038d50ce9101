"""A sampling run whose model calls are not of the latent's own size."""

from __future__ import annotations

import comfy.samplers

from ..scaling.size import Size


class TiledGuider(comfy.samplers.CFGGuider):
    """The host's guider, calling the model on tiles of the latent.

    Attributes:
        tile_size: (height, width) of the largest tile, in latent pixels.
    """

    tile_size: Size
