"""The SEGS record that detector packs share, and what is read from it.

SEGS is `((height, width), [SEG, …])` in the coordinates of the picture that the segments were found in. The fields and their order are
those of the Impact Pack, so that records go both ways. What comes from elsewhere may hold NumPy arrays or tensors, floats
from 0 to 1 or bytes, masks of another size than their box; `read_segments` accepts all that has one meaning.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from ..errors import bad_input
from ..scaling.box import Box
from ..scaling.grow import box_around
from ..scaling.size import Size


class SEG(NamedTuple):
    """One segment, as every pack of this field knows it.

    Attributes:
        cropped_image: what is seen in `crop_region`, (1, h, w, C), or None.
        cropped_mask: (h, w) from 0 to 1: how much of each pixel belongs to it.
        confidence: the detector's, 0 to 1.
        crop_region: (x1, y1, x2, y2): what is sampled.
        bbox: (x1, y1, x2, y2): what was found.
        label: what it is.
        control_net_wrapper: a ControlNet of its own, or None.
    """

    cropped_image: Any
    cropped_mask: Any
    confidence: Any
    crop_region: Any
    bbox: Any
    label: Any
    control_net_wrapper: Any = None


SEGS = tuple[Size, list[SEG]]


class FrameSEG(SEG):
    """A segment of one frame of several. Packs that do not know it see a segment of every frame."""

    frame: int

    @classmethod
    def of(cls, segment: SEG, frame: int) -> FrameSEG:
        """Return a segment that belongs to the frame of that number."""
        made = cls(*segment)
        made.frame = frame
        return made


class Slice(list[SEG]):
    """Some segments of a list that several workers share. Packs that do not know it see a plain list.

    Attributes:
        whole: all of them.
        positions: where in `whole` each of these stands.
    """

    def __init__(self, whole: Sequence[SEG], positions: Iterable[int]) -> None:
        self.whole = list(whole)
        self.positions = list(positions)
        super().__init__(self.whole[position] for position in self.positions)


@dataclass(frozen=True)
class Segment:
    """What is read from a SEG.

    Attributes:
        number: its place in the whole list: it counts the seed up.
        region: in the coordinates of the SEGS; may reach beyond the picture.
        mask: (h, w) float32 from 0 to 1 over all of `region`, at any resolution.
        frame: the only one that it belongs to, or None for all.
        wanted: False for one that another worker refines.
        control: its control_net_wrapper.
    """

    number: int
    region: Box
    mask: Tensor
    frame: int | None = None
    wanted: bool = True
    control: Any = None

    @property
    def empty(self) -> bool:
        """Whether no pixel belongs to it."""
        return not bool((self.mask > 0).any())


def read_segments(segs: Any) -> tuple[Size, list[Segment]]:
    """Return (height, width) that the segments were found in, and all of them, also those of other workers.

    Raises:
        ValueError: a part of it has no single meaning.
    """
    size, entries = read_shape(segs)
    whole = entries.whole if isinstance(entries, Slice) else entries
    mine = set(entries.positions) if isinstance(entries, Slice) else set(range(len(whole)))
    return size, [_read(entry, number, number in mine) for number, entry in enumerate(whole)]


def read_shape(segs: Any) -> tuple[Size, list[SEG]]:
    """Return (height, width) and the list of a SEGS.

    Raises:
        ValueError: it is something else, or the picture has no pixel.
    """
    try:
        (height, width), found = segs[:2]
        size = int(height), int(width)
        entries: list[SEG] = cast("list[SEG]", found) if isinstance(found, list) else list(found)
    except (TypeError, ValueError, IndexError, KeyError, OverflowError):
        raise _wrong_segs("((height, width), [segments])", segs) from None
    if min(size) < 1:
        picture = f"{size[1]}x{size[0]}"
        raise bad_input("segs", "a picture of at least 1x1", picture, "Check the node before.")
    return size, entries


def box_of(region: Any, name: str, number: int) -> Box:
    """Return (x1, y1, x2, y2) as a box of whole pixels around it.

    Raises:
        ValueError: it is not four finite numbers, or holds no pixel.
    """
    try:
        left, top, right, bottom = (float(value) for value in region)
        box = box_around(top, left, bottom, right)
    except (TypeError, ValueError, OverflowError):
        raise wrong_segment(f"{name} (x1, y1, x2, y2)", number, in_one_line(region)) from None
    if min(box.size) < 1:
        raise wrong_segment(f"{name} with x1 < x2 and y1 < y2", number, in_one_line(region))
    return box


def read_mask(mask: Any, number: int) -> Tensor:
    """Return (h, w) float32 from 0 to 1 of an array or a tensor with leading ones, of floats or bytes.

    Raises:
        ValueError: there is none, it is empty, or it has more than two dimensions.
    """
    try:
        values = mask if isinstance(mask, Tensor) else torch.as_tensor(np.array(mask))
    except (TypeError, ValueError):
        raise wrong_segment("a mask", number, "none" if mask is None else type(mask).__name__) from None
    shape = tuple(values.shape)
    flat = len(shape) >= 2 and all(length == 1 for length in shape[:-2])
    if not flat or not values.numel() or values.is_complex():
        raise wrong_segment("a mask of (h, w)", number, f"{values.dtype} of {shape}")
    whole = not values.is_floating_point() and values.dtype != torch.bool
    values = values.reshape(shape[-2:]).to("cpu", torch.float32)
    if whole and bool(values.max() > 1):  # bytes
        values = values / 255
    return values.nan_to_num(0.0).clamp(0, 1)


def _read(entry: Any, number: int, wanted: bool) -> Segment:
    try:
        region, mask = entry.crop_region, entry.cropped_mask
    except AttributeError:
        raise _wrong_segs(f"a segment with crop_region and cropped_mask at {number}", entry) from None
    return Segment(
        number,
        box_of(region, "crop_region", number),
        read_mask(mask, number),
        getattr(entry, "frame", None),
        wanted,
        getattr(entry, "control_net_wrapper", None),
    )


def _wrong_segs(expected: str, got: object) -> ValueError:
    return bad_input("segs", expected, type(got).__name__, "Connect the output of a SEGS node.")


def wrong_segment(expected: str, number: int, got: str) -> ValueError:
    """Return the error to raise for a part of a segment."""
    return bad_input("segs", f"{expected} in segment {number}", got, "Check the node that made it.")


def in_one_line(value: Any) -> str:
    """Return a value as text without line breaks, for a message."""
    return " ".join(repr(value).split())
