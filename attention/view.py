"""The part of a larger image that each image shows, when masks were made for the larger one."""

from __future__ import annotations

from ..record import record
from ..scaling.box import Box
from ..scaling.size import Size

VIEW = "megapixel_view"  # among a conditioning's options: what the images show of a larger one


@record
class Part:
    """A box in an image or latent of size `whole`."""

    box: Box
    whole: Size


@record
class View:
    """The part of a larger image that each image of a batch shows: a part of one of its frames."""

    parts: tuple[Part, ...]
    frames: tuple[int, ...]
