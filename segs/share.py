"""What one of several workers did, in bytes that travel with its picture: which segments, which pixels they changed, and to what.

Pixels that a worker changed keep their bits. What was there before, in 16 bits, is for pixels that every worker changed, where nobody else
has the picture that all began with.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Container, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import bad_input
from ..scaling.size import Size
from .crop import crop_resized
from .segment import SEG, Segment, Slice, box_of, whole_of

_FINE = 65535  # steps of the picture before


@dataclass(frozen=True)
class Contents:
    """Which part of the work it is.

    Attributes:
        index, count: which slice of how many.
        numbers: the segments that are refined, by their place in the list of all workers.
        total, digest: how many there are in all, and a fingerprint of them.
    """

    index: int
    count: int
    numbers: tuple[int, ...]
    total: int
    digest: str


@dataclass(frozen=True, eq=False)
class Share:
    """A worker's result.

    Attributes:
        changed: (F, H, W) bool.
        values: (n, C) float32, of the changed pixels in order.
        before: (n, C) float32, the same pixels before, to 1/65535.
    """

    contents: Contents
    changed: Tensor
    values: Tensor
    before: Tensor


def contents_of(found_in: Size, segments: list[SEG], left: Container[int] = ()) -> Contents:
    """Return which part of the work a list of segments is; a list that is no slice is all of it.

    `left` are numbers of segments that were not refined: see `left_as_they_were`.
    """
    whole = whole_of(segments)
    sliced = segments if isinstance(segments, Slice) else Slice(whole, range(len(whole)))
    return Contents(
        sliced.slice_index,
        sliced.slice_count,
        tuple(position for position in sliced.positions if position not in left),
        len(whole),
        digest_of(found_in, whole),
    )


def left_as_they_were(found_in: Size, segments: Sequence[Segment], before: Tensor, after: Tensor) -> set[int]:
    """Return the numbers of wanted segments that a run left: it was cancelled, or they came back with NaN.

    Those of whose own pixels (that no other wanted segment has) more than half are as before, in one of the frames (F, H, W, C). Where all pixels
    are shared, nothing is known, and the segment counts as refined.
    """
    changed = (before != after).any(dim=-1).cpu()
    covered = torch.zeros(changed.shape, dtype=torch.int16)
    places = list(_places(found_in, segments, covered))
    for _, place, mask in places:
        covered[place] += mask
    own = ((number, changed[place][mask & (covered[place] == 1)]) for number, place, mask in places)
    return {number for number, pixels in own if pixels.numel() and pixels.float().mean() < 0.5}


def _places(
    found_in: Size, segments: Sequence[Segment], frames: Tensor
) -> Iterator[tuple[int, tuple[int, slice, slice], Tensor]]:
    """Yield the number, the place in (F, H, W) and the mask (h, w) of each wanted segment in each frame."""
    size = frames.shape[1], frames.shape[2]
    for segment in segments:
        region = segment.region.scaled(found_in, size)
        inside = region.clamped(size)
        if not segment.wanted or segment.empty or not inside.area:
            continue
        mask = crop_resized(segment.mask, region.size, inside.within(region)) > segment.mask.max() / 2
        numbers = range(len(frames)) if segment.frame is None else [segment.frame]
        for frame in numbers:
            if frame < len(frames):
                yield segment.number, (frame, inside.rows, inside.columns), mask


def digest_of(found_in: Size, segments: Sequence[SEG]) -> str:
    """Return a fingerprint of the regions of segments."""
    boxes = [box_of(segment.crop_region, "crop_region", number) for number, segment in enumerate(segments)]
    return hashlib.blake2b(repr((tuple(found_in), boxes)).encode(), digest_size=8).hexdigest()


def pack_share(before: Tensor, after: Tensor, contents: Contents) -> bytes:
    """Return in bytes what a worker changed from `before` to `after` (F, H, W, C)."""
    changed = (before != after).any(dim=-1).cpu()
    stored = io.BytesIO()
    np.savez(
        stored,
        contents=np.frombuffer(json.dumps(asdict(contents)).encode(), np.uint8),
        shape=np.array(changed.shape),
        changed=np.packbits(changed.numpy()),
        values=after.cpu()[changed].float().numpy(),
        before=(before.cpu()[changed].clamp(0, 1) * _FINE).round().numpy().astype(np.uint16),
    )
    return stored.getvalue()


def unpack_share(data: bytes) -> Share:
    """Return what `pack_share` was given.

    Raises:
        ValueError: the bytes are something else.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as stored:
            arrays: dict[str, Any] = dict(stored)
        read: dict[str, Any] = json.loads(arrays["contents"].tobytes())
        numbers = tuple(int(number) for number in read.pop("numbers"))
        contents = Contents(numbers=numbers, **read)
        shape = tuple(int(length) for length in arrays["shape"])
        bits = np.unpackbits(arrays["changed"], count=int(np.prod(shape))).astype(bool)
        changed = torch.as_tensor(bits).reshape(shape)
        values = torch.as_tensor(arrays["values"])
        before = torch.as_tensor(arrays["before"].astype(np.float32) / _FINE)
    except (KeyError, TypeError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        expected = "what Send SEGS Result of this version packs"
        raise bad_input(
            "results", expected, str(error), "Use one version of the pack on all workers."
        ) from None
    return Share(contents, changed, values, before)
