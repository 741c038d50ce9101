"""The positions of overlapping pieces in the latent that they share."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, reduce

import torch
from torch import Tensor

from ..record import record
from ..scaling.box import Box
from ..scaling.size import Size
from .crop import Crop
from .fuse import cut, tile_weight
from .refine import Piece

CONTEXT = 4  # latent pixels; there a decoder's error has fallen to a tenth of that at the edge


@record(eq=False)
class JointTiles:
    """Pieces of one frame, in latent pixels.

    A piece is decoded with `CONTEXT` of the latent around it: a decoder draws what lies at the edge of its
    latent worse.

    Attributes:
        place: the latent that they share, in the latent of the image.
        boxes: the pieces in that latent.
        crop: what it shows, in pixels of the image.
        picture: size of the latent of the image; it ends with the last latent pixel that is not whole.
    """

    place: Box
    boxes: Sequence[Box]
    crop: Crop
    picture: Size

    @classmethod
    def of(cls, pieces: Sequence[Piece], size: Size, cell: int) -> JointTiles:
        """Return the tiles of pieces, cut at multiples of `cell` from an image of `size`."""
        boxes = [piece.cut.box for piece in pieces]
        around = reduce(Box.union, boxes)
        place = _in_cells(around, cell)
        height, width = (-(-length // cell) for length in size)
        picture = max(height, place.bottom), max(width, place.right)
        inside = [_in_cells(box.within(around), cell) for box in boxes]
        return cls(place, inside, Crop(around, pieces[0].frame), picture)

    @property
    def size(self) -> Size:
        """Of the latent that they share."""
        return self.place.size

    @cached_property
    def decoded(self) -> list[Box]:
        """What is decoded for each piece, in the latent that they share."""
        return [box.grown(CONTEXT).clamped(self.size) for box in self.boxes]

    @property
    def insides(self) -> list[Box]:
        """Each piece in what is decoded for it."""
        return [box.within(around) for box, around in zip(self.boxes, self.decoded, strict=True)]

    def weights(self, pieces: Sequence[Piece]) -> list[Tensor]:
        """Return how much each piece's estimate counts in each latent pixel (h, w)."""
        return [
            tile_weight(piece.cut.weight, box.size) for piece, box in zip(pieces, self.boxes, strict=True)
        ]

    def union(self, masks: Sequence[Tensor]) -> Tensor:
        """Return masks (…, h, w) of the pieces over each other (…, H, W): the largest value counts."""
        whole = masks[0].new_zeros((*masks[0].shape[:-2], *self.size))
        for mask, box in zip(masks, self.boxes, strict=True):
            place = cut(whole, box)
            torch.maximum(place, mask, out=place)
        return whole


def _in_cells(box: Box, cell: int) -> Box:
    return Box(box.top // cell, box.left // cell, box.bottom // cell, box.right // cell)
