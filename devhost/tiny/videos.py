"""Small videos, written with `av` only, so that the tests do not depend on the code that they test."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

HEIGHT, WIDTH = 68, 120
TIME_BASE = Fraction(1, 24000)
STEP = 1000  # of a frame at 24 a second
RATE = 48000  # of the sound


def moving_pictures(count: int, height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> Tensor:
    """Return (F, 3, H, W) in [0, 1]: smooth colours that move to the left."""
    drawn = torch.rand(1, 3, 4, 8, generator=torch.Generator().manual_seed(seed))
    wide = F.interpolate(drawn, (height, width + count), mode="bicubic", align_corners=False)[0].clamp(0, 1)
    return wide.unfold(2, width, 1).permute(2, 0, 1, 3)[:count]  # views: no memory for each


def write_video(
    file: Path,
    pictures: Tensor,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    times: Sequence[int] | None = None,
    sound: str | None = None,
    layout: str = "stereo",
    **context: Any,
) -> Path:
    """Write images, by default of 24 a second; `sound` is the name of an audio codec
    for a tone of the same length, in as many channels as `layout` has.

    `context` sets attributes of the encoder, `options` and `rotation` among them.
    """
    av, rotation = _av(), context.pop("rotation", 0)
    times = [STEP * index for index in range(len(pictures))] if times is None else times
    with av.open(str(file), "w") as output:
        stream = output.add_stream(codec, rate=24, options=context.pop("options", {"crf": "10"}))
        stream.width, stream.height, stream.pix_fmt = pictures.shape[-1], pictures.shape[-2], pixels
        stream.codec_context.time_base = TIME_BASE
        for name, value in context.items():
            setattr(stream.codec_context, name, value)
        if rotation:
            stream.set_display_rotation(rotation)
        tone = output.add_stream(sound, rate=RATE, layout=layout) if sound else None
        wide = "rgb48le" if pixels.endswith("10le") else "rgb24"
        scale, kind = (65535, np.uint16) if wide == "rgb48le" else (255, np.uint8)
        for picture, time in zip(pictures, times, strict=True):
            numbers = (picture.movedim(0, -1).numpy() * scale).round().astype(kind)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(numbers), format=wide)
            frame.pts, frame.time_base = time, TIME_BASE
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        if tone:
            _write_tone(output, tone, layout, times[0] * TIME_BASE, (times[-1] + STEP) * TIME_BASE)
    return file


def _write_tone(output: Any, stream: Any, layout: str, start: Fraction, end: Fraction) -> None:
    av = _av()
    wave = np.sin(np.arange(int((end - start) * RATE)) / 20).astype(np.float32)
    channels = len(av.AudioLayout(layout).channels)
    frame = av.AudioFrame.from_ndarray(np.stack([wave] * channels), format="fltp", layout=layout)
    frame.sample_rate, frame.pts = RATE, int(start * RATE)
    resampler = av.AudioResampler(
        stream.codec_context.format, layout, RATE, stream.codec_context.frame_size or 1024
    )
    for part in [*resampler.resample(frame), *resampler.resample(None)]:
        output.mux(stream.encode(part))
    output.mux(stream.encode(None))


def sound_of(file: Path, until: float | None = None) -> list[tuple[float, bytes]]:
    """Return every sound packet: its time in seconds, and its bytes."""
    with _av().open(str(file)) as opened:
        stream = opened.streams.audio[0]
        packets = [
            (float(packet.pts * stream.time_base), bytes(packet))
            for packet in opened.demux(stream)
            if packet.size
        ]
    return packets if until is None else [packet for packet in packets if packet[0] < until]


def times_of(file: Path) -> list[Fraction]:
    """Return the times of the frames in seconds, as fractions."""
    with _av().open(str(file)) as opened:
        stream = opened.streams.video[0]
        return [frame.pts * stream.time_base for frame in opened.decode(stream)]


def colours_of(file: Path) -> tuple[Any, ...]:
    """Return range, matrix, primaries and transfer of a file, and its pixel format."""
    with _av().open(str(file)) as opened:
        context = opened.streams.video[0].codec_context
        return (
            context.color_range, context.colorspace, context.color_primaries, context.color_trc, context.pix_fmt,
        )  # fmt: skip


def _av() -> Any:
    import av  # its own types leave much open

    return av
