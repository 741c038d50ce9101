"""The SEGS record that detector packs share, and reading it.

SEGS is `((height, width), [SEG, …])` in the coordinates of the image that the segments were found in. The
fields and their order are those of the Impact Pack, so that records go both ways. Other packs' SEGS may
contain NumPy arrays or tensors, floats from 0 to 1 or bytes, masks of another size than their box;
`read_segments` accepts everything unambiguous.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from ..errors import bad_input
from ..record import record
from ..scaling.box import Box
from ..scaling.grow import box_around
from ..scaling.size import Size

COLOURS = (3, 4)  # channels of an image: a mask for each frame is wider


class SEG(NamedTuple):
    """One segment, in the format that all packs share.

    Attributes:
        cropped_image: the pixels of `crop_region`, (1, h, w, C), or None.
        cropped_mask: (h, w) from 0 to 1: how much of each pixel belongs to it.
        confidence: the detector's, 0 to 1.
        crop_region: (x1, y1, x2, y2): the crop.
        bbox: (x1, y1, x2, y2): the detected box.
        label: name of its class.
        control_net_wrapper: its own ControlNet, or None.
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
    """A segment of one frame of several. Other packs treat it as a segment of every frame."""

    frame: int

    @classmethod
    def of(cls, segment: SEG, frame: int) -> FrameSEG:
        """Return a segment that belongs to the frame of that number."""
        made = cls(*segment)
        made.frame = frame
        return made


class Slice(list[SEG]):
    """Some segments of a list that several workers share. Other packs treat it as a plain list.

    Attributes:
        whole: all of them.
        positions: index of each of these in `whole`.
        slice_index, slice_count: index of the slice, and number of slices.
    """

    def __init__(
        self, whole: Sequence[SEG], positions: Iterable[int], slice_index: int = 0, slice_count: int = 1
    ) -> None:
        self.slice_index, self.slice_count = slice_index, slice_count
        self.whole = list(whole)
        self.positions = list(positions)
        super().__init__(self.whole[position] for position in self.positions)


@record
class Segment:
    """The data of a SEG in one format.

    Attributes:
        number: its index in the whole list, added to the seed.
        region: in the coordinates of the SEGS; may extend beyond the image.
        mask: (h, w) float32 from 0 to 1 over all of `region`, at any resolution.
        frame: the only one that it belongs to, or None for all.
        wanted: False for one that another worker refines.
        control: its control_net_wrapper.
        masks: number of its masks: 1, or one for each frame.
        label: its class.
    """

    number: int
    region: Box
    mask: Tensor
    frame: int | None = None
    wanted: bool = True
    control: Any = None
    masks: int = 1
    label: str = ""

    @property
    def empty(self) -> bool:
        """Whether no pixel belongs to it."""
        return not bool((self.mask > 0).any())


def read_segments(segs: Any, frames: int = 1) -> tuple[Size, list[Segment]]:
    """Return (height, width) of the segments' image, and all segments, including those of other workers.

    One with a mask for each frame gives a segment for each frame whose mask is not black, all with the same
    number.

    Raises:
        ValueError: when a part of it is ambiguous or invalid.
    """
    size, entries = read_shape(segs)
    whole = whole_of(entries)
    mine = set(entries.positions) if isinstance(entries, Slice) else set(range(len(whole)))
    read = (_read(entry, number, number in mine, frames) for number, entry in enumerate(whole))
    return size, [segment for each in read for segment in each]


def read_shape(segs: Any) -> tuple[Size, list[SEG]]:
    """Return (height, width) and the list of a SEGS. The size may be 0 if there is no segment.

    Raises:
        ValueError: when it is not SEGS, or the image of its segments has no pixel.
    """
    try:
        (height, width), found = segs[:2]
        size = int(height), int(width)
        entries: list[SEG] = cast("list[SEG]", found) if isinstance(found, list) else list(found)
    except (TypeError, ValueError, IndexError, KeyError, OverflowError):
        raise _wrong_segs("((height, width), [segments])", segs) from None
    if min(size) < 1 and whole_of(entries):
        picture = f"{size[1]}x{size[0]}"
        raise bad_input("segs", "an image of at least 1x1", picture, "Check the node that made it.")
    return size, entries


def whole_of(segments: list[SEG]) -> list[SEG]:
    """Return the segments of all workers if these are a slice."""
    return segments.whole if isinstance(segments, Slice) else segments


def box_of(region: Any, name: str, number: int) -> Box:
    """Return (x1, y1, x2, y2) as a box of whole pixels around it.

    Raises:
        ValueError: when it is not four finite numbers, or contains no pixel.
    """
    try:
        left, top, right, bottom = (float(value) for value in region)
        box = box_around(top, left, bottom, right)
    except (TypeError, ValueError, OverflowError):
        raise wrong_segment(f"{name} (x1, y1, x2, y2)", number, in_one_line(region)) from None
    if min(box.size) < 1:
        raise wrong_segment(f"{name} with x1 < x2 and y1 < y2", number, in_one_line(region))
    return box


def read_mask(mask: Any, number: int, frame: int = 0, frames: int = 1) -> Tensor:
    """Return the mask (h, w) of one of so many frames.

    A segment with another number of masks uses all of them together in every frame.

    Raises:
        ValueError: when `read_masks` raises it.
    """
    masks = read_masks(mask, number)
    return masks[frame] if len(masks) == frames else masks.amax(dim=0)


def read_masks(mask: Any, number: int) -> Tensor:
    """Return (F, h, w) float32 from 0 to 1 of an array or a tensor with any ones before, of floats or bytes;
    F is 1 for a mask of all frames.

    Raises:
        ValueError: when it is missing, empty, or not a mask.
    """
    try:
        values = mask if isinstance(mask, Tensor) else torch.as_tensor(np.array(mask))
    except (TypeError, ValueError):
        raise wrong_segment("a mask", number, "none" if mask is None else type(mask).__name__) from None
    shape = tuple(values.shape)
    frames = [length for length in shape[:-2] if length != 1]
    coloured = len(frames) == 1 and shape[-1] in COLOURS
    if len(shape) < 2 or len(frames) > 1 or coloured or not values.numel() or values.is_complex():
        expected = "a mask of (h, w), or of (frames, h, w)"
        raise wrong_segment(expected, number, f"{values.dtype} of {shape}")
    whole = not values.is_floating_point() and values.dtype != torch.bool
    values = values.reshape(-1, *shape[-2:]).to("cpu", torch.float32)
    if whole and bool(values.max() > 1):  # bytes
        values = values / 255
    return values.nan_to_num(0.0).clamp(0, 1)


def _read(entry: Any, number: int, wanted: bool, frames: int) -> list[Segment]:
    try:
        region, mask = entry.crop_region, entry.cropped_mask
    except AttributeError:
        raise _wrong_segs(f"a segment with crop_region and cropped_mask at {number}", entry) from None
    box, masks = box_of(region, "crop_region", number), read_masks(mask, number)
    only: int | None = getattr(entry, "frame", None)
    control, label = getattr(entry, "control_net_wrapper", None), str(getattr(entry, "label", ""))

    def in_frame(frame: int | None, mask: Tensor) -> Segment:
        return Segment(number, box, mask, frame, wanted, control, len(masks), label)

    if len(masks) != frames or frames == 1:
        return [in_frame(only, masks.amax(dim=0))]
    seen = [frame for frame in range(frames) if only in (None, frame) and masks[frame].any()]
    return [in_frame(frame, masks[frame]) for frame in seen] or [in_frame(only, masks[only or 0])]


def _wrong_segs(expected: str, got: object) -> ValueError:
    return bad_input("segs", expected, type(got).__name__, "Connect the output of a SEGS node.")


def wrong_segment(expected: str, number: int, got: str) -> ValueError:
    """Return the error for a wrong part of a segment."""
    return bad_input("segs", f"{expected} in segment {number}", got, "Check the node that made it.")


def in_one_line(value: Any) -> str:
    """Return a value as text without line breaks, for a message."""
    return " ".join(repr(value).split())
