"""A segment's own hint over the crop that is sampled:
a ramp reads in the crop what it reads in the region.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from megapixel.host.segment_control import placed_control
from megapixel.segs.refine import Fit, cut_pieces
from megapixel.segs.segment import SEG, read_segments

SIZE = (300, 400)
REGION = (160, 100, 250, 175)  # x1, y1, x2, y2


def pieces(least=256, found_in=SIZE, frames=1, corners=REGION):
    x1, y1, x2, y2 = corners
    entry = SEG(None, np.ones((y2 - y1, x2 - x1), np.float32), 1.0, corners, corners, "a")
    return cut_pieces(read_segments((found_in, [entry]))[1], found_in, frames, Fit(SIZE, least=least))


def ramp(height, width, frames=1):
    """Return a hint (F, h, w, 3) that rises from 0 at the left edge of the first pixel to 1,
    and by 1 with each frame.
    """
    across = (torch.arange(width) + 0.5) / width
    return across.expand(frames, height, width)[..., None].repeat(1, 1, 1, 3) + torch.arange(frames).view(
        -1, 1, 1, 1
    )


def expected(piece, frame=0):
    """Return what each column of the crop reads: the ramp over the region, its ends beyond."""
    region, box = piece.cut.region, piece.cut.box
    width = region.size[1]
    columns = torch.arange(box.left, box.right) - region.left
    return (columns.clamp(0, width - 1) + 0.5) / width + frame


@pytest.mark.parametrize("least", [8, 256])
def test_a_hint_lies_at_its_region_in_the_crop(least):
    [piece] = pieces(least)
    wrapper = SimpleNamespace(control_image=ramp(75, 90), strength=0.5)
    placed = placed_control(wrapper, piece)
    assert placed.control_image.shape == (1, *piece.cut.box.size, 3)
    assert (placed.control_image - expected(piece)[:, None]).abs().max() < 1e-5
    assert placed.strength == 0.5
    assert wrapper.control_image.shape == (1, 75, 90, 3)


def test_a_hint_of_a_smaller_picture_grows_with_its_region():
    half = tuple(side // 2 for side in REGION)
    [piece] = pieces(found_in=(150, 200), corners=half)
    placed = placed_control(SimpleNamespace(control_image=ramp(37, 45)), piece)
    inside = slice(
        piece.cut.region.left - piece.cut.box.left + 1, piece.cut.region.right - piece.cut.box.left - 1
    )
    assert (placed.control_image[0, :, inside] - expected(piece)[inside, None]).abs().max() < 1e-5


def test_every_wrapper_of_a_chain_is_placed_and_a_reference_picture_stays():
    [piece] = pieces()
    first = SimpleNamespace(control_image=ramp(75, 90), prev_control_net=None)
    reference = torch.zeros(1, 30, 40, 3)
    adapter = SimpleNamespace(image=reference, reference_image=reference, prev_control_net=first)
    last = SimpleNamespace(control_image=None, prev_control_net=adapter, preprocessor="canny")
    placed = placed_control(last, piece)
    assert placed.control_image is None
    assert placed.preprocessor == "canny"
    assert placed.prev_control_net.image is placed.prev_control_net.reference_image is reference
    assert placed.prev_control_net.prev_control_net.control_image.shape[1:3] == piece.cut.box.size
    assert last.prev_control_net is adapter
    assert adapter.prev_control_net is first


def test_a_frame_takes_its_own_hint():
    for piece in pieces(frames=3):
        placed = placed_control(SimpleNamespace(control_image=ramp(75, 90, frames=2)), piece)
        frame = min(piece.frame, 1)
        assert (placed.control_image - expected(piece, frame)[:, None]).abs().max() < 1e-5


def test_a_wrapper_without_a_hint_is_itself():
    [piece] = pieces()
    wrapper = SimpleNamespace(apply=None)
    assert placed_control(wrapper, piece) is wrapper
    assert placed_control(None, piece) is None
