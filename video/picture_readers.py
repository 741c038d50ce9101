"""Frames from other sources than a video file: a folder of images, or tensors in memory."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import bad_input
from .colour import Colour
from .frame import Frame, VideoFormat
from .sound import WaveSound

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}


class FolderReader:
    """The images of a folder in the order of their names, numbers by their value: 2 comes before 10.

    Raises:
        ValueError: when there are none.
    """

    def __init__(self, folder: Path, rate: Fraction) -> None:
        image = _pillow()
        files = [file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES]
        if not files:
            kinds = ", ".join(sorted(SUFFIXES))
            raise bad_input(
                "file", f"a folder of images ({kinds})", f"none in {folder.name}", "Choose another folder."
            )
        self._files = sorted(files, key=_natural)
        with image.open(self._files[0]) as first:
            width, height = first.size
        self.form = VideoFormat(height, width, 1 / rate, rate, frames=len(files))
        states = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in self._files]
        self.identity = f"{folder.resolve()} {rate} {hashlib.sha256(repr(states).encode()).hexdigest()}"
        self.faults: list[str] = []
        self.metadata: dict[str, str] = {}

    def sound(self) -> None:
        """Return None: a folder has no sound."""

    def frames(self, skip: int = 0) -> Iterator[Frame]:
        """Yield the images.

        Raises:
            ValueError: when one cannot be read, or has another size than the first.
        """
        image = _pillow()
        for time, file in list(enumerate(self._files))[skip:]:
            try:
                with image.open(file) as opened:
                    pixels = np.asarray(opened.convert("RGB"), dtype=np.float32) / 255.0
            except (OSError, SyntaxError) as error:
                hint = "Remove or replace it; finished frames are kept."
                raise bad_input("file", "readable images", f"{file.name} ({error})", hint) from error
            if pixels.shape[:2] != (self.form.height, self.form.width):
                height, width = pixels.shape[:2]
                expected = f"images of {self.form.width}x{self.form.height}, as the first one"
                raise bad_input(
                    "file", expected, f"{file.name} of {width}x{height}", "Resize all images to one size."
                )
            yield Frame(torch.as_tensor(pixels).movedim(-1, 0), time, 1)


def _pillow() -> Any:
    from PIL import Image

    return Image


def _natural(file: Path) -> list[Any]:
    parts = re.split(r"(\d+)", file.name.lower())
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


class TensorReader:
    """Frames (F, H, W, C) that are in memory already; with 4 channels, transparency is removed."""

    def __init__(
        self,
        images: Tensor,
        rate: Fraction,
        bits: int = 8,
        waveform: Tensor | None = None,
        sample_rate: int = 0,
    ) -> None:
        if images.dim() != 4 or not images.numel():
            shape = "x".join(str(length) for length in images.shape)
            raise bad_input(
                "video", "at least one frame", f"a tensor of {shape}", ("Check the node that made it.")
            )
        self._images, self._waveform, self._sample_rate = images, waveform, sample_rate
        count, height, width, channels = images.shape
        self.form = VideoFormat(height, width, 1 / rate, rate, bits, Colour(), frames=count)
        self.faults = ["Transparency is removed."] if channels == 4 else []
        self.metadata: dict[str, str] = {}
        digest = hashlib.sha256(f"{tuple(images.shape)} {rate}".encode())
        for frame in images:  # one by one: a copy of all of them would be what streaming avoids
            digest.update(frame.detach().float().cpu().contiguous().numpy().tobytes())
        if waveform is not None:
            digest.update(waveform.detach().float().cpu().contiguous().numpy().tobytes())
        self.identity = digest.hexdigest()

    def sound(self) -> WaveSound | None:
        """Return the waveform (channels, samples) as sound."""
        return None if self._waveform is None else WaveSound(self._waveform, self._sample_rate)

    def frames(self, skip: int = 0) -> Iterator[Frame]:
        """Yield the frames; NaN is black."""
        for time in range(skip, len(self._images)):
            picture = self._images[time].movedim(-1, 0)[:3].float().nan_to_num(0.0, 1.0, 0.0).clamp(0, 1)
            yield Frame(picture.expand(3, -1, -1) if picture.shape[0] == 1 else picture, time, 1)
