"""The progress bar, the preview and the cancel button of tiled upscaling, after every tile and within it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

import comfy.model_management
import comfy.utils
from torch import Tensor, nn

from ..upscale.upscaler import Progress
from .live_preview import LONGEST, FillingPicture

STEPS = 1000  # of the progress bar
PREVIEW_SECONDS = 0.3  # between two previews


class TileProgress:
    """What the host is told while pictures (F, C, H, W) are enlarged."""

    def __init__(self, pictures: Tensor, networks: Sequence[nn.Module]) -> None:
        self._pictures = pictures
        self._layers = sum(len(layers_of(network)) for network in networks)
        self._bar = comfy.utils.ProgressBar(STEPS)
        self._filling: FillingPicture | None = None
        self._number = -1
        self._shown = 0.0
        self._progress: Progress | None = None
        self._begun = self._step = 0

    def __call__(self, progress: Progress) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        self._progress, self._begun = progress, 0
        self._step = round(progress.share * STEPS)
        self._bar.update_absolute(self._step, STEPS, self._preview(progress))

    def begin_layer(self) -> None:
        """Move the bar on within a tile."""
        if self._progress is None:
            return
        self._begun += 1
        within = min(1.0, self._begun / self._layers)
        step = int((self._progress.share + within * self._progress.ahead) * STEPS)
        if step > self._step:
            self._step = step
            self._bar.update_absolute(step, STEPS)

    def _preview(self, progress: Progress) -> tuple[str, Any, int] | None:
        if progress.part is None:
            return None
        if self._filling is None or self._number != progress.picture:
            self._number = progress.picture
            self._filling = FillingPicture(self._pictures[progress.picture])
        self._filling.put(progress.part, progress.box, progress.size)
        if time.monotonic() < self._shown + PREVIEW_SECONDS and progress.share < 1:
            return None
        self._shown = time.monotonic()
        return ("JPEG", self._filling.image(), LONGEST)

    def __enter__(self) -> TileProgress:
        """Hear of the layers that run in this thread from now on."""
        self._before = _current.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        _current.reset(self._before)


_current: ContextVar[TileProgress | None] = ContextVar("tile progress", default=None)


def layers_of(network: nn.Module) -> list[nn.Module]:
    """Return the modules that hold no others."""
    return [layer for layer in network.modules() if not any(layer.children())]


def watch_layers(network: nn.Module) -> None:
    """Let the cancel button and the progress bar go by this network's layers, not only by tiles."""
    for layer in layers_of(network):
        layer.register_forward_pre_hook(_begin_layer)


def _begin_layer(layer: nn.Module, arguments: Any) -> None:
    comfy.model_management.throw_exception_if_processing_interrupted()
    if (progress := _current.get()) is not None:
        progress.begin_layer()
