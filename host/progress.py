"""The live preview of a picture that fills tile by tile: dark where it is still to come."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..scaling.box import Box
from ..scaling.colours import rgb
from ..scaling.size import Size

LONGEST = 512  # side of the preview in pixels
TO_COME = 0.35  # brightness of what is still to come


class FillingPicture:
    """A small copy of a picture (C, H, W), dark in the boxes `to_come`, in which parts are put as they come.

    Without `to_come` all of it is dark at first.
    """

    def __init__(self, picture: Tensor, to_come: Sequence[Box] | None = None) -> None:
        given = picture.shape[-2], picture.shape[-1]
        factor = min(1.0, LONGEST / max(given))
        self._size = max(1, round(given[0] * factor)), max(1, round(given[1] * factor))
        rows, columns = (
            ((torch.arange(new) + 0.5) * old / new).long().to(picture.device)
            for new, old in zip(self._size, given, strict=True)
        )
        light = torch.ones(self._size)
        for box in [Box(0, 0, *given)] if to_come is None else to_come:
            light[self._part(box, given)] = TO_COME
        self._pixels = rgb(picture[:, rows][:, :, columns], 0).float().cpu() * light

    def put(self, part: Tensor, box: Box, size: Size) -> None:
        """Show `part` (C, h, w) in a box of the picture at `size`."""
        rows, columns = self._part(box, size)
        shown = rgb(part, 0).float().cpu()[None]
        place = self._pixels[:, rows, columns]
        place.copy_(F.interpolate(shown, place.shape[-2:], mode="nearest-exact")[0])

    def _part(self, box: Box, size: Size) -> tuple[slice, slice]:
        inside = box.clamped(size).scaled(size, self._size)
        return inside.rows, inside.columns

    def image(self) -> Image.Image:
        """Return what is there so far."""
        pixels = (self._pixels.clamp(0, 1) * 255).round().to(torch.uint8)
        return Image.fromarray(np.ascontiguousarray(pixels.movedim(0, -1).numpy()))
