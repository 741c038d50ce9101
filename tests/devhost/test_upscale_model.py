"""The shipped upscale model: it loads, it is small, and it beats bicubic on unseen photographs."""

from __future__ import annotations

import math

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from spandrel import ModelLoader

from devhost.environment import ROOT
from devhost.photographs import HELD_OUT, photograph, psnr, reduce_by
from devhost.training.upscale import compare

WEIGHTS = ROOT / "assets" / "upscale_models" / "megapixel-compact-4x.safetensors"


@pytest.fixture(scope="module")
def loaded():
    return ModelLoader().load_from_state_dict(safetensors.torch.load_file(WEIGHTS)).eval()


def test_it_is_a_small_compact_of_scale_4(loaded):
    assert WEIGHTS.stat().st_size < 100_000
    assert (loaded.architecture.id, loaded.scale) == ("Compact", 4)
    assert (loaded.input_channels, loaded.output_channels) == (3, 3)


@pytest.mark.parametrize(("name", "margin"), [("astronaut", 1.6), ("chelsea", 0.2), ("coffee", 0.9)])
def test_it_beats_bicubic_on_a_photograph_it_never_saw(loaded, name, margin):
    [(_, bicubic, ours)] = compare(loaded.model, [name])
    assert ours > bicubic + margin


def test_it_keeps_the_colours(loaded):
    """Reduced again, the result is close to what went in: no cast and no shift by part of a pixel."""
    small = reduce_by(photograph("coffee"), 4)
    with torch.inference_mode():
        assert psnr(reduce_by(loaded(small), 4), small) > 40


@pytest.mark.parametrize("name", HELD_OUT)
def test_photographs_are_floats_in_unit_range(name):
    picture = photograph(name)
    assert picture.dtype == torch.float32
    assert picture.shape[:2] == (1, 3)
    assert 0 <= picture.min() < 0.1 < 0.8 < picture.max() <= 1


def test_a_picture_that_is_not_bundled_is_named():
    with pytest.raises(FileNotFoundError, match="got 'nonsense'"):
        photograph("nonsense")


def test_reducing_cuts_the_remainder_and_keeps_a_plain_colour(draw):
    plain = draw(2, 3, 1, 1).expand(2, 3, 43, 30)
    torch.testing.assert_close(reduce_by(plain, 4), plain[..., :10, :7])
    whole = draw(2, 3, 43, 30)
    assert torch.equal(reduce_by(whole, 4), reduce_by(whole[..., :40, :28], 4))


def test_psnr_is_the_mean_square_error_in_decibels(draw):
    picture = draw(2, 3, 7, 5)
    assert psnr(picture, picture) == math.inf
    assert psnr(picture, picture + 0.1) == pytest.approx(20, abs=1e-4)
    noisy = picture + 0.05 * draw(2, 3, 7, 5, seed=1)
    assert psnr(picture, noisy) == pytest.approx(-10 * math.log10(F.mse_loss(picture, noisy).item()))
