"""Saving the unfinished image of a run in ComfyUI's output folder."""

from __future__ import annotations

import json
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import folder_paths
import numpy as np
import torch
from PIL import Image, PngImagePlugin
from torch import Tensor


class SaveProgress:
    """An UPSCALER_HOOK: `post_paste` gets the image after each segment, and returns it."""

    only_reads = True  # segments need not be refined one by one

    def __init__(self, prefix: str, seconds: float, texts: dict[str, Any]) -> None:
        self._prefix, self._seconds = prefix, seconds
        self._texts = PngImagePlugin.PngInfo()
        for name, value in texts.items():
            self._texts.add_text(name, json.dumps(value))
        self._paths: list[Path] = []
        self._picture: Callable[[], Tensor | None] = lambda: None
        self._saved = time.monotonic()

    def post_paste(self, image: Tensor) -> Tensor:
        """Save IMAGE (F, H, W, C), at most once in `seconds`, always to the same files."""
        if time.monotonic() - self._saved >= self._seconds:
            for picture, path in zip(image, self._files(image), strict=True):
                pixels = (picture.clamp(0, 1) * 255).round().to("cpu", torch.uint8).numpy()
                unfinished = path.with_suffix(".part")
                Image.fromarray(np.squeeze(pixels)).save(
                    unfinished, "PNG", pnginfo=self._texts, compress_level=1
                )
                unfinished.replace(path)  # a crash while saving leaves the one before
            self._saved = time.monotonic()
        return image

    def _files(self, image: Tensor) -> list[Path]:
        if self._picture() is not image:  # another run: other files
            self._picture = weakref.ref(image)
            height, width = image.shape[1:3]
            folder, name, counter, _, _ = folder_paths.get_save_image_path(
                self._prefix, folder_paths.get_output_directory(), width, height
            )
            self._paths = [
                Path(folder) / f"{name}_{counter + number:05}_.png" for number in range(len(image))
            ]
        return self._paths
