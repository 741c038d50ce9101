"""SEGS as packs make them, and as they should not: the right picture,
or an error message that says what to do.
"""

from __future__ import annotations

import re
from collections import namedtuple
from random import Random

import numpy as np
import pytest
import torch
from megapixel.segs.choose import MEASURES, Choice, choose_segments, slice_segments
from megapixel.segs.refine import refine_independently
from megapixel.segs.segment import SEG, read_segments

SENTENCE = re.compile(r"segs: expected [^\n]+, got [^\n]+\. [A-Z][^\n.]+\.")
Theirs = namedtuple(
    "Theirs",
    ["cropped_image", "cropped_mask", "confidence", "crop_region", "bbox", "label", "control_net_wrapper"],
    defaults=[None],
)


def random_mask(random, noise, corners, seed):
    """Return (h, w) in float64 as it is meant, and how many bits it can be written with."""
    height, width = int(corners[3] - corners[1]) + 1, int(corners[2] - corners[0]) + 1
    if random.random() < 0.5:
        height, width = random.randint(1, 30), random.randint(1, 30)
    kind = random.choice(["full", "empty", "flags", "bytes", "floats"])
    values = noise(height, width, seed=seed).double().numpy()
    if kind == "full":
        return np.ones((height, width)), "flags"
    if kind == "empty":
        return np.zeros((height, width)), "flags"
    if kind == "flags":
        return (values > 0.5).astype(np.float64), kind
    if kind == "bytes":
        return np.round(values * 255) / 255, kind
    return values.astype(np.float32).astype(np.float64), kind


def written(random, mask, kind):
    """Return a mask as some pack would hold it."""
    forms = [lambda: mask, lambda: mask.astype(np.float32)]
    if kind == "flags":
        forms += [lambda: mask.astype(bool), lambda: mask.astype(np.uint8), lambda: mask.astype(np.float16)]
    # Bytes up to 1 are flags: only a larger one says that 255 is meant by 1.
    if kind == "flags" or (kind == "bytes" and mask.max() > 1 / 255):
        forms += [lambda: np.round(mask * 255).astype(random.choice([np.uint8, np.int32, np.int64]))]
    values = random.choice(forms)()
    if random.random() < 0.3:
        values = values[(None,) * random.randint(1, 2)]
    if random.random() < 0.5:
        return torch.as_tensor(values)
    return values.tolist() if random.random() < 0.1 else values


def written_corners(random, corners):
    """Return four corners as some pack would hold them."""
    return random.choice(
        [
            tuple,
            list,
            np.array,
            torch.tensor,
            lambda values: [np.float64(value) for value in values],
            lambda values: np.array(values, dtype=np.float32),
        ]
    )(list(corners))


def random_corners(random, size):
    """Return four numbers in quarters: inside, at the borders, across them, or outside."""
    spans = []
    for length in (size[1], size[0]):
        side = random.randint(1, 40)
        low = random.choice(
            [
                0,
                length - side,
                random.randint(0, length),
                random.randint(-50, length),
                random.randint(-200, 200),
            ]
        )
        spans.append((low, low + side))
    corners = [spans[0][0], spans[1][0], spans[0][1], spans[1][1]]
    if random.random() < 0.4:
        corners = [value + random.choice([0, 0.25, 0.5]) for value in corners[:2]] + [
            value - random.choice([0, 0.25]) for value in corners[2:]
        ]
    return corners


def random_segs(random, noise, seed):
    """Return what is meant, (size, [(corners, mask)]), and SEGS that say so."""
    size = random.randint(1, 60), random.randint(1, 60)
    meant, entries = [], []
    for number in range(random.randint(0, 5)):
        corners = random_corners(random, size)
        mask, kind = random_mask(random, noise, corners, seed * 10 + number)
        x1, y1, x2, y2 = corners
        meant.append(((np.floor(x1), np.floor(y1), np.ceil(x2), np.ceil(y2)), mask))
        fields = (
            random.choice([None, np.zeros((1, 4, 4, 3), dtype=np.float32)]),
            written(random, mask, kind),
            random.choice([None, 0.5, 1, np.array([0.25]), torch.tensor(0.75), np.float32(0.5)]),
            written_corners(random, corners),
            random.choice([written_corners(random, corners), tuple(corners)]),
            random.choice(["face", "", None, 3]),
        )
        entries.append(random.choice([SEG, Theirs])(*fields))
    shape = random.choice([size, list(size), (np.int64(size[0]), float(size[1])), torch.tensor(size)])
    return (size, meant), random.choice([tuple, list])((shape, random.choice([list, tuple])(entries)))


@pytest.mark.parametrize("part", range(4))
def test_500_segs_give_the_picture_that_is_meant(noise, pieces_of, refiner, change, plain, part):
    random, largest, refined = Random(part), 0.0, 0
    for seed in range(part * 125, part * 125 + 125):
        (found_in, meant), segs = random_segs(random, noise, seed)
        size = found_in if random.random() < 0.5 else (random.randint(1, 60), random.randint(1, 60))
        fit = {
            "multiple": random.choice([1, 8, 8, 16]),
            "least": random.choice([1, 24]),
            "feather": random.randint(0, 3),
        }
        picture = noise(1, *size, random.choice([1, 3, 4]), seed=seed)
        expected, total = plain.refine(picture[0].numpy(), found_in, meant, change, **fit)
        before = picture.clone()
        refine_independently(picture, pieces_of(segs, size, **fit), refiner)
        largest = max(largest, float(np.abs(picture[0].numpy() - expected).max()))
        outside = torch.from_numpy(total == 0)
        assert torch.equal(picture[0][outside], before[0][outside])
        refined += not torch.equal(picture, before)
    assert largest < 3e-6
    assert refined > 50, "most cells must refine something"


def test_any_segs_can_be_chosen_and_shared_out(noise):
    random = Random(9)
    for seed in range(200):
        (_, meant), segs = random_segs(random, noise, seed)
        found = list(segs[1])
        choice = Choice(order=random.choice(list(MEASURES)), confidence=random.choice([0.0, 0.6]))
        chosen, left = choose_segments(found, choice)
        assert len(chosen) + len(left) == len(found) == len(meant)
        assert sum(len(slice_segments(found, worker, 3, True)) for worker in range(3)) == len(found)


def good(**changed):
    fields = {
        "cropped_image": None,
        "cropped_mask": np.ones((4, 4), dtype=np.float32),
        "confidence": 1.0,
        "crop_region": (0, 0, 4, 4),
        "bbox": (0, 0, 4, 4),
        "label": "",
    }
    return SEG(**{**fields, **changed})


BAD = [
    pytest.param(None, id="none"),
    pytest.param(7, id="a number"),
    pytest.param("SEGS", id="text"),
    pytest.param({}, id="a dict"),
    pytest.param(torch.zeros(1, 8, 8, 3), id="a picture"),
    pytest.param([], id="nothing"),
    pytest.param(((9, 9),), id="no list"),
    pytest.param((9, [good()]), id="one length"),
    pytest.param(((9, 9, 3), [good()]), id="three lengths"),
    pytest.param((None, [good()]), id="no size"),
    pytest.param(((9, float("nan")), [good()]), id="a length that is no number"),
    pytest.param(((9, float("inf")), [good()]), id="a length without end"),
    pytest.param(((0, 9), [good()]), id="no height"),
    pytest.param(((9, -9), [good()]), id="negative width"),
    pytest.param(((9, 9), 5), id="a number for a list"),
    pytest.param(((9, 9), [None]), id="no segment"),
    pytest.param(((9, 9), [(0, 0, 4, 4)]), id="a box for a segment"),
    pytest.param(((9, 9), "ab"), id="text for a list"),
    pytest.param(((9, 9), [good(cropped_mask=None)]), id="no mask"),
    pytest.param(((9, 9), [good(cropped_mask="mask")]), id="text for a mask"),
    pytest.param(((9, 9), [good(cropped_mask=0.5)]), id="a number for a mask"),
    pytest.param(((9, 9), [good(cropped_mask=np.ones(4))]), id="one dimension"),
    pytest.param(((9, 9), [good(cropped_mask=np.ones((0, 4)))]), id="a mask without rows"),
    pytest.param(((9, 9), [good(cropped_mask=np.ones((4, 4, 3)))]), id="a mask of colours"),
    pytest.param(((9, 9), [good(cropped_mask=torch.ones(2, 4, 4))]), id="two masks"),
    pytest.param(((9, 9), [good(cropped_mask=[[1, 0], [1]])]), id="rows of other lengths"),
    pytest.param(((9, 9), [good(cropped_mask=np.array([[object()]]))]), id="a mask of objects"),
    pytest.param(
        ((9, 9), [good(cropped_mask=np.ones((4, 4), dtype=complex))]), id="a mask of complex numbers"
    ),
    pytest.param(((9, 9), [good(crop_region=None)]), id="no corners"),
    pytest.param(((9, 9), [good(crop_region=(0, 0, 4))]), id="three corners"),
    pytest.param(((9, 9), [good(crop_region=(0, 0, 4, 4, 4))]), id="five corners"),
    pytest.param(((9, 9), [good(crop_region=(0, 0, 4, float("nan")))]), id="a corner that is no number"),
    pytest.param(((9, 9), [good(crop_region=(0, 0, float("inf"), 4))]), id="a corner without end"),
    pytest.param(((9, 9), [good(crop_region=("a", 0, 4, 4))]), id="text for a corner"),
    pytest.param(((9, 9), [good(crop_region=(4, 0, 0, 4))]), id="right before left"),
    pytest.param(((9, 9), [good(crop_region=(0, 4, 4, 4))]), id="no height in it"),
    pytest.param(((9, 9), [good(crop_region=np.zeros((4, 2)))]), id="corners as points"),
]


@pytest.mark.parametrize("segs", BAD)
def test_what_has_no_meaning_is_refused_by_an_error_message_that_says_what_to_do(segs):
    with pytest.raises(ValueError, match=r"^segs: expected") as refusal:
        read_segments(segs)
    assert SENTENCE.fullmatch(str(refusal.value)), refusal.value


def test_a_refusal_names_the_segment_to_blame():
    with pytest.raises(ValueError, match=r"in segment 2, got \(4, 4, 4, 4\)"):
        read_segments(((9, 9), [good(), good(), good(crop_region=(4, 4, 4, 4))]))
    with pytest.raises(ValueError, match="mask in segment 1, got none"):
        read_segments(((9, 9), [good(), good(cropped_mask=None)]))


def test_choosing_names_the_segment_to_blame():
    with pytest.raises(ValueError, match=r"bbox .* in segment 2, got \(4, 4, 4, 4\)"):
        choose_segments([good(), good(), good(bbox=(4, 4, 4, 4))], Choice(least=1))


@pytest.mark.parametrize("confidence", ["sure", np.array([])], ids=["text", "none"])
def test_a_confidence_that_is_no_number_is_refused_by_an_error_message(confidence):
    with pytest.raises(ValueError, match=r"^segs: expected") as refusal:
        choose_segments([good(confidence=confidence)], Choice(confidence=0.5))
    assert SENTENCE.fullmatch(str(refusal.value)), refusal.value
