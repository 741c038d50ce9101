"""Networks in two parts: a deep trunk at the input's size and a shallow tail at the
result's (RRDB: ESRGAN and similar).

The trunk has nearly all layers and nearly all of the receptive field, the tail uses nearly all memory. Run
separately, the trunk processes the image in one piece, so nothing is computed twice there, and the tail is
tiled with a margin of two pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_unshuffle

from ..record import record


@record
class TwoParts:
    """A network as `tail(trunk(pixel_unshuffle(picture, shuffle)))`.

    The trunk gives `features` channels, the tail enlarges width and height by `scale`.
    """

    trunk: nn.Sequential
    tail: nn.Sequential
    shuffle: int
    features: int
    scale: int


def split_network(network: nn.Module, channels: int) -> TwoParts | None:
    """Return the two parts of a network that takes `channels`, or None if it has no such parts.

    Only a chain of layers can be split; a test run checks that the parts give the network's own result.
    """
    chain = getattr(network, "model", None)
    if not isinstance(chain, nn.Sequential) or len(chain) < 3:
        return None
    shuffle = int(getattr(network, "shuffle_factor", None) or 1)
    first = next(iter(network.parameters()))
    with torch.inference_mode():
        probe = torch.linspace(0, 1, channels * 64).reshape(1, channels, 8, 8).to(first)
        unshuffled = pixel_unshuffle(probe, shuffle)
        grows = _first_growing(chain, unshuffled)
        if grows is None:
            return None
        at, features, scale = grows
        layers = list(chain)
        trunk, tail = nn.Sequential(*layers[:at]), nn.Sequential(*layers[at:])
        parts = TwoParts(trunk, tail, shuffle, features, scale)
        same = torch.equal(parts.tail(parts.trunk(unshuffled)), network(probe))
    return parts if same else None


def _first_growing(chain: nn.Sequential, features: Tensor) -> tuple[int, int, int] | None:
    """Return the index of the first layer that enlarges the image, the channels before it,
    and the whole scale.
    """
    found, side = None, features.shape[-1]
    for at, layer in enumerate(chain):
        grown = layer(features)
        if found is None and grown.shape[-1] > side:
            found = at, features.shape[1]
        features = grown
    return None if found is None else (*found, features.shape[-1] // side)
