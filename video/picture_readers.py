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
from numpy.typing import NDArray
from torch import Tensor

from ..errors import bad_input
from .colour import Colour
from .frame import OPAQUE, Frame, VideoFormat
from .sound import WaveSound

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}


class FolderReader:
    """The images of a folder in the order of their names, numbers by their value: 2 comes before 10.

    Raises:
        ValueError: when there are none, or the first one cannot be read.
    """

    def __init__(self, folder: Path, rate: Fraction) -> None:
        files = [file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file()]
        if not files:
            kinds = ", ".join(sorted(SUFFIXES))
            raise bad_input(
                "file", f"a folder of images ({kinds})", f"none in {folder.name}", "Choose another folder."
            )
        self._files = sorted(files, key=_natural)
        self.faults: list[str] = []
        _, height, width = self._read(self._files[0]).shape
        self.form = VideoFormat(height, width, 1 / rate, rate, frames=len(files))
        states = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in self._files]
        self.identity = f"{folder.resolve()} {rate} {hashlib.sha256(repr(states).encode()).hexdigest()}"
        self.metadata: dict[str, str] = {}

    def sound(self) -> None:
        """Return None: a folder has no sound."""

    def frames(self, skip: int = 0) -> Iterator[Frame]:
        """Yield the images.

        Raises:
            ValueError: when one cannot be read, or has another size than the first.
        """
        for time, file in list(enumerate(self._files))[skip:]:
            picture = self._read(file)
            _, height, width = picture.shape
            if (height, width) != (self.form.height, self.form.width):
                expected = f"images of {self.form.width}x{self.form.height}, as the first one"
                raise bad_input(
                    "file", expected, f"{file.name} of {width}x{height}", "Resize all images to one size."
                )
            yield Frame(picture, time, 1)

    def _read(self, file: Path) -> Tensor:
        """Return (3, H, W) of an image file, upright.

        Raises:
            ValueError: when it cannot be read, or its numbers have no known range.
        """
        image, operations = _pillow()
        try:
            with image.open(file) as opened:
                if OPAQUE not in self.faults and _is_transparent(opened):
                    self.faults.append(OPAQUE)
                return torch.as_tensor(_numbers(operations.exif_transpose(opened), file)).movedim(-1, 0)
        except (OSError, SyntaxError) as error:
            hint = "Remove or replace it; finished frames are kept."
            raise bad_input("file", "readable images", f"{file.name} ({error})", hint) from error


def _pillow() -> tuple[Any, Any]:
    from PIL import Image, ImageOps

    return Image, ImageOps


def _is_transparent(image: Any) -> bool:
    """Return whether an image has pixels that are not opaque."""
    if not image.has_transparency_data:
        return False
    least, _ = image.convert("RGBA").getchannel("A").getextrema()
    return least < 255


def _numbers(image: Any, file: Path) -> NDArray[np.float32]:
    """Return the pixels (H, W, 3) of an image of 8 bits, or grey of 16, as numbers from 0 to 1."""
    if image.mode == "F":
        got = f"{file.name} of floating-point numbers"
        raise bad_input("file", "images of 8 or 16 bits", got, "Convert the images to PNG.")
    if image.mode.startswith("I"):  # grey of 16 bits; Pillow would clip it at 255
        grey = np.asarray(image, dtype=np.float32).clip(0, 65535) / 65535
        return np.repeat(grey[..., None], 3, axis=-1).astype(np.float32)
    return (np.asarray(image.convert("RGB"), dtype=np.float32) / 255).astype(np.float32, copy=False)


def _natural(file: Path) -> list[Any]:
    parts = re.split(r"(\d+)", file.name.lower())
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


class TensorReader:
    """Frames (F, H, W, C) that are in memory already: grey, RGB, or either with transparency, which is removed.

    Raises:
        ValueError: when there is no frame, or C is not 1 to 4, or the rate is not above 0.
    """

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
        if channels > 4:
            expected, hint = "frames of 1 to 4 channels", "Convert the frames to RGB first."
            raise bad_input("video", expected, channels, hint)
        if rate <= 0:
            hint = "Set fps in the node that made the video."
            raise bad_input("video", "a frame rate above 0", rate, hint)
        self.form = VideoFormat(height, width, 1 / rate, rate, bits, Colour(), frames=count)
        has_alpha = channels in (2, 4)
        self.faults: list[str] = []
        self.metadata: dict[str, str] = {}
        digest = hashlib.sha256(f"{tuple(images.shape)} {rate}".encode())
        for frame in images:  # one by one: a copy of all of them would be what streaming avoids
            digest.update(frame.detach().float().cpu().contiguous().numpy().tobytes())
            if has_alpha and not self.faults and bool((frame[..., -1] < 1).any()):
                self.faults.append(OPAQUE)
        if waveform is not None:
            digest.update(waveform.detach().float().cpu().contiguous().numpy().tobytes())
        self.identity = digest.hexdigest()

    def sound(self) -> WaveSound | None:
        """Return the waveform (channels, samples) as sound."""
        return None if self._waveform is None else WaveSound(self._waveform, self._sample_rate)

    def frames(self, skip: int = 0) -> Iterator[Frame]:
        """Yield the frames; NaN is black."""
        for time in range(skip, len(self._images)):
            picture = self._images[time].movedim(-1, 0).float().nan_to_num(0.0, 1.0, 0.0).clamp(0, 1)
            yield Frame(picture[:3] if len(picture) > 2 else picture[:1].expand(3, -1, -1), time, 1)
