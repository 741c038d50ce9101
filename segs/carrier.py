"""Bytes stored in images, so that they survive every image transport: 8-bit PNGs,
truncated or rounded, and floats.

A byte b is the brightness (b + 1/4) / 255 of one channel: truncation and rounding both give b. Each frame has
a header with its position in the row and a checksum, so an incomplete row is noticed. One value after the
header is at 3/4 of a level: its received value shows what the transport does to the other images.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ..errors import bad_input
from ..record import record

LEVELS = 255
_SHIFT = 0.25  # of a level: neither truncation nor rounding leaves the level
_PROBE = 100.75  # levels: 100 when truncated, 101 when rounded
_MAGIC = b"MPX1"
# Magic, number of the frame, frames, bytes in it, name of the row, checksum.
_HEADER = struct.Struct("<4sIIIQI")
_BEFORE = _HEADER.size + 1  # values before the bytes


@record
class Delivery:
    """A complete row of received bytes.

    Attributes:
        pictures: positions in the batch of the images between the previous row and this one.
        offset: levels to add to these images: 1/2 if the transport truncates.
    """

    data: bytes
    pictures: list[int]
    offset: float


@record
class _Part:
    number: int
    count: int
    name: int
    data: bytes
    offset: float


def carry_bytes(data: bytes, like: Tensor) -> Tensor:
    """Return IMAGE frames (N, H, W, C) of the size and channels of `like` (F, H, W, C)
    that contain `data`; alpha is 1.

    Raises:
        ValueError: when an image is too small for a header.
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
    """Yield the data that `carry_bytes` put into a batch (N, H, W, C), each with the images before it;
    incomplete rows are skipped.
    """
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
    """Return the content of a frame (H, W, C); None for an image,
    and for a frame that the transport changed.
    """
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
    """Return how many channels contain bytes: transports drop the alpha channel."""
    return 3 if channels >= 3 else 1
