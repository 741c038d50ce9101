"""Networks in two parts: which they are, that the parts are the whole,
and that the trunk is computed once.
"""

from __future__ import annotations

import pytest
import torch
from megapixel.upscale.network import Network
from megapixel.upscale.receptive_field import measure_receptive_field
from megapixel.upscale.trunk import split_network
from megapixel.upscale.upscaler import Hooks, Options, upscale_pictures
from spandrel import ModelLoader
from spandrel.architectures.ESRGAN import ESRGAN
from torch import nn
from torch.nn.functional import pixel_unshuffle

from devhost.tiny.random_upscalers import NAMES, pictures, random_upscaler

CPU = torch.device("cpu")
PLENTY = 1e15
SMALL = {"num_filters": 8, "num_blocks": 1}
KINDS = {  # settings, pixels of a side that the tail makes of one
    "4x": ({}, 4),
    "2x": ({"scale": 2}, 2),
    "8x": ({"scale": 8}, 8),
    "3x": ({"scale": 3}, 3),
    "4x by pixel shuffles": ({"upsampler": "pixel_shuffle"}, 4),
    "3x by a pixel shuffle": ({"scale": 3, "upsampler": "pixel_shuffle"}, 3),
    "2x of shuffled pixels": ({"in_nc": 12, "shuffle_factor": 2}, 4),
    "1x of shuffled pixels": ({"in_nc": 48, "shuffle_factor": 4}, 4),
}


def esrgan(kind):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ESRGAN(**SMALL, **KINDS[kind][0]).eval().requires_grad_(False)


def loaded(kind):
    """Return spandrel's descriptor of the network, with results inside (0, 1)."""
    network = esrgan(kind)
    with torch.random.fork_rng(devices=[]):
        descriptor = ModelLoader().load_from_state_dict(network.state_dict())
    last = descriptor.model.model[-1]
    last.weight.mul_(0.1 / float(descriptor.model(pictures(1, 3, 32, 32)).std()))
    last.bias.fill_(0.5)
    return descriptor.eval()


def load(descriptor, device):
    descriptor.model.to(device)


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1, 12, 20), (2, 28, 16)])
def test_the_parts_are_the_whole_bit_for_bit(kind, size):
    network = esrgan(kind)
    parts = split_network(network, 3)
    assert parts.scale == KINDS[kind][1]
    batch, height, width = size
    picture = pictures(batch, 3, height, width)
    unshuffled = pixel_unshuffle(picture, parts.shuffle)
    features = parts.trunk(unshuffled)
    assert features.shape == (batch, parts.features, *unshuffled.shape[-2:])
    assert torch.equal(parts.tail(features), network(picture))


@pytest.mark.parametrize("kind", KINDS)
def test_the_trunk_goes_on_to_the_first_layer_that_grows_the_picture(kind):
    def grow(part):
        return [isinstance(layer, (nn.Upsample, nn.PixelShuffle)) for layer in part.modules()]

    parts = split_network(esrgan(kind), 3)
    assert not any(grow(parts.trunk))
    assert any(grow(parts.tail[0]))


@pytest.mark.parametrize("kind", KINDS)
def test_the_tail_looks_at_most_four_pixels_far(kind):
    parts = split_network(esrgan(kind), 3)
    found = measure_receptive_field(parts.tail, parts.features, CPU)
    assert found.margin <= 4
    assert found.period == 1


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("ESRGAN 64x6", "ESRGAN 64x23")])
def test_only_esrgan_has_parts(name):
    descriptor = random_upscaler(name, centred=False)
    parts = split_network(descriptor.model, descriptor.input_channels)
    assert (parts is not None) == name.startswith("ESRGAN")


def test_a_network_whose_parts_are_not_the_whole_has_none():
    class More(nn.Module):
        def __init__(self, chain):
            super().__init__()
            self.model = chain

        def forward(self, pictures):
            return self.model(pictures) * 1.001

    with torch.random.fork_rng(devices=[]):
        chain = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Upsample(scale_factor=2), nn.Conv2d(4, 3, 1))
    assert split_network(More(chain), 3) is None


def test_a_chain_that_grows_nothing_has_no_parts():
    class Chain(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=1) for _ in range(4)))

        def forward(self, pictures):
            return self.model(pictures)

    with torch.random.fork_rng(devices=[]):
        assert split_network(Chain(), 3) is None


class TestTheWork:
    def computed(self, free):
        """Return the pixels that the first trunk layer and the first tail layer saw, for one of 75 by 107."""
        descriptor = loaded("4x")
        network = Network(descriptor, [CPU], load)
        seen = {"trunk": 0, "tail": 0}
        parts = split_network(network.modules[0], 3)
        for name, part in (("trunk", parts.trunk), ("tail", parts.tail)):

            def count(module, given, name=name):
                seen[name] += given[0].shape[0] * given[0].shape[-2] * given[0].shape[-1]

            part[0].register_forward_pre_hook(count)
        for stage in network.stages:
            stage.receptive_field()  # measured before it is counted
        seen.update(trunk=0, tail=0)
        picture = pictures(1, 3, 75, 107)
        enlarged = upscale_pictures(picture, network, Options(tile=48), Hooks(lambda: free))
        assert float((enlarged - descriptor(picture)).abs().max()) <= 1e-6
        return seen["trunk"] / (75 * 107), seen["tail"] / (75 * 107)

    def test_the_trunk_sees_every_pixel_once_and_the_tail_few_twice(self):
        trunk, tail = self.computed(PLENTY)
        assert trunk == 1
        assert 1 < tail < 1.2

    def test_the_trunk_is_tiled_where_the_memory_is_small(self):
        trunk, tail = self.computed(1e6)
        assert trunk > 1.5
        assert 1 < tail < 1.2

    def test_its_shares_are_about_the_multiplications(self):
        descriptor = random_upscaler("ESRGAN 32x2")
        counted = {"trunk": 0, "tail": 0}
        parts = split_network(descriptor.model, 3)
        for name, part in (("trunk", parts.trunk), ("tail", parts.tail)):
            for layer in part.modules():
                if isinstance(layer, nn.Conv2d):

                    def count(layer, given, result, name=name):
                        counted[name] += layer.weight.numel() * result.shape[-2] * result.shape[-1]

                    layer.register_forward_hook(count)
        descriptor(pictures(1, 3, 16, 24))
        share = counted["trunk"] / sum(counted.values())
        shares = Network(descriptor, [CPU], load).work_shares
        assert shares[0] == pytest.approx(share, abs=0.1)
        assert sum(shares) == pytest.approx(1)


@pytest.mark.parametrize("kind", ["2x of shuffled pixels", "1x of shuffled pixels", "2x", "8x"])
@pytest.mark.parametrize("size", [(41, 67), (42, 63), (40, 65), (44, 68), (5, 3)])
def test_odd_sizes_equal_the_untiled_call_to_the_mirrored_border(kind, size):
    descriptor = loaded(kind)
    picture = pictures(1, 3, *size)
    whole = descriptor(picture.clone())
    assert 0 < float(whole.min()) < float(whole.max()) < 1
    network = Network(descriptor, [CPU], load, store=STORES.setdefault(kind, {}))
    enlarged = upscale_pictures(picture, network, Options(tile=32), Hooks(lambda: PLENTY))
    assert enlarged.shape == whole.shape
    assert float((enlarged - whole).abs().max()) <= 1e-6


STORES: dict[str, dict] = {}  # what was measured of each kind
