"""The image that conditioning and patches were made for, and cropping data that covers it at any resolution.

B images, C channels, T latent frames of a video, H and W pixels, h and w latent pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import torch
from torch import Tensor

from ..record import record
from ..scaling.size import Size
from ..segs.crop import Crop, crop_resized, fit_aspect


class Grid(Enum):
    """The pixels that one value of data over the image covers."""

    PIXEL = "a pixel"
    LATENT = "a latent pixel"
    EITHER = "a latent pixel where there is a time, a pixel where there is none"
    OWN = "a latent pixel where its size is the latent's, otherwise as many pixels as its size says"


@record
class Canvas:
    """The image that the conditioning was made for.

    Attributes:
        size: current height and width.
        given: height and width before upscaling: absolute areas refer to it.
        cell: image pixels per latent pixel.
        has_time: whether latents have a time axis (B, C, T, h, w).
        before_target: height and width before it was enlarged for the size at which small segments are
            sampled, if it was.
    """

    size: Size
    given: Size
    cell: int = 8
    has_time: bool = False
    before_target: Size | None = None

    @property
    def sizes(self) -> tuple[Size, ...]:
        """The sizes that data over the image can be made for; it is cropped at the first one."""
        return self.size, self.before_target or self.size, self.given

    def cell_of(self, field: Tensor, grid: Grid) -> int:
        """Return the pixels per value of a field (…, h, w) in its crop."""
        if grid is Grid.OWN:
            cells = [round(height / field.shape[-2]) for height, _ in self.sizes]
            return self.cell if self.cell in cells else max(1, cells[0])
        in_pixels = grid is Grid.PIXEL or (grid is Grid.EITHER and field.dim() == 4)
        return 1 if in_pixels else self.cell

    def latent_sizes(self) -> set[Size]:
        """Return the sizes of latents of this image, now and before upscaling."""
        return {(height // self.cell, width // self.cell) for height, width in self.sizes}


def crop_field(field: Tensor, crop: Crop, canvas: Canvas, cell: int = 1) -> Tensor:
    """Return (1, …, h, w) of (h', w') or (B, …, h', w'): of the crop's frame if there are several."""
    if field.dim() == 2:
        field = field[None]
    frame = min(crop.frame, len(field) - 1)
    return crop_resized(field[frame : frame + 1], canvas.size, crop.box, cell)


def crop_fields(field: Tensor, crops: Sequence[Crop], canvas: Canvas, cell: int = 1) -> Tensor:
    """Return the same for several crops of one size: (crops, …, h, w)."""
    return torch.cat([crop_field(field, crop, canvas, cell) for crop in crops])


def crop_hints(hint: Tensor, crops: Sequence[Crop], canvas: Canvas) -> Tensor:
    """Return a hint (B, C, H, W) for each crop; of one with another shape the middle is
    used, as in the host.
    """
    return crop_fields(fit_aspect(hint, canvas.size), crops, canvas)


def crop_pictures(pictures: Tensor, crops: Sequence[Crop], canvas: Canvas) -> Tensor:
    """Return the same of IMAGE (B, H, W, C)."""
    return crop_hints(pictures.movedim(-1, 1), crops, canvas).movedim(1, -1)
