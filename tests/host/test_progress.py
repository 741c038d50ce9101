from __future__ import annotations

import comfy.utils
import numpy as np
import pytest
import torch
from megapixel.host import progress
from megapixel.host.progress import LONGEST, TO_COME, LivePreview, PreviewBar
from megapixel.scaling.box import Box


def shown(preview):
    image = preview.image()
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def test_what_is_to_come_is_the_picture_in_the_dark(draw):
    picture = draw(3, 20, 31)
    expected = (picture.movedim(0, -1) * TO_COME * 255).round().int().numpy()
    assert np.array_equal(shown(LivePreview(picture)), expected)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((LONGEST, LONGEST), (LONGEST, LONGEST)),
        ((40, 30), (40, 30)),
        ((2 * LONGEST, 300), (LONGEST, 150)),
        ((300, 4 * LONGEST), (75, LONGEST)),
        ((1, 8 * LONGEST), (1, LONGEST)),
        ((1, 1), (1, 1)),
    ],
    ids=str,
)
def test_it_is_no_larger_than_a_preview_and_never_larger_than_the_picture(size, expected):
    assert shown(LivePreview(torch.rand(3, *size, generator=torch.Generator()))).shape == (*expected, 3)


def test_parts_put_side_by_side_make_the_enlarged_picture(draw):
    picture, enlarged = draw(3, 20, 30), draw(3, 20, 30, seed=1)
    large = enlarged.repeat_interleave(4, 1).repeat_interleave(4, 2)
    preview = LivePreview(picture)
    dark = shown(preview)
    preview.put(large[:, :32, :48], Box(0, 0, 8, 12), (20, 30))
    half = shown(preview)
    bright = (enlarged.movedim(0, -1) * 255).round().int().numpy()
    assert np.array_equal(half[:8, :12], bright[:8, :12])
    assert np.array_equal(half[8:], dark[8:])
    assert np.array_equal(half[:, 12:], dark[:, 12:])
    for rows, columns in (((0, 8), (12, 30)), ((8, 20), (0, 12)), ((8, 20), (12, 30))):
        part = large[:, 4 * rows[0] : 4 * rows[1], 4 * columns[0] : 4 * columns[1]]
        preview.put(part, Box(rows[0], columns[0], rows[1], columns[1]), (20, 30))
    assert np.array_equal(shown(preview), bright)


def test_a_part_finer_than_a_pixel_of_the_preview_shows_at_its_place():
    preview = LivePreview(torch.zeros(3, 4 * LONGEST, 3 * LONGEST))
    preview.put(torch.ones(3, 4, 4), Box(1000, 1000, 1001, 1001), (2000, 4000))
    rows, columns = np.nonzero(shown(preview).sum(axis=-1))
    assert (set(rows), set(columns)) == ({LONGEST // 2}, {LONGEST * 3 // 16})


@pytest.mark.parametrize(("channels", "like"), [(1, [0, 0, 0]), (2, [0, 0, 0]), (4, [0, 1, 2])])
def test_grey_is_shown_as_grey_and_transparency_is_left_out(channels, like, draw):
    picture, part = draw(channels, 9, 14), draw(channels, 9, 7, seed=1)
    colours = LivePreview(picture[like])
    colours.put(part[like], Box(0, 1, 1, 2), (1, 2))
    preview = LivePreview(picture)
    preview.put(part, Box(0, 1, 1, 2), (1, 2))
    assert np.array_equal(shown(preview), shown(colours))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_values_out_of_range_are_no_obstacle(dtype, draw):
    part = draw(3, 9, 14) * 3 - 1
    preview = LivePreview(torch.zeros(3, 9, 14, dtype=dtype))
    preview.put(part.to(dtype), Box(0, 0, 1, 1), (1, 1))
    expected = (part.to(dtype).float().clamp(0, 1).movedim(0, -1) * 255).round().int().numpy()
    assert np.array_equal(shown(preview), expected)


def test_the_picture_itself_is_not_written_to(draw):
    picture = draw(3, 9, 14)
    before = picture.clone()
    LivePreview(picture).put(torch.ones(3, 18, 28), Box(0, 0, 1, 1), (1, 1))
    assert torch.equal(picture, before)


class TestPreviewBar:
    @pytest.fixture
    def told(self, monkeypatch):
        """What the host's bar is given: (step, total, whether with a preview)."""
        told = []
        monkeypatch.setattr(
            comfy.utils.ProgressBar,
            "update_absolute",
            lambda bar, step, total, preview: told.append((step, total, preview is not None)),
        )
        return told

    @pytest.fixture
    def clock(self, monkeypatch):
        """The time in seconds, in a list of one."""
        now = [100.0]
        monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
        return now

    def test_a_preview_is_sent_where_it_is_new_and_due_and_at_the_end(self, told, clock, draw):
        bar = PreviewBar(draw(1, 3, 20, 31), 5)
        put = draw(3, 4, 4), Box(0, 0, 1, 1), (2, 2)
        bar.update(0)  # nothing to see
        bar.put(0, *put)
        bar.update(1)
        clock[0] += 0.9 * progress.PREVIEW_SECONDS
        assert not bar.is_due
        bar.put(0, *put)
        bar.update(2)  # too soon
        clock[0] += 0.2 * progress.PREVIEW_SECONDS
        assert bar.is_due
        bar.update(3)
        clock[0] += 2 * progress.PREVIEW_SECONDS
        bar.update(4)  # nothing new
        bar.put(0, *put)
        bar.update(4)
        bar.put(0, *put)
        bar.update(9)  # too soon, but the end
        sent = [False, True, False, True, False, True, True]
        assert told == list(zip([0, 1, 2, 3, 4, 4, 5], [5] * 7, sent, strict=True))

    def test_another_picture_begins_dark_where_it_is_to_come(self, told, draw):
        pictures = draw(2, 3, 20, 31)
        boxes = [[Box(0, 0, 5, 5)], [Box(10, 3, 20, 9), Box(0, 9, 4, 31)]]
        bar = PreviewBar(pictures, 5, boxes.__getitem__)
        for number in (0, 1):
            part, box = draw(3, 8, 6), boxes[number][0]
            bar.put(number, part, box, (20, 31))
            expected = LivePreview(pictures[number], boxes[number])
            expected.put(part, box, (20, 31))
            assert np.array_equal(shown(bar._preview), shown(expected))
