"""Bytes that travel as pictures, so that they pass wherever pictures pass: through PNGs of 8 bits, truncated or rounded, and as floats.

A byte b is the brightness (b + 1/4) / 255 of one channel: truncation and rounding both give b. Each frame has a header with its place in
the row and a checksum, so a row that broke off is noticed. One value after the header lies at 3/4 of a level: what becomes of
it says what the transport does to every picture beside.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import bad_input

LEVELS = 255
_SHIFT = 0.25  # of a level: neither truncation nor rounding leaves the level
_PROBE = 100.75  # levels: 100 when truncated, 101 when rounded
_MAGIC = b"MPX1"
# Magic, number of the frame, frames, bytes in it, name of the row, checksum.
_HEADER = struct.Struct("<4sIIIQI")
_BEFORE = _HEADER.size + 1  # values before the bytes


@dataclass(frozen=True)
class Delivery:
    """A row of bytes that arrived whole.

    Attributes:
        pictures: places in the batch of the pictures between the row before and this one.
        offset: levels to add to these pictures: 1/2 where the transport truncates.
    """

    data: bytes
    pictures: list[int]
    offset: float


@dataclass(frozen=True)
class _Part:
    number: int
    count: int
    name: int
    data: bytes
    offset: float


def carry_bytes(data: bytes, like: Tensor) -> Tensor:
    """Return IMAGE frames (N, H, W, C) of the size and channels of `like` (F, H, W, C) that hold `data`; alpha is 1.

    Raises:
        ValueError: when a picture is too small for a header.
    """
    height, width, channels = like.shape[1:]
    room = height * width * _colours(channels) - _BEFORE
    if room < 1:
        expected = f"an image of more than {_BEFORE} values"
        raise bad_input("image", expected, f"{width}x{height}", "Use a larger image.")
    name = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
    parts = [data[start : start + room] for start in range(0, max(1, len(data)), room)]
    frames = torch.ones(len(parts), height, width, channels)
    for number, part in enumerate(parts):
        header = _HEADER.pack(_MAGIC, number, len(parts), len(part), name, zlib.crc32(part))
        levels = np.zeros(room + _BEFORE, np.float32)
        levels[: len(header)] = np.frombuffer(header, np.uint8)
        levels[len(header)] = _PROBE - _SHIFT
        levels[_BEFORE : _BEFORE + len(part)] = np.frombuffer(part, np.uint8)
        values = torch.as_tensor((levels + _SHIFT) / LEVELS).view(height, width, -1)
        frames[number, ..., : values.shape[-1]] = values
    return frames


def read_deliveries(batch: Tensor) -> Iterator[Delivery]:
    """Yield what `carry_bytes` put into a batch (N, H, W, C), each with the pictures before it. What broke off is left out."""
    pictures: list[int] = []
    parts: dict[int, _Part] = {}
    for place, frame in enumerate(batch):
        part = _read_part(frame)
        if part is None or any(other.name != part.name for other in parts.values()):
            pictures = pictures if part is None and not parts else []  # those before a row that broke off
            parts = {}
        if part is None:
            pictures.append(place)
            continue
        parts[part.number] = part
        if len(parts) == part.count:
            data = b"".join(parts[number].data for number in range(part.count))
            yield Delivery(data, pictures, part.offset)
            pictures, parts = [], {}


def _read_part(frame: Tensor) -> _Part | None:
    """Return what a frame (H, W, C) holds; None for a picture, and for a frame that was changed on the way."""
    values = frame[..., : _colours(frame.shape[-1])].reshape(-1)
    if len(values) <= _BEFORE:
        return None
    magic, number, count, length, name, checksum = _HEADER.unpack(_bytes(values[: _HEADER.size]))
    if magic != _MAGIC or length > len(values) - _BEFORE or number >= count:
        return None
    data = _bytes(values[_BEFORE : _BEFORE + length])
    if zlib.crc32(data) != checksum:
        return None
    probe = float(values[_HEADER.size]) * LEVELS
    return _Part(number, count, name, data, 0.5 if probe < _PROBE - 0.5 else 0.0)


def _bytes(values: Tensor) -> bytes:
    levels = (values.float() * LEVELS + _SHIFT).floor_().clamp_(0, LEVELS)
    return levels.to("cpu", torch.uint8).numpy().tobytes()


def _colours(channels: int) -> int:
    """Return how many channels hold bytes: transports drop the alpha channel."""
    return 3 if channels >= 3 else 1
