"""The progress bar, the preview and the cancel button of tiled upscaling, after every tile and within it."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

import comfy.model_management
from torch import Tensor, nn

from ..upscale.upscaler import Progress
from .progress import PreviewBar

STEPS = 1000  # of the progress bar


class TileProgress:
    """The progress bar and the preview while pictures (F, C, H, W) are enlarged."""

    def __init__(self, pictures: Tensor, networks: Sequence[nn.Module]) -> None:
        self._layers = sum(len(layers_of(network)) for network in networks)
        self._bar = PreviewBar(pictures, STEPS)
        self._progress: Progress | None = None
        self._begun = self._step = 0

    def __call__(self, progress: Progress) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        self._progress, self._begun = progress, 0
        self._step = round(progress.share * STEPS)
        if progress.part is not None:
            self._bar.put(progress.picture, progress.part, progress.box, progress.size)
        self._bar.update(self._step)

    def begin_layer(self) -> None:
        """Move the bar on within a tile."""
        if self._progress is None:
            return
        self._begun += 1
        within = min(1.0, self._begun / self._layers)
        step = int((self._progress.share + within * self._progress.ahead) * STEPS)
        if step > self._step:
            self._step = step
            self._bar.update(step)

    def __enter__(self) -> TileProgress:
        """Follow the layers that run in this thread from now on."""
        self._before = _current.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        _current.reset(self._before)


_current: ContextVar[TileProgress | None] = ContextVar("tile progress", default=None)


def layers_of(network: nn.Module) -> list[nn.Module]:
    """Return the modules that hold no others."""
    return [layer for layer in network.modules() if not any(layer.children())]


def watch_layers(network: nn.Module) -> None:
    """Let the cancel button and the progress bar follow this network's layers, not only tiles."""
    for layer in layers_of(network):
        layer.register_forward_pre_hook(_begin_layer)


def _begin_layer(layer: nn.Module, arguments: Any) -> None:
    comfy.model_management.throw_exception_if_processing_interrupted()
    if (progress := _current.get()) is not None:
        progress.begin_layer()
