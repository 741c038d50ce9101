"""The progress bar, the preview and the Cancel button of tiled upscaling,
after every tile and within tiles.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

import comfy.model_management
from torch import Tensor, nn

from ..upscale.upscaler import Progress
from .progress import PreviewBar

STEPS = 1000  # of the progress bar


class TileProgress:
    """The progress bar and the preview while images (F, C, H, W) are enlarged,
    including measurements before it.

    A measurement counts as a number of passes over the images, so that the bar moves at constant speed.
    """

    def __init__(self, pictures: Tensor, network: nn.Module) -> None:
        self._layers = len(layers_of(network))
        self._bar = PreviewBar(pictures, STEPS)
        self._progress: Progress | None = None
        self._measured = self._measuring = 0.0
        self._begun, self._step = 0, -1

    def __call__(self, progress: Progress) -> None:
        self._begin(0.0)
        self._progress = progress
        if progress.part is not None:
            self._bar.put(progress.picture, progress.part, progress.box, progress.size)
        self._show()

    def measure(self, passes: float) -> None:
        """Start a measurement that counts as so many passes."""
        self._begin(passes)
        self._show()

    def begin_layer(self) -> None:
        """Move the bar on within a tile or a measurement."""
        self._begun += 1
        if self._at > self._step:
            self._show()

    def _begin(self, measuring: float) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        self._measured, self._measuring, self._begun = self._measured + self._measuring, measuring, 0

    @property
    def _at(self) -> int:
        within = min(1.0, self._begun / self._layers)
        measured, done = self._measured + within * self._measuring, 0.0
        if self._progress is not None:
            done = self._progress.share + (0.0 if self._measuring else within * self._progress.ahead)
        return int((measured + done) / (measured + 1) * STEPS + 1e-6)

    def _show(self) -> None:
        self._step = max(self._step, self._at)
        self._bar.update(self._step)

    def __enter__(self) -> TileProgress:
        """Follow the layers that run in this thread from now on."""
        self._before = _current.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        _current.reset(self._before)


_current: ContextVar[TileProgress | None] = ContextVar("tile progress", default=None)


def layers_of(network: nn.Module) -> list[nn.Module]:
    """Return the modules that contain no others."""
    return [layer for layer in network.modules() if not any(layer.children())]


def watch_layers(network: nn.Module) -> None:
    """Update the Cancel button and the progress bar after each of this network's layers,
    not only after tiles.
    """
    for layer in layers_of(network):
        layer.register_forward_pre_hook(_begin_layer)


def _begin_layer(layer: nn.Module, arguments: Any) -> None:
    comfy.model_management.throw_exception_if_processing_interrupted()
    if (progress := _current.get()) is not None:
        progress.begin_layer()
