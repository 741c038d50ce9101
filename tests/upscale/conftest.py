"""Small real networks for upscaling, as spandrel loads them."""

from __future__ import annotations

import pytest
import torch
from spandrel import ModelLoader
from spandrel.architectures.Compact import Compact

from devhost.tiny.random_models import random_state


def build_compact(scale=4, features=16, convs=4, channels=3, seed=0, residual=0.1):
    """Return spandrel's descriptor of a Compact of `convs` convolutions, which look one pixel further each.

    What it adds to the picture is scaled to about `residual`: for pictures in 0.3 to 0.7 the result stays
    inside (0, 1), where clamping hides nothing.
    """
    with torch.random.fork_rng(devices=[]):
        form = Compact(
            num_in_ch=channels, num_out_ch=channels, num_feat=features, num_conv=convs - 2, upscale=scale
        )
        weights = random_state(form, seed)
        for name, weight in weights.items():
            if name.endswith("weight") and weight.dim() == 1:
                weight.fill_(0.2)  # of the PReLUs: at 1 the network would be linear
        last = max(
            (name for name in weights if name.endswith("weight")), key=lambda name: int(name.split(".")[1])
        )
        weights[last] *= residual
        descriptor = ModelLoader().load_from_state_dict(weights)
    descriptor.model.eval().requires_grad_(False)
    return descriptor


@pytest.fixture(scope="session")
def compact():
    """A function that builds a small Compact; see `build_compact`."""
    return build_compact


@pytest.fixture(scope="session")
def picture(draw):
    """A function (*shape, seed=0) that draws a picture from 0.3 to 0.7."""
    return lambda *shape, seed=0: 0.3 + 0.4 * draw(*shape, seed=seed)
