"""The progress bar and the preview while segments are refined: the picture, in which each appears where it belongs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import comfy.utils
import latent_preview
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..segs.refine import Piece
from .live_preview import LONGEST, FillingPicture

PREVIEW_SECONDS = 0.3  # between two previews
AROUND = 2  # steps that encoding and decoding a segment count for


class SegmentProgress:
    """What the host is told while pieces of `frames` (F, H, W, C) are refined in so many steps each."""

    def __init__(self, frames: Tensor, pieces: Sequence[Piece], steps: int, model: Any) -> None:
        self._frames, self._pieces = frames, [piece for piece in pieces if piece.cut.segment.wanted]
        self._total = max(1, len(self._pieces) * (steps + AROUND))
        self._bar = comfy.utils.ProgressBar(self._total)
        self._done = 0
        self._previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)
        self._filling: tuple[int, FillingPicture] | None = None
        self._shown = 0.0

    def advance(self, units: int = 1) -> None:
        """Move the bar on."""
        self._done += units
        self._bar.update_absolute(min(self._done, self._total), self._total)

    def step(self, pieces: Sequence[Piece], latents: Tensor) -> None:
        """One step of a batch is done: show what it looks like so far."""
        if self._previewer is not None and self._due():
            for piece, latent in zip(pieces, latents, strict=True):
                self._put(piece, _pixels(self._previewer.decode_latent_to_preview(latent[None])))
        self._done += len(pieces)
        self._bar.update_absolute(min(self._done, self._total), self._total, self._preview())

    def finish(self, piece: Piece, refined: Tensor) -> None:
        """A segment (h, w, C) is finished: show it."""
        self._put(piece, refined.movedim(-1, 0))
        self._done += 1
        self._bar.update_absolute(min(self._done, self._total), self._total, self._preview())

    def _due(self) -> bool:
        return time.monotonic() >= self._shown + PREVIEW_SECONDS

    def _put(self, piece: Piece, part: Tensor) -> None:
        if self._filling is None or self._filling[0] != piece.frame:
            picture = self._frames[piece.frame].movedim(-1, 0)
            to_come = [other.cut.box for other in self._pieces if other.frame == piece.frame]
            self._filling = piece.frame, FillingPicture(picture, to_come)
        self._filling[1].put(part, piece.cut.box, piece.cut.fit.size)

    def _preview(self) -> tuple[str, Any, int] | None:
        if self._filling is None or not (self._due() or self._done >= self._total):
            return None
        self._shown = time.monotonic()
        return ("JPEG", self._filling[1].image(), LONGEST)


def _pixels(image: Image.Image) -> Tensor:
    """Return a picture as (3, h, w) from 0 to 1."""
    return torch.as_tensor(np.array(image.convert("RGB"))).movedim(-1, 0) / 255
