"""Networks that add the enlarged image to their result (Compact): added before the pixel shuffle instead.

Their last layer gives `scale**2` channels for each colour, which a pixel shuffle spreads to the pixels of a
square, and in nearest upsampling all of these have one value. So the image itself is added to each of these
channels: the same sums, without an enlarged copy of it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

PROBE = (7, 9)  # height and width of the image of the test run


class AddsBeforeShuffle(nn.Module):
    """The layers of such a network, with the sum before the pixel shuffle."""

    def __init__(self, body: nn.ModuleList, upsampler: nn.PixelShuffle) -> None:
        super().__init__()
        self.body, self.upsampler = body, upsampler

    def forward(self, pictures: Tensor) -> Tensor:
        """Enlarge (B, C, H, W)."""
        features = pictures
        for layer in self.body:
            features = layer(features)
        of_colours = features.unflatten(1, (-1, self.upsampler.upscale_factor**2))  # pyright: ignore[reportUnknownMemberType]
        of_colours.add_(pictures.unsqueeze(2))
        return self.upsampler(features)


def added_before_shuffle(network: nn.Module, channels: int) -> nn.Module:
    """Return a network that takes `channels` with its sum before the pixel shuffle, and the same layers;
    the network itself if it is another one, or somebody watches it with hooks.

    A test run checks that the result is the network's own.
    """
    body, upsampler = getattr(network, "body", None), getattr(network, "upsampler", None)
    if not isinstance(body, nn.ModuleList) or not isinstance(upsampler, nn.PixelShuffle):
        return network
    if list(network.children()) != [body, upsampler] or not _is_chain(list(body)) or _has_hooks(network):
        return network
    if body[-1].out_channels != channels * upsampler.upscale_factor**2:
        return network
    before = AddsBeforeShuffle(body, upsampler).train(network.training)
    first = next(network.parameters())
    probe = torch.linspace(0, 1, channels * math.prod(PROBE)).reshape(1, channels, *PROBE).to(first)
    with torch.inference_mode():
        same = torch.equal(before(probe), network(probe))
    return before if same else network


def _is_chain(layers: list[nn.Module]) -> bool:
    """Return whether these are convolutions and activations, a convolution first and last: what the chain is
    given stays as it is, and its result may be changed.
    """
    kinds = nn.Conv2d, nn.PReLU, nn.ReLU, nn.LeakyReLU
    ends = layers[:1] + layers[-1:]
    return (
        bool(ends)
        and all(isinstance(layer, kinds) for layer in layers)
        and all(isinstance(layer, nn.Conv2d) for layer in ends)
    )


def _has_hooks(network: nn.Module) -> bool:
    parts: list[Any] = list(network.modules())  # torch has no public way to ask
    return any(part._forward_hooks or part._forward_pre_hooks for part in parts)
