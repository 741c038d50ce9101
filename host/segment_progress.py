"""The progress bar and the preview while segments are refined: the image,
in which each segment appears at its position.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import latent_preview
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..scaling.box import Box
from ..segs.refine import Piece
from .progress import PreviewBar

AROUND = 2  # steps that encoding and decoding a segment count for


class SegmentProgress:
    """The progress bar and the preview while pieces of `frames` (F, H, W, C) are
    refined in `steps` steps each.
    """

    def __init__(self, frames: Tensor, pieces: Sequence[Piece], steps: int, model: Any) -> None:
        wanted = [piece for piece in pieces if piece.cut.segment.wanted]

        def to_come(frame: int) -> list[Box]:
            return [piece.cut.box for piece in wanted if piece.frame == frame]

        self._bar = PreviewBar(frames.movedim(-1, 1), max(1, len(wanted) * (steps + AROUND)), to_come)
        self._previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)
        self._done = 0

    def advance(self, units: int = 1) -> None:
        """Move the bar on."""
        self._done += units
        self._bar.update(self._done)

    def step(self, pieces: Sequence[Piece], latents: Sequence[Tensor] | Tensor) -> None:
        """Show what a batch looks like after one step."""
        if self._previewer is not None and self._bar.is_due:
            for piece, latent in zip(pieces, latents, strict=True):
                self._put(piece, _pixels(self._previewer.decode_latent_to_preview(latent[None])))
        self.advance(len(pieces))

    def finish(self, piece: Piece, refined: Tensor) -> None:
        """Show a finished segment (h, w, C)."""
        self._put(piece, refined.movedim(-1, 0))
        self.advance()

    def _put(self, piece: Piece, part: Tensor) -> None:
        self._bar.put(piece.frame, part, piece.cut.box, piece.cut.fit.size)


def _pixels(image: Image.Image) -> Tensor:
    """Return an image as (3, h, w) from 0 to 1."""
    return torch.as_tensor(np.array(image.convert("RGB"))).movedim(-1, 0) / 255
