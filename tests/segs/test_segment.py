"""The SEGS record: what is read from it, and how ours look to a pack that does not know them."""

from __future__ import annotations

import copy
import pickle
from collections import namedtuple

import numpy as np
import pytest
import torch
from megapixel.scaling.box import Box
from megapixel.segs.choose import slice_segments
from megapixel.segs.confidence import confidence_of
from megapixel.segs.segment import SEG, FrameSEG, Slice, box_of, read_mask, read_segments, read_shape

# As another pack declares it: the same names in the same order, and a class of its own.
Theirs = namedtuple(
    "Theirs",
    ["cropped_image", "cropped_mask", "confidence", "crop_region", "bbox", "label", "control_net_wrapper"],
    defaults=[None],
)

MASK = np.array([[0, 1, 1], [1, 0, 0.0]], dtype=np.float32)
SAME = [
    pytest.param(MASK, id="float32"),
    pytest.param(MASK.astype(np.float64), id="float64"),
    pytest.param(MASK.astype(np.float16), id="float16"),
    pytest.param(MASK.astype(bool), id="bool"),
    pytest.param(MASK.astype(np.uint8), id="bytes 0 and 1"),
    pytest.param((MASK * 255).astype(np.uint8), id="bytes 0 and 255"),
    pytest.param((MASK * 255).astype(np.int64), id="whole numbers 0 and 255"),
    pytest.param(MASK.astype(np.uint16), id="unsigned whole numbers of 16 bits"),
    pytest.param(torch.tensor(MASK), id="tensor"),
    pytest.param(torch.tensor(MASK).bfloat16(), id="bfloat16 tensor"),
    pytest.param(torch.tensor(MASK).bool(), id="bool tensor"),
    pytest.param(torch.tensor(MASK * 255).byte(), id="byte tensor"),
    pytest.param(torch.tensor(MASK)[None, None], id="leading ones"),
    pytest.param(MASK[None], id="array with a leading one"),
    pytest.param(MASK.T.copy().T, id="columns first in memory"),
    pytest.param(MASK[::-1].copy()[::-1], id="rows backwards in memory"),
    pytest.param(MASK.tolist(), id="lists"),
    pytest.param(torch.tensor(MASK, requires_grad=True), id="with a gradient"),
]


@pytest.mark.parametrize("mask", SAME)
def test_a_mask_is_read_from_every_kind_of_array(mask):
    values = read_mask(mask, 0)
    assert values.dtype == torch.float32
    assert torch.equal(values, torch.from_numpy(MASK))


def test_bytes_are_read_to_a_255th_and_floats_as_they_are():
    levels = np.arange(256, dtype=np.uint8).reshape(2, 128)
    assert np.abs(read_mask(levels, 0).numpy() - levels / 255).max() < 1e-7
    fine = torch.linspace(0, 1, 2000)[None]
    assert torch.equal(read_mask(fine, 0), fine)


def test_values_outside_0_to_1_are_clamped_and_those_that_are_no_numbers_are_0():
    mask = np.array([[-1.0, 2.0, np.nan, np.inf, 0.5]])
    assert read_mask(mask, 0).tolist() == [[0, 1, 0, 1, 0.5]]


def test_reading_a_mask_leaves_it():
    mask = torch.tensor([[2.0, -1.0, torch.nan]])
    before = mask.clone()
    read_mask(mask, 0).fill_(9)
    assert torch.equal(mask.nan_to_num(7.0), before.nan_to_num(7.0))


CORNERS = [
    pytest.param((1, 2, 5, 9), Box(2, 1, 9, 5), id="whole numbers"),
    pytest.param((1.2, 2.9, 4.1, 8.5), Box(2, 1, 9, 5), id="floats, outward"),
    pytest.param(np.array([1, 2, 5, 9]), Box(2, 1, 9, 5), id="array"),
    pytest.param(torch.tensor([1.5, 2.0, 5.0, 9.0]), Box(2, 1, 9, 5), id="tensor"),
    pytest.param([np.int64(1), 2, torch.tensor(5), "9"], Box(2, 1, 9, 5), id="mixed"),
    pytest.param((-3.5, -2, 5, 9), Box(-2, -4, 9, 5), id="outside the picture"),
]


@pytest.mark.parametrize(("corners", "expected"), CORNERS)
def test_corners_are_read_as_the_whole_pixels_around_them(corners, expected):
    assert box_of(corners, "crop_region", 0) == expected


@pytest.mark.parametrize(
    ("confidence", "expected"),
    [
        (0.25, 0.25),
        (np.float32(0.25), 0.25),
        (np.array([0.25, 0.5]), 0.25),
        (np.array(0.25), 0.25),
        (torch.tensor([[0.25]]), 0.25),
        (None, 1.0),
        (1, 1.0),
    ],
)
def test_confidence_is_a_number_whatever_holds_it(segment, confidence, expected):
    assert confidence_of(segment((0, 0, 9, 9), confidence=confidence), 0) == expected


def test_the_record_has_the_fields_of_the_known_pack_in_their_order():
    assert SEG._fields == Theirs._fields
    assert SEG._field_defaults == {"control_net_wrapper": None}


def test_records_of_another_pack_are_read_by_name():
    found = [Theirs(None, MASK, 0.5, (4, 5, 7, 7), (4, 5, 7, 7), "face", "net"), ("not", "first")[:0]]
    size, (read,) = read_segments(((20, 30), found[:1]))
    assert size == (20, 30)
    assert (read.number, read.region, read.frame, read.wanted, read.control) == (
        0,
        Box(5, 4, 7, 7),
        None,
        True,
        "net",
    )


def test_the_shape_may_be_lists_numbers_of_numpy_or_an_iterable_and_longer():
    found = [SEG(None, MASK, 1, (0, 0, 3, 2), (0, 0, 3, 2), "a")]
    for segs in (
        ((20, 30), found),
        [[20, 30], tuple(found)],
        ((np.int64(20), torch.tensor(30)), iter(found)),
        ((20.0, 30.0), found, "more"),
    ):
        assert read_shape(segs) == ((20, 30), found)


def test_a_segment_is_empty_only_without_any_pixel(segment):
    faint = np.zeros((9, 9), dtype=np.float32)
    found = [segment((0, 0, 9, 9), faint), segment((0, 0, 9, 9), faint.copy())]
    found[1].cropped_mask[8, 8] = 1e-3
    _, read = read_segments(((20, 30), found))
    assert [part.empty for part in read] == [True, False]


def use_as_another_pack_does(entries):
    """Return new SEGS entries made with everything that packs are seen to do to them."""
    assert isinstance(entries, list)
    made = []
    for entry in entries:
        assert isinstance(entry, tuple)
        assert len(entry) == 7
        image, mask, confidence, region, bbox, label, control = entry
        assert entry[3] == entry.crop_region == region
        made.append(Theirs(image, mask * 0.5, confidence, region, bbox, label, control))
    return made


def test_a_pack_that_does_not_know_a_slice_sees_a_plain_list(segment):
    found = [segment((x, 0, x + 20 + x, 20)) for x in (0, 30, 60, 90)]
    share = slice_segments(found, 0, 2)
    own = [found[place] for place in share.positions]
    assert share == own
    assert len(share) == 2
    assert list(share) == own
    assert share[0] is own[0]
    assert share.index(own[0]) == 0
    assert (
        type(share[:1])
        is type(share.copy())
        is type(share + list(share))
        is type(sorted(share, key=id))
        is list
    )
    assert [entry.crop_region for entry in use_as_another_pack_does(share)] == [
        entry.crop_region for entry in own
    ]


def test_a_slice_marks_whose_work_is_whose_and_keeps_every_number(segment):
    found = [segment((x, 0, x + 20, 20)) for x in (0, 30, 60, 90)]
    _, read = read_segments(((50, 200), Slice(found, [3, 1])))
    assert [part.number for part in read] == [0, 1, 2, 3]
    assert [part.wanted for part in read] == [False, True, False, True]
    assert [part.region.left for part in read] == [0, 30, 60, 90]


def test_a_slice_that_another_pack_rebuilt_is_a_list_of_its_own(segment):
    found = [segment((x, 0, x + 20, 20)) for x in (0, 30, 60, 90)]
    rebuilt = use_as_another_pack_does(slice_segments(found, 0, 2))
    _, read = read_segments(((50, 200), rebuilt))
    assert [part.wanted for part in read] == [True, True]


def test_an_empty_slice_still_knows_the_others(segment):
    found = [segment((0, 0, 20, 20))]
    share = slice_segments(found, 1, 2)
    assert not share
    _, read = read_segments(((50, 200), share))
    assert [part.wanted for part in read] == [False]


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_copies_of_slices_and_of_frames_know_what_they_are(segment, again):
    found = [FrameSEG.of(segment((x, 0, x + 20, 20), label=str(x)), x // 30) for x in (0, 30, 60, 90)]
    _, read = read_segments(((50, 200), again(Slice(found, [1, 2]))))
    assert [part.wanted for part in read] == [False, True, True, False]
    assert [part.frame for part in read] == [0, 1, 2, 3]


def test_a_pack_that_does_not_know_frames_sees_a_segment_of_every_frame(segment):
    plain = segment((0, 0, 20, 20))
    framed = FrameSEG.of(plain, 2)
    assert isinstance(framed, SEG)
    assert framed == plain
    assert framed._fields == Theirs._fields
    assert framed._asdict().keys() == plain._asdict().keys()
    _, read = read_segments(((50, 200), [framed, *use_as_another_pack_does([framed])]))
    assert [part.frame for part in read] == [2, None]
    _, read = read_segments(((50, 200), [framed._replace(label="new"), SEG(*framed)]))
    assert [part.frame for part in read] == [None, None]


def test_making_a_frame_s_segment_leaves_the_plain_one(segment):
    plain = segment((0, 0, 20, 20))
    first, second = FrameSEG.of(plain, 0), FrameSEG.of(plain, 1)
    assert (first.frame, second.frame) == (0, 1)
    assert not hasattr(plain, "frame")


def moving(*lefts, size=(6, 8)):
    """Return a mask (F, h, w) with two white columns at `left` in each frame; None for a black one."""
    masks = np.zeros((len(lefts), *size), np.float32)
    for mask, left in zip(masks, lefts, strict=True):
        if left is not None:
            mask[:, left : left + 2] = 1
    return masks


PER_FRAME = {
    "array": moving(0, None, 6),
    "tensor": torch.from_numpy(moving(0, None, 6)),
    "leading ones": moving(0, None, 6)[None],
    "a channel": moving(0, None, 6)[:, None],
    "bytes": (moving(0, None, 6) * 255).astype(np.uint8),
}


@pytest.mark.parametrize("masks", PER_FRAME.values(), ids=PER_FRAME)
def test_a_mask_for_each_frame_is_a_segment_of_that_frame_where_it_is_not_black(segment, masks):
    segs = ((20, 30), [segment((0, 0, 9, 9)), segment((2, 2, 10, 8), masks)])
    _, (first, *own) = read_segments(segs, 3)
    assert (first.number, first.frame) == (0, None)
    assert [(part.number, part.frame) for part in own] == [(1, 0), (1, 2)]
    for part, left in zip(own, (0, 6), strict=True):
        assert torch.equal(part.mask, torch.from_numpy(moving(left)[0]))


def test_masks_for_another_number_of_frames_are_taken_together(segment):
    segs = ((20, 30), [segment((2, 2, 10, 8), moving(0, 4))])
    for frames in (1, 3):
        _, [part] = read_segments(segs, frames)
        assert part.frame is None
        assert torch.equal(part.mask, torch.from_numpy(moving(0)[0] + moving(4)[0]))


def test_a_segment_of_one_frame_with_masks_for_all_takes_its_own(segment):
    entry = FrameSEG.of(segment((2, 2, 10, 8), moving(0, 2, None)), 1)
    _, [part] = read_segments(((20, 30), [entry]), 3)
    assert (part.frame, part.empty) == (1, False)
    assert torch.equal(part.mask, torch.from_numpy(moving(2)[0]))
    _, [part] = read_segments(((20, 30), [FrameSEG.of(entry, 2)]), 3)
    assert (part.frame, part.empty) == (2, True)


EMPTY = [((0, 0), []), [[0, 0], ()], ((5, 0), iter([])), ((0, 0), Slice([], []))]


@pytest.mark.parametrize("segs", EMPTY)
def test_nothing_found_has_no_size(segs):
    assert read_segments(segs)[1] == []


def test_segments_of_a_picture_without_a_pixel_are_one_sentence(segment):
    found = [segment((0, 0, 9, 9))]
    for entries in (found, Slice(found, [])):
        with pytest.raises(ValueError, match=r"segs: expected an image of at least 1x1, got 0x0\. "):
            read_shape(((0, 0), entries))
