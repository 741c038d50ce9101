"""The audio of a video: copied packet by packet if the new file type can contain it, else encoded again."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from io import BytesIO
from typing import Any, Protocol

from torch import Tensor

from .av_library import load_av

ENCODERS = {"webm": "libopus"}  # by container; elsewhere AAC
# By the number of channels; every encoder takes these, and only some take "5.1(side)" or "2.1".
LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "quad", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
BLOCK = 1024 * 16  # samples that are encoded in one go


class Sound(Protocol):
    """The audio of a video.

    Attributes:
        notes: notes for the user about it, complete after `add_to`.
    """

    notes: list[str]

    def add_to(self, output: Any, end: float | None = None) -> list[Iterator[Any]]:
        """Add streams to an open output; return for each the packets up to `end` seconds,
        to be muxed in order.
        """
        ...


class FileSound:
    """All sound of a file that can be read, from `start` on for `duration` seconds (0: to the end).

    `origin` is the file's own time, in seconds, that becomes 0.
    """

    def __init__(
        self, source: str | BytesIO, start: float = 0.0, duration: float = 0.0, origin: Fraction = Fraction(0)
    ) -> None:
        self._source, self._start, self._duration, self._zero = source, start, duration, start + origin
        self.notes: list[str] = []

    def add_to(self, output: Any, end: float | None = None) -> list[Iterator[Any]]:
        """See `Sound`."""
        self.notes.clear()
        ends = [limit for limit in (end, self._duration or None) if limit is not None]
        limit = self._zero + min(ends) if ends else math.inf
        with self._open() as container:
            names = [stream.codec_context and stream.codec_context.name for stream in container.streams.audio]
        packets: list[Iterator[Any]] = []
        for index, name in enumerate(names):
            # A container of its own for each stream: they are read at different speeds.
            container = self._open()
            stream = container.streams.audio[index]
            if name is None:
                self.notes.append(f"Audio track {index + 1} has an unknown codec and is left out.")
                container.close()
            elif self._can_be_copied(index, output.format.name):
                packets.append(
                    self._copied(container, stream, output.add_stream_from_template(stream), limit)
                )
            else:
                encoder = ENCODERS.get(output.format.name, "aac")
                self.notes.append(f"This file type cannot contain {name} audio: encoded again as {encoder}.")
                layout = LAYOUTS.get(stream.codec_context.layout.nb_channels, "stereo")
                made = _new_stream(output, stream.codec_context.sample_rate, layout)
                packets.append(self._encoded(container, stream, made, limit))
        return packets

    def _open(self) -> Any:
        av = load_av()

        # A file in memory has one position: a second reader needs a view of its own.
        return av.open(
            self._source if isinstance(self._source, str) else BytesIO(self._source.getbuffer()), "r"
        )

    def _can_be_copied(self, index: int, file_type: str) -> bool:
        """Return whether files of a type can contain an audio track as it is.

        A muxer lists codecs that it refuses when it writes the file, such as PCM of two channels in MP4. So
        the first packet is written, to memory.
        """
        av = load_av()

        try:
            with self._open() as container, av.open(BytesIO(), "w", format=file_type.split(",")[0]) as trial:
                made = trial.add_stream_from_template(container.streams.audio[index])
                packet = next(container.demux(container.streams.audio[index]))
                packet.stream = made
                trial.mux_one(packet)
        except (av.error.FFmpegError, ValueError):
            return False
        return True

    def _copied(self, container: Any, stream: Any, made: Any, limit: float) -> Iterator[Any]:
        shift = round(self._zero / stream.time_base)
        # Packets before 0 initialise the decoder. Matroska allows them only for Opus: else images would shift.
        can_keep = made.container.format.name in ("mp4", "mov") or stream.codec_context.name == "opus"
        keeps_negative = can_keep and not self._start
        for packet in self._packets(container, stream, -math.inf if keeps_negative else self._start, limit):
            packet.pts -= shift
            if packet.dts is not None:
                packet.dts -= shift
            packet.stream = made
            yield packet

    def _packets(self, container: Any, stream: Any, earliest: float, limit: float) -> Iterator[Any]:
        """Yield the packets in the window of time; a file that ends early was already
        reported with its frames.
        """
        av = load_av()

        with container:
            try:
                for packet in container.demux(stream):
                    if packet.pts is None or packet.pts * stream.time_base < earliest:
                        continue
                    if packet.pts * stream.time_base >= limit:
                        return
                    yield packet
            except av.error.FFmpegError:
                return

    def _encoded(self, container: Any, stream: Any, made: Any, limit: float) -> Iterator[Any]:
        av = load_av()
        context = made.codec_context
        resampler = av.AudioResampler(context.format, context.layout, context.sample_rate, context.frame_size)
        for packet in self._packets(container, stream, self._start, limit):
            try:
                decoded = packet.decode()
            except av.error.FFmpegError:
                continue
            for frame in decoded:
                frame.pts -= round(self._zero / frame.time_base)
                for part in resampler.resample(frame):
                    yield from made.encode(part)
        for part in resampler.resample(None):
            yield from made.encode(part)
        yield from made.encode(None)


class WaveSound:
    """Samples in memory, (channels, samples) in [-1, 1]; always encoded."""

    def __init__(self, waveform: Tensor, sample_rate: int) -> None:
        self._waveform, self._sample_rate = waveform, sample_rate
        self.notes: list[str] = []

    def add_to(self, output: Any, end: float | None = None) -> list[Iterator[Any]]:
        """See `Sound`."""
        layout = LAYOUTS.get(self._waveform.shape[0], "stereo")
        made = _new_stream(output, self._sample_rate, layout)
        samples = self._waveform.shape[1]
        return [
            self._encoded(
                made, layout, samples if end is None else min(samples, math.ceil(end * self._sample_rate))
            )
        ]

    def _encoded(self, made: Any, layout: str, count: int) -> Iterator[Any]:
        av = load_av()

        context = made.codec_context
        resampler = av.AudioResampler(context.format, context.layout, context.sample_rate, context.frame_size)
        wave = self._waveform[: len(av.AudioLayout(layout).channels)]
        for start in range(0, count, BLOCK):
            block = (
                wave[:, start : min(start + BLOCK, count)].float().cpu().nan_to_num(0.0).contiguous().numpy()
            )
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
            frame.sample_rate, frame.pts = self._sample_rate, start
            frame.time_base = Fraction(1, self._sample_rate)
            for part in resampler.resample(frame):
                yield from made.encode(part)
        for part in resampler.resample(None):
            yield from made.encode(part)
        yield from made.encode(None)


def _new_stream(output: Any, rate: int, layout: str) -> Any:
    encoder = ENCODERS.get(output.format.name, "aac")
    made = output.add_stream(encoder, rate=_fitting_rate(encoder, rate))
    made.codec_context.layout = layout
    made.codec_context.open()  # then it knows how many samples it takes at a time
    return made


def _fitting_rate(encoder: str, rate: int) -> int:
    """Return the lowest of an encoder's sample rates that keeps all of a sound, or its highest."""
    rates: list[int] = load_av().Codec(encoder, "w").audio_rates or [rate]
    return min((each for each in rates if each >= rate), default=max(rates))
