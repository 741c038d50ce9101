"""Frames and audio of a video file, one after the other, as the same floats as from ComfyUI's own loader."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from io import BytesIO
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import bad_input
from .av_library import load_av
from .colour import RGB_MATRIX, Colour
from .frame import OPAQUE, Frame, VideoFormat
from .sound import FileSound

EIGHT_BIT = {
    "yuvj420p",
    "yuvj422p",
    "yuvj444p",
    "rgb24",
    "rgba",
    "pal8",
}  # decoded to 8-bit RGB, as the host does
ALIGNED = 32  # swscale writes garbage at the right edge of other widths
MICROSECONDS = 1_000_000  # FFmpeg's own unit of time
MISSING_SECONDS = 0.5  # by which a file may be shorter than it says


class FileReader:
    """Frames of `source`, a path or a file in memory, from `start` on for `duration` seconds (0: to the end).

    A whole file begins at 0, also if its own times begin later, as in recordings and MPEG-TS.

    Raises:
        ValueError: when the file cannot be opened, or holds no video.
    """

    def __init__(self, source: str | BytesIO, start: float = 0.0, duration: float = 0.0) -> None:
        self.source, self.start, self.duration = source, start, duration
        self.faults: list[str] = []
        with self._open() as container:
            stream = self._video(container)
            is_whole = not start and not duration
            self._origin = Fraction(max(0, container.start_time or 0) if is_whole else 0, MICROSECONDS)
            self.metadata = dict(container.metadata)
            self.form = _form(container, stream, start, duration, self._origin)
            self._has_sound = bool(container.streams.audio)
            self._has_alpha = any(part.is_alpha for part in stream.format.components)
        self.identity = f"{_identity(source)} {start} {duration}"

    def sound(self) -> FileSound | None:
        """Return the file's sound in the same window of time; None if it has none."""
        return FileSound(self.source, self.start, self.duration, self._origin) if self._has_sound else None

    def frames(self, skip: int = 0) -> Iterator[Frame]:
        """Yield the frames, without the first `skip`; damaged ones are left out and counted in `faults`."""
        self.faults.clear()
        with self._open() as container:
            stream = self._video(container)
            stream.thread_type = "AUTO"
            first = int(self.start / stream.time_base)
            last = int((self.start + self.duration) / stream.time_base) if self.duration else None
            if first:
                container.seek(first, stream=stream)
            zero = first + int(self._origin / stream.time_base)
            to_picture, count, time, duration = _Pictures(self._has_alpha), 0, -1, 0
            for decoded in self._decoded(container, stream):
                if decoded.pts is not None and decoded.pts < first:
                    continue
                if last is not None and decoded.pts is not None and decoded.pts >= last:
                    break
                time = self._time(decoded.pts, zero, time)
                duration, count = decoded.duration or self.form.step, count + 1
                if count > skip:
                    picture = to_picture(decoded)
                    if to_picture.lost_transparency and OPAQUE not in self.faults:
                        self.faults.append(OPAQUE)
                    yield Frame(picture, time, duration)
        self._note_missing(count, float((time + duration) * self.form.time_base) if count else 0.0)

    def _decoded(self, container: Any, stream: Any) -> Iterator[Any]:
        av = load_av()

        damaged = 0
        try:
            for packet in container.demux(stream):
                try:
                    yield from packet.decode()
                except av.error.FFmpegError:
                    damaged += 1
        except av.error.FFmpegError as error:
            self.faults.append(f"The file cannot be read completely ({error.strerror}).")
        if damaged:
            self.faults.append(f"{damaged} damaged packets were skipped.")

    def _time(self, pts: int | None, zero: int, before: int) -> int:
        """Return a frame's time from the start of the window;
        frames without or with an earlier time follow.
        """
        if pts is not None and pts - zero > before:
            return pts - zero
        if not any(fault.startswith("Some frames") for fault in self.faults):
            self.faults.append("Some frames have no timestamp; each is shown after the one before.")
        return before + self.form.step if before >= 0 else 0

    def _note_missing(self, count: int, end: float) -> None:
        if not count:
            raise bad_input(
                "video", "a file with readable frames", "none", "The file is damaged. Export it again."
            )
        expected = self.form.frames
        seconds = float(expected / self.form.rate)
        # A variable rate makes the expected count an estimate; a frame too few at the end is no loss.
        if count < expected and seconds - end > MISSING_SECONDS:
            self.faults.append(
                f"{count} frames ({end:.1f} s) could be read; the file says {expected} ({seconds:.1f} s)."
            )

    def _open(self) -> Any:
        av = load_av()

        if isinstance(self.source, BytesIO):
            self.source.seek(0)
        try:
            return av.open(self.source, "r")
        except (av.error.FFmpegError, OSError) as error:
            name = "a file in memory" if isinstance(self.source, BytesIO) else os.path.basename(self.source)
            reason = getattr(error, "strerror", None) or error
            raise bad_input(
                "video",
                "a file that can be opened",
                f"{name} ({reason})",
                ("Check that it is an undamaged video."),
            ) from error

    def _video(self, container: Any) -> Any:
        if not container.streams.video:
            raise bad_input("video", "a file with a video stream", "one without", "Choose another file.")
        stream = container.streams.video[0]
        if stream.codec_context is None or not (stream.width and stream.height and stream.format):
            name = stream.codec_context.name if stream.codec_context else "an unknown codec"
            hint = "Convert the video to H.264 first, or an animation to a folder of images."
            raise bad_input("video", "a video that the installed av package can decode", name, hint)
        return stream


class _Pictures:
    """Turns decoded frames into (3, H, W) float32 in [0, 1], upright,
    with the same bits as the host's loader.

    Attributes:
        lost_transparency: whether one of them had transparent pixels.
    """

    def __init__(self, has_alpha: bool) -> None:
        self._has_alpha, self.lost_transparency = has_alpha, False
        self._size: tuple[int, int] | None = None
        self._padding: tuple[Any, Any, Any] | None = None

    def __call__(self, decoded: Any) -> Tensor:
        size = decoded.height, decoded.width
        if self._size not in (None, size):
            assert self._size is not None
            raise bad_input(
                "video",
                "frames of one size",
                f"{size[1]}x{size[0]} after {self._size[1]}x{self._size[0]}",
                "Convert the video to one size first.",
            )
        self._size = size
        if self._has_alpha and not self.lost_transparency:
            self.lost_transparency = _is_transparent(decoded)
        if decoded.format.name in EIGHT_BIT:
            pixels = decoded.to_ndarray(format="rgb24").astype(np.float32) / 255.0
        else:
            padded = decoded if decoded.width % ALIGNED == 0 else self._padded(decoded)
            pixels = padded.to_ndarray(format="gbrpf32le")[: size[0], : size[1]]
        if turns := _quarter_turns(decoded):
            pixels = np.rot90(pixels, turns, axes=(0, 1))
        return torch.as_tensor(np.ascontiguousarray(pixels)).movedim(-1, 0)

    def _padded(self, decoded: Any) -> Any:
        av = load_av()

        if self._padding is None:
            height, width = (-(-side // ALIGNED) * ALIGNED for side in (decoded.height, decoded.width))
            graph = av.filter.Graph()
            source = graph.add_buffer(
                width=decoded.width,
                height=decoded.height,
                format=decoded.format.name,
                time_base=decoded.time_base,
            )
            right, below = width - decoded.width, height - decoded.height
            fill = f"left=0:right={right}:top=0:bottom={below}:mode=smear"
            steps = [source, graph.add("pad", f"{width}:{height}:0:0"), graph.add("fillborders", fill)]
            steps.append(graph.add("buffersink"))
            for before, after in pairwise(steps):
                before.link_to(after)
            graph.configure()
            self._padding = graph, source, steps[-1]
        _, source, sink = self._padding
        source.push(decoded)
        return sink.pull()


def _is_transparent(decoded: Any) -> bool:
    """Return whether a frame with an alpha channel has pixels that are not opaque."""
    parts = decoded.format.components
    [alpha] = [part for part in parts if part.is_alpha]
    is_alone = [part.plane for part in parts].count(alpha.plane) == 1
    if not is_alone or alpha.bits > 16 or decoded.format.is_big_endian:
        return bool(decoded.to_ndarray(format="rgba")[..., 3].min() < 255)
    # Not through swscale, which writes garbage there at some widths.
    plane: Any = decoded.planes[alpha.plane]
    numbers: Any = np.frombuffer(plane, np.uint8 if alpha.bits == 8 else "<u2")
    rows = numbers.reshape(-1, plane.line_size // numbers.itemsize)
    return bool(rows[:, : decoded.width].min() < 2**alpha.bits - 1)


def _quarter_turns(decoded: Any) -> int:
    return round(decoded.rotation // 90) % 4 if decoded.rotation else 0


def _form(container: Any, stream: Any, start: float, duration: float, origin: Fraction) -> VideoFormat:
    """Return the format from a stream's header and its first frame."""
    context = stream.codec_context
    rate = Fraction(stream.average_rate or stream.guessed_rate or 24)
    bits = max((part.bits for part in stream.format.components), default=8)
    is_rgb = stream.format.is_rgb or context.colorspace == RGB_MATRIX
    full = 2 if stream.format.name.startswith("yuvj") else context.color_range
    colour = Colour(
        RGB_MATRIX if is_rgb else context.colorspace, full, context.color_primaries, context.color_trc
    )
    aspect = Fraction(stream.sample_aspect_ratio or 1)
    form = VideoFormat(context.height, context.width, stream.time_base, rate, bits, colour, aspect)
    form = replace(form, frames=_expected_frames(container, stream, rate, start, duration, origin))
    first = next((frame for frame in _readable(container, stream)), None)
    if first is not None and _quarter_turns(first) % 2:
        form = replace(form, height=form.width, width=form.height, aspect=1 / aspect)
    return form


def _readable(container: Any, stream: Any) -> Iterator[Any]:
    av = load_av()

    try:
        yield from container.decode(stream)
    except av.error.FFmpegError:
        return


def _expected_frames(
    container: Any, stream: Any, rate: Fraction, start: float, duration: float, origin: Fraction
) -> int:
    if stream.frames and not start and not duration:
        return stream.frames
    seconds = _seconds(container, stream, float(origin)) - start
    return max(0, round(min(seconds, duration or seconds) * rate))


def _seconds(container: Any, stream: Any, origin: float) -> float:
    """Return the length of a stream. Matroska stores its end, which is `origin` later."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    if "matroska" not in container.format.name:
        origin = 0.0
    tag = stream.metadata.get("DURATION", "")  # Matroska: hours:minutes:seconds
    if tag.count(":") == 2:
        hours, minutes, seconds = tag.split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds) - origin
    return container.duration / MICROSECONDS - origin if container.duration else 0.0


def _identity(source: str | BytesIO) -> str:
    if isinstance(source, BytesIO):
        return hashlib.sha256(source.getbuffer()).hexdigest()
    status = os.stat(source)
    return f"{os.path.realpath(source)} {status.st_size} {status.st_mtime_ns}"
