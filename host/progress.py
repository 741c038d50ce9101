"""The host's progress bar, and the live preview of an image that fills part by part:
dark where it is not finished.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import comfy.utils
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
PREVIEW_SECONDS = 0.3  # between two previews


class PreviewBar:
    """A progress bar of `total` steps with a live preview of the one of `pictures` (F,
    C, H, W) that is being filled.

    A preview is sent if something is new, at most every `PREVIEW_SECONDS`, and at the end. `to_come` returns
    the boxes of an image that will be filled; without it, the whole image.
    """

    def __init__(
        self, pictures: Tensor, total: int, to_come: Callable[[int], Sequence[Box]] | None = None
    ) -> None:
        self._pictures, self._total, self._to_come = pictures, total, to_come
        self._bar = comfy.utils.ProgressBar(total)
        self._preview: LivePreview | None = None
        self._number = -1
        self._is_new = False
        self._sent = 0.0

    @property
    def is_due(self) -> bool:
        """Whether a preview may be sent again."""
        return time.monotonic() >= self._sent + PREVIEW_SECONDS

    def put(self, number: int, part: Tensor, box: Box, size: Size) -> None:
        """Show `part` (C, h, w) in a box of image `number` at `size`, with the next preview."""
        if self._preview is None or self._number != number:
            boxes = self._to_come(number) if self._to_come else None
            self._number, self._preview = number, LivePreview(self._pictures[number], boxes)
        self._preview.put(part, box, size)
        self._is_new = True

    def update(self, step: int) -> None:
        """Set the bar to `step`, and send the preview if it is due."""
        step, preview = min(step, self._total), None
        if self._preview is not None and self._is_new and (self.is_due or step == self._total):
            self._is_new, self._sent = False, time.monotonic()
            preview = ("JPEG", self._preview.image(), LONGEST)
        self._bar.update_absolute(step, self._total, preview)


class LivePreview:
    """A small copy of an image (C, H, W), dark in the boxes `to_come`, which are filled with finished parts.

    Without `to_come`, all of it is dark at first.
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
        """Show `part` (C, h, w) in a box of the image at `size`."""
        rows, columns = self._part(box, size)
        shown = rgb(part, 0).float().cpu()[None]
        place = self._pixels[:, rows, columns]
        place.copy_(F.interpolate(shown, place.shape[-2:], mode="nearest-exact")[0])

    def _part(self, box: Box, size: Size) -> tuple[slice, slice]:
        inside = box.clamped(size).scaled(size, self._size)
        return inside.rows, inside.columns

    def image(self) -> Image.Image:
        """Return the current preview."""
        pixels = (self._pixels.clamp(0, 1) * 255).round().to(torch.uint8)
        return Image.fromarray(np.ascontiguousarray(pixels.movedim(0, -1).numpy()))
