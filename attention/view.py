"""What pictures show of a larger one that masks were made for."""

from __future__ import annotations

from dataclasses import dataclass

from ..scaling.box import Box
from ..scaling.size import Size

VIEW = "megapixel_view"  # among a conditioning's options: what the pictures show of a larger one


@dataclass(frozen=True)
class Part:
    """A box in a picture or latent of size `whole`."""

    box: Box
    whole: Size


@dataclass(frozen=True)
class View:
    """What each picture of a batch shows of a larger one that masks were made for: a part of one of its frames."""

    parts: tuple[Part, ...]
    frames: tuple[int, ...]
