"""Sample one image with ComfyUI's own sampler, in this process."""

from __future__ import annotations

import time
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..host import import_host
from .methods import METHODS
from .plan import CFG, SAMPLER, SCHEDULER, SEED, Cell, Model, latent_size, prompts_of

Conditioning = list[list[Any]]


class Painter:
    """A loaded model with its autoencoder."""

    def __init__(self, model: Model) -> None:
        import_host()
        from ..tiny.model_file import load_model
        from ..tiny.vae import load_vae

        self.tiny = load_model(model.file)
        self.vae = load_vae(model.file.parent / "vae.safetensors")
        self.prompts = prompts_of(self.tiny.facts.names)
        self._patched = cache(self._patch)

    def paint(self, cell: Cell, picture: int) -> tuple[NDArray[np.uint8], float]:
        """Return an image (H, W, 3) of a cell, and the CPU seconds of sampling its latent."""
        from ..sampling import sample

        model = self._patched(cell.method)
        began = time.process_time()
        latents = sample(
            model, latent_size(cell.size, self.tiny.facts.trained_side),
            steps=cell.steps, cfg=CFG, sampler=SAMPLER, scheduler=SCHEDULER, seed=SEED + picture,
            positive=self._conditioning(self.tiny.facts.names.index(self.prompt(picture))),
            negative=self._conditioning(-1),
        )  # fmt: skip
        seconds = time.process_time() - began
        with torch.inference_mode():
            decoded = self.vae.decode(latents)[0]
        return (255 * decoded.clamp(0, 1)).round().byte().cpu().numpy(), seconds

    def prompt(self, picture: int) -> str:
        """Return the prompt of an image: prompts are used in turn."""
        return self.prompts[picture % len(self.prompts)]

    def _patch(self, method: str) -> Any:
        return METHODS[method](self.tiny.patcher, self.tiny.facts.trained_side)

    def _conditioning(self, row: int) -> Conditioning:
        tokens = self.tiny.class_tokens[row][None]  # (1, T, D)
        return [[tokens, {"pooled_output": tokens.mean(1)}]]
