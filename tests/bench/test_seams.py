"""The measure of seams shows a seam, and nothing where an object lies on a line."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bench.seams import REACH, UNSEEN, seams
from devhost.tiny.scenes import random_scenes

LINES = [64, 128, 192]


def strength(picture, line):
    """Return the lower quartile along a line of columns of the largest step near it, one step after another."""
    found = []
    for row in picture:
        steps = [
            sum(abs(float(row[x + 1, c]) - float(row[x, c])) for c in range(row.shape[1])) / row.shape[1]
            for x in range(line - REACH, line + REACH)
        ]
        found.append(max(steps))
    return float(np.quantile(found, 0.25))


def others(length, borders):
    lines = range(REACH, length - REACH)
    return [line for line in lines if all(abs(line - border) >= 2 * REACH for border in borders)]


def drawn(number):
    """Return a scene (256, 256, 3) with an object, as the benchmarks enlarge them."""
    return (
        random_scenes(number + 1, (32, 32), torch.Generator().manual_seed(3))
        .pictures()[number]
        .movedim(0, -1)
    )


def with_offset(picture, levels):
    """Return a picture that is brighter by so many levels in every other column of tiles."""
    moved = picture.clone()
    moved[:, 64:128] += levels / 255
    moved[:, 192:] += levels / 255
    return moved


def test_contrast_and_rank_follow_their_definition():
    picture = torch.rand(40, 48, 3, generator=torch.Generator().manual_seed(1))
    rows, columns = [16], [16, 32]
    at, off, ranks = [], [], []
    for pixels, borders in ((picture.transpose(0, 1), rows), (picture, columns)):
        weaker = [strength(pixels.numpy(), line) for line in others(pixels.shape[1], borders)]
        here = [strength(pixels.numpy(), line) for line in borders]
        at.append(np.mean(here))
        off.append(np.median(weaker))
        ranks += [np.mean([other < own for other in weaker]) for own in here]
    found = seams(picture, rows, columns)
    assert found.contrast == pytest.approx((np.mean(at) + UNSEEN) / (np.mean(off) + UNSEEN), rel=1e-6)
    assert found.rank == pytest.approx(np.mean(ranks))


@pytest.mark.parametrize("number", range(6))
def test_an_object_is_no_seam(number):
    found = seams(drawn(number), LINES, LINES)
    assert found.contrast == pytest.approx(1, abs=0.25)


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("levels", [2, 4, 8])
def test_an_offset_of_a_tile_is_a_seam(number, levels):
    picture = drawn(number)
    found = seams(with_offset(picture, levels), LINES, LINES)
    assert found.contrast > 1 + 0.4 * levels
    assert found.rank > seams(picture, LINES, LINES).rank + 0.1


def test_noise_has_neither_contrast_nor_rank():
    picture = torch.rand(256, 256, 3, generator=torch.Generator().manual_seed(2))
    found = seams(picture, LINES, LINES)
    assert found.contrast == pytest.approx(1, abs=0.02)
    assert found.mean_jump == pytest.approx(1, abs=0.02)


def test_a_flat_picture_has_no_seam():
    found = seams(torch.full((256, 256, 3), 0.5), LINES, LINES)
    assert (found.contrast, found.rank) == (1, 0.5)


def test_the_mean_jump_counts_objects_too():
    """Which is why it cannot tell a seam from an object."""
    picture = torch.zeros(256, 256, 3)
    picture[96:160, 128:] = 1  # a quarter of the line
    found = seams(picture, LINES, LINES)
    assert found.mean_jump > 2
    assert found.contrast == 1
