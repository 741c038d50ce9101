"""Joining parts, audio and tags to one file, without encoding frames again."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from .av_library import load_av
from .parts import Part
from .sound import Sound

APPLE_TAG = {"hevc": "hvc1"}  # without it Apple's players refuse H.265 in MP4


def join(
    parts: Sequence[Part],
    target: Path,
    time_base: Fraction,
    sound: Sound | None = None,
    metadata: Mapping[str, str] | None = None,
    cut_sound: bool = False,
) -> None:
    """Write `parts` in order to `target`, whose suffix selects the file type.

    The file appears when it is complete and replaces an existing one.

    Args:
        time_base: of the parts' times.
        cut_sound: whether sound ends with the last frame, as in a video that was cancelled.

    Raises:
        ValueError: when there are no parts.
    """
    av = load_av()

    if not parts:
        raise ValueError("A video needs at least one frame.")
    fresh = target.with_name(f".{target.name}.new{target.suffix}")
    flags = "use_metadata_tags+faststart" if target.suffix == ".mp4" else "use_metadata_tags"
    options = {"movflags": flags} if target.suffix in (".mp4", ".mov") else {}
    try:
        with av.open(str(fresh), "w", options=options) as output:
            output.metadata.update(metadata or {})
            with av.open(str(parts[0].file), "r") as first:
                template = first.streams.video[0]
                stream = output.add_stream_from_template(template, opaque=True)
                stream.time_base = time_base
                stream.codec_context.framerate = template.average_rate
                if target.suffix == ".mp4" and (tag := APPLE_TAG.get(template.codec_context.name)):
                    stream.codec_context.codec_tag = tag
            end = float((parts[-1].times[-1] + parts[-1].durations[-1]) * time_base) if cut_sound else None
            sounds = sound.add_to(output, end) if sound else []
            for _, _, packet in heapq.merge(
                *(
                    _timed(packets, order)
                    for order, packets in enumerate([_pictures(parts, stream, time_base), *sounds])
                ),
                key=lambda timed: timed[:2],
            ):
                output.mux_one(packet)
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)


def _timed(packets: Iterator[Any], order: int) -> Iterator[tuple[float, int, Any]]:
    for packet in packets:
        yield float(packet.dts * packet.time_base), order, packet


def _pictures(parts: Sequence[Part], stream: Any, time_base: Fraction) -> Iterator[Any]:
    """Yield the packets of all parts with the times of their frames, in the order of decoding."""
    av = load_av()

    times = [time for part in parts for time in part.times]
    durations = [duration for part in parts for duration in part.durations]
    delay, done = max(_reordering(part) for part in parts), 0
    before = times[0] - max(1, durations[0]) * delay
    starts = [before + max(1, durations[0]) * step for step in range(delay)]
    position = 0
    for part in parts:
        with av.open(str(part.file), "r") as opened:
            for packet in opened.demux(opened.streams.video[0]):
                if packet.pts is None:
                    continue  # the last one, which is empty
                frame = done + _index(packet)
                packet.time_base = time_base
                packet.pts, packet.duration = times[frame], durations[frame]
                # A frame is decoded when the frame `delay` earlier is shown; the first ones before that.
                packet.dts = starts[position] if position < delay else times[position - delay]
                packet.stream = stream
                position += 1
                yield packet
        done += len(part.times)


def _index(packet: Any) -> int:
    """Return the index of a packet's frame in its part."""
    return round(packet.pts * packet.time_base * packet.stream.average_rate)


def _reordering(part: Part) -> int:
    """Return by how many frames the decoding order differs from the display order."""
    av = load_av()

    with av.open(str(part.file), "r") as opened:
        indices = [
            _index(packet) for packet in opened.demux(opened.streams.video[0]) if packet.pts is not None
        ]
    return max((position - index for position, index in enumerate(indices)), default=0)
