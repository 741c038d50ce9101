"""The measured receptive field against three oracles: counting, gradients, and crops of a whole picture."""

from __future__ import annotations

from random import Random

import pytest
import torch
import torch.nn.functional as F
from megapixel.upscale.receptive_field import CERTAIN, Measured, measure_receptive_field, textured_picture
from torch import nn

from devhost.tiny.random_upscalers import random_upscaler

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


def seeded(build):
    """Return a module that draws its weights when it is built, without a trace in the global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build().eval().requires_grad_(False)


def convolution(kernel=3, dilation=1, channels=(4, 4), stride=1):
    sides = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = tuple((side - 1) // 2 * dilation for side in sides)
    return nn.Conv2d(*channels, sides, padding=padding, dilation=dilation, stride=stride)


def stack(*kernels, scale=1):
    """Convolutions of (kernel, dilation), curved between, that make pictures `scale` times as large."""
    layers = [nn.Conv2d(3, 4, 1)]
    for kernel, dilation in kernels:
        layers += [convolution(kernel, dilation), nn.Tanh()]
    return nn.Sequential(*layers, nn.Conv2d(4, 3 * scale**2, 1), nn.PixelShuffle(scale))


class Lopsided(nn.Module):
    """Looks `right` pixels to the right and nowhere else."""

    def __init__(self, right):
        super().__init__()
        self.right, self.conv = right, nn.Conv2d(3, 3, (1, right + 1))

    def forward(self, pictures):
        return self.conv(F.pad(pictures, (0, self.right, 0, 0)))


class Around(nn.Module):
    """A layer between two convolutions, added to the way around it."""

    def __init__(self, inner):
        super().__init__()
        self.first, self.inner, self.last = convolution(channels=(3, 4)), inner, convolution(channels=(4, 3))

    def forward(self, pictures):
        features = self.first(pictures)
        return self.last(features + self.inner(features))


class Windows(nn.Module):
    """Every pixel sees the mean of its window of `side`;
    sizes are continued to multiples, as real ones do it.
    """

    def __init__(self, side):
        super().__init__()
        self.side = side

    def forward(self, features):
        height, width = features.shape[-2:]
        padded = F.pad(features, (0, -width % self.side, 0, -height % self.side), mode="replicate")
        means = F.avg_pool2d(padded, self.side)
        return F.interpolate(means, scale_factor=self.side, mode="nearest")[..., :height, :width]


class Padded(nn.Module):
    """What spandrel does for a network whose sides must be multiples."""

    def __init__(self, multiple, inner):
        super().__init__()
        self.multiple, self.inner = multiple, inner

    def forward(self, pictures):
        height, width = pictures.shape[-2:]
        padding = (0, -width % self.multiple, 0, -height % self.multiple)
        return self.inner(F.pad(pictures, padding, mode="reflect"))[..., :height, :width]


class ChannelAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.weigh = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1), nn.Sigmoid())

    def forward(self, features):
        return features * self.weigh(features)


class GlobalAttention(nn.Module):
    def forward(self, features):
        tokens, seen = features.flatten(2).mT, F.avg_pool2d(features, 8, ceil_mode=True).flatten(2).mT
        return F.scaled_dot_product_attention(tokens, seen, seen).mT.reshape(features.shape)


class GlobalMaximum(nn.Module):
    def forward(self, features):
        return features / (1 + features.abs().amax(dim=(-2, -1), keepdim=True))


class Mirror(nn.Module):
    def forward(self, features):
        return features.flip(-1)


class Cleaned(nn.Module):
    """A network in which no NaN spreads, because it takes them for zeros before it looks around."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, pictures):
        return self.inner(pictures.nan_to_num(nan=0.0))


def unshuffled(factor):
    channels = 3 * factor**2
    return seeded(
        lambda: Padded(
            factor,
            nn.Sequential(
                nn.PixelUnshuffle(factor), convolution(channels=(channels, channels)), nn.PixelShuffle(factor)
            ),
        )
    )


COUNTED = {
    "a 1x1 convolution": (lambda: stack((1, 1)), 0),
    "a 3x3 convolution": (lambda: stack((3, 1)), 1),
    "three of 3, 5 and 7": (lambda: stack((3, 1), (5, 1), (7, 1)), 6),
    "dilated by 2 and 5": (lambda: stack((3, 2), (5, 5)), 12),
    "4 times as large": (lambda: stack((3, 1), (5, 2), scale=4), 5),
    "3 times as large": (lambda: stack((3, 1), (3, 1), scale=3), 2),
    "1x9, only along the width": (lambda: stack(((1, 9), 1)), 4),
    "9x1, only along the height": (lambda: stack(((9, 1), 1)), 4),
    "1x9 after 5x1": (lambda: stack(((5, 1), 1), ((1, 9), 1)), 4),
    "only to the right": (lambda: Lopsided(7), 7),
    "twelve of 9": (lambda: stack(*[(9, 1)] * 12), 48),
}


def gradient_support(network, side):
    """Return how far from the centre the gradient of its output reaches, on either axis, in input pixels."""
    middle = side // 2
    given = textured_picture(3, side, side, CPU).double().requires_grad_()
    enlarged = network.double()(given)
    scale = enlarged.shape[-1] // side
    centre = enlarged[..., middle * scale : (middle + 1) * scale, middle * scale : (middle + 1) * scale]
    [gradient] = torch.autograd.grad(centre.square().sum(), given)
    seen = gradient[0].abs().amax(dim=0).nonzero() - middle
    return int(seen.abs().max())


def largest_error(run, measured, channels=3, size=(233, 301), count=12, seed=0):
    """Return by how much random crops, answered for inside their margin, differ from the whole picture.

    A crop starts at multiples of the period, and ends where the picture does or as far from its end.
    """
    random, margin, period = Random(seed), measured.margin, measured.period
    picture = 0.5 + 0.5 * torch.randn(
        1, channels, *size, generator=torch.Generator().manual_seed(seed)
    ).clamp(-1, 1)
    whole = run(picture)
    scale = whole.shape[-1] // size[1]
    worst, answered = 0.0, 0
    while answered < count:
        spans = []
        for length in size:
            start = random.choice([0, random.randrange(0, length // 2)]) // period * period
            end = random.choice([length, length - random.randrange(0, length // 2) // period * period])
            low, high = (start + margin if start else 0), (end - margin if end < length else length)
            spans.append((start, end, low, high))
        (top, bottom, *rows), (left, right, *columns) = spans
        if rows[0] >= rows[1] or columns[0] >= columns[1] or (bottom - top, right - left) == size:
            continue
        part = run(picture[..., top:bottom, left:right].contiguous())
        rows, columns = [row * scale for row in rows], [column * scale for column in columns]
        expected = whole[..., rows[0] : rows[1], columns[0] : columns[1]]
        inner = part[..., rows[0] - top * scale : rows[1] - top * scale, :]
        inner = inner[..., columns[0] - left * scale : columns[1] - left * scale]
        worst, answered = max(worst, float((inner - expected).abs().max())), answered + 1
    return worst


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("name", COUNTED)
def test_a_stack_of_convolutions_reaches_as_far_as_counted(name):
    build, counted = COUNTED[name]
    network = seeded(build)
    assert measure_receptive_field(network, 3, CPU) == Measured(counted, counted, 1)
    with torch.enable_grad():
        assert gradient_support(network, 2 * counted + 9) == counted


@pytest.mark.parametrize(
    "name", ["dilated by 2 and 5", "4 times as large", "1x9 after 5x1", "only to the right"]
)
def test_a_crop_with_that_margin_equals_the_whole_and_one_pixel_less_does_not(name):
    build, counted = COUNTED[name]
    network = seeded(build)
    assert largest_error(network, Measured(counted, counted, 1), size=(79, 93)) < 1e-6
    assert largest_error(network, Measured(counted, counted - 1, 1), size=(79, 93)) > 1e-5


@pytest.mark.parametrize(
    ("name", "counted"),
    [("Compact 16x4", 6), ("Compact 64x16", 18), ("Compact 64x32", 34), ("DnCNN", 17), ("SPAN 48", 21)],
)
def test_real_networks_reach_as_far_as_counted(name, counted):
    descriptor = random_upscaler(name)
    found = measure_receptive_field(lambda strip: descriptor(strip.clone()), descriptor.input_channels, CPU)
    assert found == Measured(counted, counted, 1)


def test_esrgan_reaches_15_pixels_a_block_and_4_around_them():
    # A block is three dense ones of five convolutions; the first and last at the input's size, two at the result's.
    descriptor = random_upscaler("ESRGAN 32x2")
    assert measure_receptive_field(lambda strip: descriptor(strip.clone()), 3, CPU) == Measured(34, 34, 1)


class TestPeriods:
    @pytest.mark.parametrize("side", [2, 3, 4, 7, 8, 12, 16, 20, 32])
    def test_windows_are_found_with_a_bound_for_every_position(self, side):
        network = seeded(lambda: Around(Windows(side)))
        found = measure_receptive_field(network, 3, CPU)
        assert found.period == side
        # A window is seen from `side - 1` away, and a convolution on either side of it looks one further.
        assert found.bound <= side + 1 <= found.margin
        assert largest_error(network, found) < 5e-6

    def test_the_margin_holds_where_the_column_that_was_asked_is_not_the_farthest(self):
        # Seen from three pixels before a window's end, the next window is reached to its far end: 10 pixels.
        layers = lambda: nn.Sequential(convolution(7, channels=(3, 3)), Windows(8))  # noqa: E731
        network = seeded(layers)
        found = measure_receptive_field(network, 3, CPU)
        assert found.bound is not None
        assert found.margin >= 10
        assert largest_error(network, found, count=40) < 5e-6

    def test_a_pixel_unshuffle_has_its_factor(self):
        for factor in (2, 4):
            network = unshuffled(factor)
            found = measure_receptive_field(network, 3, CPU, factor)
            assert (found.bound, found.period) == (factor * 2 - 1, factor)
            assert largest_error(network, found) < 5e-6

    def test_a_stride_has_its_length(self):
        network = seeded(
            lambda: Padded(
                2, nn.Sequential(convolution(channels=(3, 3), stride=2), nn.Upsample(scale_factor=2))
            )
        )
        found = measure_receptive_field(network, 3, CPU, 2)
        assert found.period == 2
        assert largest_error(network, found) < 5e-6

    def test_what_a_network_says_its_sizes_must_be_is_kept(self):
        assert measure_receptive_field(seeded(lambda: stack((3, 1))), 3, CPU, 6).period == 6

    @pytest.mark.parametrize("name", ["SwinIR", "SAFMN"])
    def test_of_real_networks(self, name):
        descriptor = random_upscaler(name)
        multiple = descriptor.size_requirements.multiple_of
        found = measure_receptive_field(lambda strip: descriptor(strip.clone()), 3, CPU, multiple)
        assert found.period == 8
        assert found.bound is not None

    def test_of_windows_beside_a_pooling_over_the_picture(self):
        network = seeded(lambda: Around(nn.Sequential(Windows(16), ChannelAttention())))
        found = measure_receptive_field(network, 3, CPU)
        assert (found.bound, found.period) == (None, 16)
        assert found.receptive_field().blend


EVERYWHERE = {  # layers that look at the whole picture
    "mean": nn.AdaptiveAvgPool2d(1),
    "group norm": nn.GroupNorm(2, 4),
    "instance norm": nn.InstanceNorm2d(4),
    "channel attention": ChannelAttention,
    "attention": GlobalAttention,
    "maximum": GlobalMaximum,
    "mirror": Mirror,
}


class TestTheWholePicture:
    @pytest.mark.parametrize("name", EVERYWHERE)
    def test_has_no_bound_and_is_mixed(self, name):
        inner = EVERYWHERE[name]
        network = seeded(lambda: Around(inner() if isinstance(inner, type) else inner))
        found = measure_receptive_field(network, 3, CPU)
        assert found.bound is None
        assert found.receptive_field().blend > 0
        assert found.receptive_field().margin >= found.receptive_field().blend

    def test_has_no_bound_beyond_the_longest_strip(self):
        network = seeded(lambda: nn.Sequential(*(convolution(3, 8, (3, 3)) for _ in range(80))))
        assert measure_receptive_field(network, 3, CPU).bound is None

    def test_has_no_bound_along_one_axis_alone(self):
        class Rows(nn.Module):
            def forward(self, features):
                return features.mean(dim=-2, keepdim=True)

        assert measure_receptive_field(seeded(lambda: Around(Rows())), 3, CPU).bound is None


class TestWithoutNaN:
    """A NaN does not spread, so the bound that it shows is too small."""

    @pytest.mark.parametrize("kernel", [(3, 1), (9, 1), (3, 7), (21, 1)])
    def test_the_margin_is_that_of_a_cut(self, kernel):
        network = seeded(lambda: Cleaned(stack(kernel)))
        found = measure_receptive_field(network, 3, CPU)
        assert found.bound is None or largest_error(network, found) < 5e-6

    def test_windows_too(self):
        network = seeded(lambda: Cleaned(Around(Windows(8))))
        found = measure_receptive_field(network, 3, CPU)
        assert found.bound is None or (found.period == 8 and largest_error(network, found) < 5e-6)

    def test_a_pooling_is_still_the_whole_picture(self):
        assert (
            measure_receptive_field(seeded(lambda: Cleaned(Around(ChannelAttention()))), 3, CPU).bound is None
        )


class TestLeaps:
    """A NaN that leaps over the strip's end, so that nothing is seen there."""

    @pytest.mark.parametrize(("dilation", "count"), [(24, 5), (30, 3), (48, 2), (70, 1), (100, 2)])
    def test_are_bounded_by_where_they_end_or_not_at_all(self, dilation, count):
        network = seeded(lambda: nn.Sequential(*(convolution(3, dilation, (3, 3)) for _ in range(count))))
        found = measure_receptive_field(network, 3, CPU)
        assert found.bound is None or found.margin >= dilation * count


class TestFarBounds:
    def test_wide_windows_hold_at_ends_that_cut_through_them(self):
        class Faint(nn.Module):
            def __init__(self):
                super().__init__()
                self.layers = nn.ModuleList(Around(Windows(32)) for _ in range(3))

            def forward(self, pictures):
                for layer in self.layers:
                    pictures = pictures + 0.1 * layer(pictures)
                return pictures

        network = seeded(Faint)
        found = measure_receptive_field(network, 3, CPU)
        assert (found.bound > CERTAIN, found.period) == (True, 32)
        assert largest_error(network, found, size=(437, 539), count=20) < 1e-6

    def test_a_deep_network_is_given_less_than_its_bound_and_equals_the_whole(self):
        class Deep(nn.Module):
            def __init__(self):
                super().__init__()
                self.layers = nn.ModuleList(convolution(channels=(3, 3)) for _ in range(90))

            def forward(self, pictures):
                for layer in self.layers:
                    pictures = pictures + 0.05 * layer(pictures).tanh()
                return pictures

        network = seeded(Deep)
        found = measure_receptive_field(network, 3, CPU)
        assert found.bound == 90 > CERTAIN
        assert 8 < found.margin < 60
        assert largest_error(network, found) < 5e-6

    def test_a_far_look_that_is_all_there_is_gets_the_whole_bound(self):
        # Nothing fades here: the farthest pixel counts as much as the nearest.
        network = seeded(lambda: nn.Sequential(*(convolution(3, 9, (3, 3)) for _ in range(9))))
        found = measure_receptive_field(network, 3, CPU)
        assert (found.bound, found.margin) == (81, 81)
        assert largest_error(network, found, size=(233, 401)) < 1e-6


class TestStrips:
    def test_are_the_same_every_time_whatever_the_global_generator_says(self):
        first = textured_picture(3, 32, 128, CPU)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(123)
            before = torch.get_rng_state()
            assert torch.equal(textured_picture(3, 32, 128, CPU), first)
            assert torch.equal(torch.get_rng_state(), before)

    def test_are_pictures_with_structure_of_every_size(self):
        picture = textured_picture(3, 37, 131, CPU)
        assert picture.shape == (1, 3, 37, 131)
        assert 0 <= float(picture.min()) < 0.2
        assert 0.8 < float(picture.max()) <= 1
        coarse = F.avg_pool2d(picture, 8)
        assert float(coarse.std()) > 0.05
        assert float((picture[..., :-1] - picture[..., 1:]).abs().mean()) > 0.05

    def test_a_measurement_gives_the_same_twice(self):
        network = seeded(lambda: stack((3, 2), (5, 1)))
        assert measure_receptive_field(network, 3, CPU) == measure_receptive_field(network, 3, CPU)
