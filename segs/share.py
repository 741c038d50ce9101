"""The result of one of several workers, as bytes sent with its image: its segments,
the changed pixels and their values.

Changed pixels are stored with all their bits. Their values before the change, in 16 bits, are needed for
pixels that every worker changed, where no worker has the common image.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Container, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import bad_input
from ..record import record
from ..scaling.size import Size
from .crop import crop_resized
from .segment import SEG, Segment, Slice, box_of, whole_of

_FINE = 65535  # steps of the image before


@record
class Contents:
    """The part of the work that a worker did.

    Attributes:
        index, count: index of the slice, and number of slices.
        numbers: the refined segments, by their index in the list of all workers.
        total, digest: number and fingerprint of all segments.
    """

    index: int
    count: int
    numbers: tuple[int, ...]
    total: int
    digest: str


@record(eq=False)
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


def contents_of(found_in: Size, segments: list[SEG], unchanged: Container[int] = ()) -> Contents:
    """Return the contents of a list of segments; a list that is not a slice is the whole work.

    `unchanged` contains numbers of segments that were not refined: see `unchanged_numbers`.
    """
    whole = whole_of(segments)
    sliced = segments if isinstance(segments, Slice) else Slice(whole, range(len(whole)))
    return Contents(
        sliced.slice_index,
        sliced.slice_count,
        tuple(position for position in sliced.positions if position not in unchanged),
        len(whole),
        digest_of(found_in, whole),
    )


def unchanged_numbers(found_in: Size, segments: Sequence[Segment], before: Tensor, after: Tensor) -> set[int]:
    """Return the numbers of wanted segments that a run did not refine, because it was cancelled or had NaN.

    A segment is unchanged if in one of the frames (F, H, W, C) more than half of its own pixels, which no
    other wanted segment covers, are unchanged. A segment without own pixels counts as refined.
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
    """Yield the number, the index into (F, H, W) and the mask (h, w) of each wanted segment in each frame."""
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
    """Pack a worker's changes from `before` to `after` (F, H, W, C) into bytes."""
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
    """Unpack bytes: the inverse of `pack_share`.

    Raises:
        ValueError: when the bytes are not a share of this version.
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
        expected = "frames of Send SEGS Result of this version"
        raise bad_input(
            "results", expected, str(error), "Use the same version of the pack on all workers."
        ) from None
    return Share(contents, changed, values, before)
