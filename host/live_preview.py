"""The live preview of a picture that fills tile by tile: dark where it is still to come."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..scaling.colours import rgb

LONGEST = 512  # side of the preview in pixels
TO_COME = 0.35  # brightness of what is still to come

Place = tuple[float, float, float, float]  # top, bottom, left and right as shares of the picture
WHOLE: Place = (0.0, 1.0, 0.0, 1.0)


class FillingPicture:
    """A small copy of (C, H, W) in which parts are put as they come; `to_come` is where."""

    def __init__(self, picture: Tensor, to_come: Sequence[Place] = (WHOLE,)) -> None:
        height, width = picture.shape[-2:]
        factor = min(1.0, LONGEST / max(height, width))
        size = max(1, round(height * factor)), max(1, round(width * factor))
        rows, columns = (
            ((torch.arange(new) + 0.5) * old / new).long()
            for new, old in zip(size, (height, width), strict=True)
        )
        small = picture[:, rows.to(picture.device)][:, :, columns.to(picture.device)]
        self._pixels = rgb(small, 0).float().cpu()
        dark = torch.ones(size)
        for place in to_come:
            dark[self._part(place)] = TO_COME
        self._pixels = self._pixels * dark

    def put(self, part: Tensor, place: Place) -> None:
        """Show `part` (C, h, w) at `place`."""
        rows, columns = self._part(place)
        size = self._pixels[0, rows, columns].shape
        self._pixels[:, rows, columns] = F.interpolate(
            rgb(part, 0).float().cpu()[None], size, mode="nearest-exact"
        )[0]

    def _part(self, place: Place) -> tuple[slice, slice]:
        height, width = self._pixels.shape[-2:]
        top, bottom, left, right = place
        rows = slice(math.floor(top * height), math.ceil(bottom * height))
        return rows, slice(math.floor(left * width), math.ceil(right * width))

    def image(self) -> Image.Image:
        """Return what is there so far."""
        pixels = (self._pixels.clamp(0, 1) * 255).round().to(torch.uint8)
        return Image.fromarray(np.ascontiguousarray(pixels.movedim(0, -1).numpy()))
