"""A long video as closed files of a fixed number of frames each, so that interrupted work can be resumed.

Inside a part, frames count 0, 1, 2 ...; their real times are in a file beside it. Every part begins with a
key frame and is encoded separately, so the parts, and the joined file, are the same with and without an
interruption.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import bad_input
from ..record import record
from .av_library import load_av
from .codecs import Encoding
from .colour import to_planes

PART_FRAMES = 50
OPEN = "open"  # the name of the part that is being written


@record
class Part:
    """A closed part: its file, and of each frame the time and the duration in the source's time base."""

    file: Path
    times: list[int]
    durations: list[int]


class Parts:
    """The parts in a folder, written with `encoding`.

    Raises:
        ValueError: when the encoder refuses its settings, such as the size of the frames.
    """

    def __init__(self, folder: Path, encoding: Encoding, frames: int = PART_FRAMES) -> None:
        _check_encoder(encoding)
        self._folder, self._encoding, self._frames = folder, encoding, frames
        folder.mkdir(parents=True, exist_ok=True)
        self.closed: list[Part] = []
        while part := self._read(f"{len(self.closed):06}"):
            self.closed.append(part)
            if len(part.times) < frames:
                break
        self._open: _PartEncoder | None = None
        self._last: tuple[Tensor, Any] | None = None

    @property
    def frames_done(self) -> int:
        """Number of frames in closed parts."""
        return sum(len(part.times) for part in self.closed)

    @property
    def is_complete(self) -> bool:
        """Whether the last part is shorter than the others, as only a finished video's can be."""
        return bool(self.closed) and len(self.closed[-1].times) < self._frames

    def write(self, picture: Tensor, time: int, duration: int) -> None:
        """Encode (3, H, W); the same tensor twice in a row is converted once."""
        if self._open is None:
            self._open = _PartEncoder(self._folder / f"{OPEN}{self._encoding.suffix}", self._encoding)
            self._last = None
        if self._last is None or self._last[0] is not picture:
            self._last = picture, _video_frame(picture, self._encoding)
        self._open.write(self._last[1], time, duration)
        if len(self._open.times) == self._frames:
            self.close()

    def close(self) -> None:
        """Close the part that is being written; after the last frame, it may be a short one."""
        if self._open is not None:
            encoder, self._open = self._open, None
            part = encoder.close()
            name = f"{len(self.closed):06}"
            moved = Part(self._folder / f"{name}{self._encoding.suffix}", part.times, part.durations)
            # The frames' file last: a part is there when both are.
            times = {"times": part.times, "durations": part.durations}
            (self._folder / f"{name}.json").write_text(json.dumps(times), encoding="utf-8")
            part.file.replace(moved.file)
            self.closed.append(moved)

    def interrupt(self) -> list[Part]:
        """End the current part without keeping it; return all frames so far as parts that can be joined."""
        if self._open is None:
            return list(self.closed)
        encoder, self._open = self._open, None
        return [*self.closed, encoder.close()]

    def _read(self, name: str) -> Part | None:
        file, times = self._folder / f"{name}{self._encoding.suffix}", self._folder / f"{name}.json"
        if not (file.is_file() and times.is_file()):
            return None
        return Part(file, **json.loads(times.read_text(encoding="utf-8")))


class _PartEncoder:
    """One encoder that writes one file."""

    def __init__(self, file: Path, encoding: Encoding) -> None:
        av = load_av()

        self._file = file
        self._output = av.open(str(file), "w")
        self._stream = self._output.add_stream(
            encoding.encoder, rate=encoding.rate, options=dict(encoding.options)
        )
        _configure(self._stream.codec_context, encoding)
        self.times: list[int] = []
        self._durations: list[int] = []

    def write(self, frame: Any, time: int, duration: int) -> None:
        frame.pts, frame.pict_type = len(self.times), 0
        self.times.append(time)
        self._durations.append(duration)
        self._output.mux(self._stream.encode(frame))

    def close(self) -> Part:
        self._output.mux(self._stream.encode(None))
        self._output.close()
        return Part(self._file, self.times, self._durations)


def _configure(context: Any, encoding: Encoding) -> None:
    context.width, context.height = encoding.width, encoding.height
    context.pix_fmt = encoding.pixels.name
    context.time_base = 1 / encoding.rate
    context.sample_aspect_ratio = encoding.aspect
    colour = encoding.colour
    context.color_range, context.colorspace = colour.range, colour.matrix
    context.color_primaries, context.color_trc = colour.primaries, colour.transfer


def _check_encoder(encoding: Encoding) -> None:
    """Open the encoder once, before frames are computed for it."""
    av = load_av()

    context = av.CodecContext.create(encoding.encoder, "w")
    context.options, context.framerate = dict(encoding.options), encoding.rate
    _configure(context, encoding)
    try:
        context.open()
    except av.error.FFmpegError as error:
        expected = f"frames that {encoding.encoder} can write"
        got = f"{encoding.width}x{encoding.height} at {float(encoding.rate):g} per second"
        raise bad_input("codec", expected, got, "Choose another codec or another size.") from error


def _video_frame(picture: Tensor, encoding: Encoding) -> Any:
    av = load_av()

    height, width = picture.shape[-2:]
    planes: list[Any] = to_planes(picture, encoding.pixels, encoding.colour, encoding.left)
    frame = av.VideoFrame(width, height, encoding.pixels.name)
    for plane, numbers in zip(frame.planes, planes, strict=True):
        rows: Any = numbers.reshape(numbers.shape[0], -1)
        numbers_of_plane: Any = np.frombuffer(plane, dtype=rows.dtype)
        buffer = numbers_of_plane.reshape(rows.shape[0], -1)  # its rows may be longer than the image's
        buffer[:, : rows.shape[1]] = rows
    frame.color_range, frame.colorspace = encoding.colour.range, encoding.colour.matrix
    return frame
