"""Networks that add the enlarged image to their result (Compact): added before the pixel shuffle instead.

Their last layer gives `scale**2` channels for each colour, which a pixel shuffle spreads to the pixels of a
square, and in nearest upsampling all of these have one value. So the image itself is added to each of these
channels: the same sums, without an enlarged copy of it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .random_state import seeded

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
    the network itself if it is another one.

    A test run checks that the result is the network's own.
    """
    body, upsampler = getattr(network, "body", None), getattr(network, "upsampler", None)
    if not isinstance(body, nn.ModuleList) or not isinstance(upsampler, nn.PixelShuffle):
        return network
    if list(network.children()) != [body, upsampler] or len(body) == 0:
        return network
    last = body[-1]  # its result is changed in place, so it must be its own
    if not isinstance(last, nn.Conv2d) or last.out_channels != channels * upsampler.upscale_factor**2:
        return network
    before = AddsBeforeShuffle(body, upsampler).train(network.training)
    probe = torch.linspace(0, 1, channels * math.prod(PROBE)).reshape(1, channels, *PROBE).to(last.weight)
    with torch.inference_mode():
        with seeded(0):
            expected = network(probe.clone())  # some write into what they are given
        with seeded(0):
            same = torch.equal(before(probe), expected)
    return before if same else network
