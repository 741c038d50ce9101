"""Compact with its sum before the pixel shuffle: the same bits, and only for networks that are one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from megapixel.upscale.compact import AddsBeforeShuffle, added_before_shuffle
from megapixel.upscale.network import Network
from megapixel.upscale.tensor_format import TensorFormat, copy_descriptor
from megapixel.upscale.upscaler import Hooks, Options, upscale_pictures
from spandrel.architectures.Compact import Compact
from torch import nn

from devhost.tiny.random_upscalers import pictures, random_upscaler

CPU = torch.device("cpu")
SIZES = [(1, 13, 22), (2, 17, 9), (1, 1, 5)]


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.inference_mode():
        yield


def compact(scale=4, channels=3, act_type="prelu", network=Compact):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return network(
            num_in_ch=channels, num_out_ch=channels, num_feat=8, num_conv=2, upscale=scale, act_type=act_type
        ).eval()


class TestTheBits:
    @pytest.mark.parametrize("scale", [1, 2, 3, 4])
    @pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_are_those_of_the_network_itself(self, scale, memory_format, dtype):
        network = compact(scale).to(dtype).to(memory_format=memory_format)
        before = added_before_shuffle(network, 3)
        assert isinstance(before, AddsBeforeShuffle)
        for batch, height, width in SIZES:
            picture = pictures(batch, 3, height, width).to(dtype).contiguous(memory_format=memory_format)
            kept = picture.clone()
            enlarged, expected = before(picture), network(picture)
            assert torch.equal(enlarged, expected)
            assert enlarged.stride() == expected.stride()
            assert torch.equal(picture, kept)

    @pytest.mark.parametrize("act_type", ["relu", "prelu", "leakyrelu"])
    @pytest.mark.parametrize("channels", [1, 3, 4])
    def test_for_every_activation_and_number_of_channels(self, act_type, channels):
        network = compact(2, channels, act_type)
        before = added_before_shuffle(network, channels)
        assert isinstance(before, AddsBeforeShuffle)
        picture = pictures(2, channels, 13, 22)
        assert torch.equal(before(picture), network(picture))

    def test_contain_the_picture(self):
        network = compact()
        last = network.body[-1]
        last.weight.zero_()
        last.bias.zero_()
        picture = pictures(1, 3, 13, 22)
        assert torch.equal(added_before_shuffle(network, 3)(picture), F.interpolate(picture, scale_factor=4))


class Louder(Compact):
    def forward(self, x):
        return super().forward(x) * 1.001


class Alone(Compact):
    """The enlarged picture is not added."""

    def forward(self, x):
        for layer in self.body:
            x = layer(x)
        return self.upsampler(x)


class More(Compact):
    """One layer more, which the test run does not see."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.last = nn.Identity()


class TestOtherNetworks:
    @pytest.mark.parametrize("network", [Louder, Alone, More])
    def test_stay_as_they_are(self, network):
        other = compact(network=network)
        assert added_before_shuffle(other, 3) is other

    @pytest.mark.parametrize("part", ["", "body.2", "upsampler"])
    def test_with_hooks_stay_as_they_are_and_are_not_run(self, part):
        other, seen = compact(), []
        other.get_submodule(part).register_forward_hook(lambda *_: seen.append(1))
        assert added_before_shuffle(other, 3) is other
        assert seen == []

    @pytest.mark.parametrize("at", [0, 2, -1])
    def test_with_other_layers_stay_as_they_are(self, at):
        other = compact(1)
        other.body[at] = nn.Identity()
        assert added_before_shuffle(other, 3) is other

    def test_with_other_channels_stay_as_they_are(self):
        grey = compact(2, channels=1)
        grey.body[-1] = nn.Conv2d(8, 3 * 4, 3, padding=1, device="meta")
        assert added_before_shuffle(grey, 1) is grey

    @pytest.mark.parametrize("name", ["SPAN 48", "ESRGAN 32x2", "PLKSR 4"])
    def test_of_other_architectures_stay_as_they_are(self, name):
        descriptor = random_upscaler(name, centred=False)
        assert added_before_shuffle(descriptor.model, 3) is descriptor.model


class TestInTheLoop:
    @pytest.mark.parametrize("tensor_format", [TensorFormat(), TensorFormat(torch.bfloat16, True)])
    def test_every_copy_adds_before_and_the_original_does_not(self, tensor_format):
        descriptor = random_upscaler("Compact 16x4")
        model, state = descriptor.model, torch.get_rng_state()
        copied = copy_descriptor(descriptor, tensor_format)
        assert isinstance(copied.model, AddsBeforeShuffle)
        assert descriptor.model is model
        assert isinstance(model, Compact)
        assert copied.model.state_dict().keys() == model.state_dict().keys()
        assert not {weight.data_ptr() for weight in copied.model.parameters()} & {
            weight.data_ptr() for weight in model.parameters()
        }
        assert torch.equal(torch.get_rng_state(), state)

    def test_several_workers_give_the_bits_of_the_network_itself(self):
        descriptor, picture = random_upscaler("Compact 16x4"), pictures(2, 3, 145, 170)
        network = Network(descriptor, [CPU, CPU], lambda model, device: None)
        assert all(isinstance(module, AddsBeforeShuffle) for module in network.modules)
        for tile in (0, 160):
            enlarged = upscale_pictures(picture, network, Options(tile=tile), Hooks(lambda: 1e15))
            assert float((enlarged - descriptor(picture)).abs().max()) <= (0 if tile == 0 else 1e-6)

    def test_the_networks_own_forward_is_not_called(self, monkeypatch):
        descriptor = random_upscaler("Compact 16x4")
        network = Network(descriptor, [CPU], lambda model, device: None)
        network.stages[0].receptive_field()  # needs another copy, whose test run calls it
        monkeypatch.delattr(Compact, "forward")
        upscale_pictures(pictures(1, 3, 45, 70), network, Options(tile=32), Hooks(lambda: 1e15))
