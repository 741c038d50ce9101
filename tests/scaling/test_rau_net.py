"""The sizes, the convolution and the published phases of RAU-Net."""

from __future__ import annotations

from itertools import pairwise, product

import pytest
import torch
import torch.nn.functional as F
from megapixel.scaling.rau_net import (
    LARGE_SIDE,
    Phases,
    averaged_size,
    dilated_convolution,
    dilated_size,
    pooled_size,
    published_phases,
)

SIZES_TO_64 = list(product(range(1, 65), range(1, 65)))


def convolution_by_taps(features, weight, bias):
    """Stride 4, padding 2, dilation 2: the nine taps lie two apart around every fourth
    place, zeros outside.
    """
    batch, _, height, width = features.shape
    rows, columns = -(-height // 4), -(-width // 4)
    result = torch.zeros(batch, weight.shape[0], rows, columns, dtype=features.dtype)
    for row, column in product(range(rows), range(columns)):
        for tap_row, tap_column in product(range(3), range(3)):
            y, x = 4 * row + 2 * (tap_row - 1), 4 * column + 2 * (tap_column - 1)
            if 0 <= y < height and 0 <= x < width:
                result[:, :, row, column] += features[:, :, y, x] @ weight[:, :, tap_row, tap_column].T
    return result if bias is None else result + bias[:, None, None]


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 4), (8, 12), (13, 9), (16, 31)])
def test_the_convolution_is_nine_taps_two_apart_at_every_fourth_place(draw, size, has_bias):
    features = draw(2, 3, *size) - 0.5
    weight = draw(5, 3, 3, 3, seed=1) - 0.5
    bias = draw(5, seed=2) if has_bias else None
    result = dilated_convolution(features, weight, bias)
    torch.testing.assert_close(result, convolution_by_taps(features, weight, bias), rtol=0, atol=1e-6)


def test_on_a_picture_enlarged_by_two_it_sees_what_stride_two_saw(draw):
    """Why the dilation: the trained kernel meets the same values on twice the side."""
    small, weight = draw(2, 3, 9, 14), draw(4, 3, 3, 3, seed=1)
    enlarged = small.repeat_interleave(2, 2).repeat_interleave(2, 3)
    trained = F.conv2d(small, weight, stride=2, padding=1)
    torch.testing.assert_close(dilated_convolution(enlarged, weight, None), trained, rtol=0, atol=1e-6)


def test_transposing_the_features_transposes_the_convolution(draw):
    features, weight = draw(2, 3, 11, 18), draw(4, 3, 3, 3, seed=1)
    result = dilated_convolution(features, weight, None)
    transposed = dilated_convolution(features.mT.contiguous(), weight.mT.contiguous(), None)
    torch.testing.assert_close(transposed.mT, result, rtol=1e-6, atol=1e-6)


def test_the_size_of_the_convolution_is_told_for_every_size():
    weight = torch.ones(1, 1, 3, 3)
    for size in SIZES_TO_64:
        assert dilated_size(size) == tuple(
            dilated_convolution(torch.zeros(1, 1, *size), weight, None).shape[2:]
        )


def test_the_size_of_the_average_is_that_of_the_real_pool():
    kernels = list(product(range(1, 8), range(1, 8)))
    for number, size in enumerate(SIZES_TO_64):
        features = torch.zeros(1, 1, *size)
        for kernel in {(2, 2), (3, 3), kernels[number % 49], kernels[number * 5 % 49]}:
            if kernel[0] > size[0] or kernel[1] > size[1]:
                continue  # a kernel is never larger than the features, `avg_pool2d` has nothing to say there
            for ceil in (True, False):
                pooled = F.avg_pool2d(features, kernel, ceil_mode=ceil)
                assert averaged_size(size, kernel, ceil) == tuple(pooled.shape[2:])


class TestPooledSize:
    FACTORS = (0.25, 0.5, 0.8, 1.0, 1.01, 1.5, 2.0, 3.0, 7.7, 40.0)

    @pytest.mark.parametrize(
        ("size", "factors", "increment", "pooled"),
        [
            ((64, 48), (2.0, 2.0), 8, (32, 24)),
            ((64, 48), (2.0, 3.0), 8, (32, 16)),
            ((60, 44), (2.0, 2.0), 8, (24, 16)),
            ((61, 45), (2.0, 2.0), 1, (30, 22)),
            ((10, 100), (4.0, 4.0), 8, (8, 24)),
            ((5, 7), (2.0, 2.0), 8, (5, 7)),
            ((10, 20), (0.5, 0.5), 1, (20, 40)),
            ((9, 20), (0.9, 0.5), 8, (9, 40)),
        ],
    )
    def test_table(self, size, factors, increment, pooled):
        assert pooled_size(size, factors, increment) == pooled

    def test_factor_one_and_increment_one_is_the_identity(self):
        assert all(pooled_size(size, (1.0, 1.0)) == size for size in SIZES_TO_64)

    @pytest.mark.parametrize("increment", [1, 4, 8])
    def test_the_direction_and_the_multiple_are_kept(self, increment):
        for side, factor in product(range(1, 130), self.FACTORS):
            height, width = pooled_size((side, side), (factor, 2.0), increment)
            assert (height <= side) if factor >= 1 else (height >= side)
            assert height == side or height % increment == 0
            assert height >= min(side, increment)
            assert width == pooled_size((1, side), (1.0, 2.0), increment)[1]

    @pytest.mark.parametrize("increment", [1, 8])
    def test_a_larger_factor_or_a_smaller_side_is_never_larger(self, increment):
        for side in range(1, 130):
            sizes = [pooled_size((side, side), (factor, factor), increment)[0] for factor in self.FACTORS]
            assert sizes == sorted(sizes, reverse=True)
        for factor in self.FACTORS:
            sizes = [pooled_size((side, 9), (factor, 1.0), increment)[0] for side in range(1, 130)]
            assert all(one <= next_one for one, next_one in pairwise(sizes))

    def test_transposing_transposes(self):
        for size in product(range(1, 80, 7), range(1, 80, 5)):
            for factors in product(self.FACTORS, self.FACTORS):
                transposed = pooled_size(size[::-1], factors[::-1], 8)
                assert transposed == pooled_size(size, factors, 8)[::-1]


def test_the_dilated_and_the_averaged_size_transpose():
    for height, width in SIZES_TO_64:
        assert dilated_size((width, height)) == dilated_size((height, width))[::-1]
        assert averaged_size((width, height), (2, 3)) == averaged_size((height, width), (3, 2))[::-1]


# kind, latent size, turbo, control -> shares of the steps: the dilated pair, the pooled pair
PUBLISHED = {
    "sd native": ("sd", (64, 64), False, False, (0, 0.4), (0, 0)),
    "sd just below": ("sd", (255, 255), False, False, (0, 0.4), (0, 0)),
    "sd one side below": ("sd", (255, 512), False, False, (0, 0.4), (0, 0)),
    "sd the other side below": ("sd", (1024, 255), False, False, (0, 0.4), (0, 0)),
    "sd at the edge": ("sd", (256, 256), False, False, (0, 0.7), (0, 0.3)),
    "sd wide": ("sd", (256, 511), False, False, (0, 0.7), (0, 0.3)),
    "sd control": ("sd", (128, 96), False, True, (0, 0.4), (0, 0)),
    "sd large control": ("sd", (300, 256), False, True, (0, 0.7), (0, 0.3)),
    "sdxl native": ("sdxl", (128, 128), False, False, (0, 8 / 50), (8 / 50, 0.4)),
    "sdxl just below": ("sdxl", (511, 511), False, False, (0, 8 / 50), (8 / 50, 0.4)),
    "sdxl one side below": ("sdxl", (511, 1024), False, False, (0, 8 / 50), (8 / 50, 0.4)),
    "sdxl the other side below": ("sdxl", (2048, 511), False, False, (0, 8 / 50), (8 / 50, 0.4)),
    "sdxl at the edge": ("sdxl", (512, 512), False, False, (0, 0.3), (0, 0.7)),
    "sdxl wide": ("sdxl", (512, 900), False, False, (0, 0.3), (0, 0.7)),
    "sdxl control": ("sdxl", (256, 256), False, True, (0, 8 / 50), (8 / 50, 0.5)),
    "sdxl large control": ("sdxl", (512, 640), False, True, (0, 0.3), (0, 0.7)),
    "turbo": ("sdxl", (128, 128), True, False, (0, 0), (0, 0.5)),
    "large turbo": ("sdxl", (512, 512), True, False, (0, 0), (0, 0.5)),
    "turbo control": ("sdxl", (128, 128), True, True, (0, 0), (0, 0.5)),
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "size", "turbo", "control", "dilated", "pooled"), PUBLISHED.values(), ids=PUBLISHED
)
def test_the_published_phases(kind, size, turbo, control, dilated, pooled):
    assert published_phases(kind, size, turbo=turbo, control=control) == Phases(dilated, pooled)


@pytest.mark.parametrize(
    ("steps", "change", "end"), [(50, 8, 20), (20, 3, 8), (6, 0, 2), (7, 1, 2), (4, 0, 1)]
)
def test_the_aggressive_phases_of_sdxl_in_steps(steps, change, end):
    """As published: with six steps or fewer the first phase vanishes, and the two never overlap."""
    phases = published_phases("sdxl", (256, 256))
    assert [int(share * steps) for share in phases.dilated] == [0, change]
    assert [int(share * steps) for share in phases.pooled] == [change, end]


@pytest.mark.parametrize("kind", LARGE_SIDE)
def test_transposing_a_latent_keeps_its_class(kind):
    for size in product((64, 255, 256, 257, 511, 512, 513, 1024), repeat=2):
        assert published_phases(kind, size) == published_phases(kind, size[::-1])
