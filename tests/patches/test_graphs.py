"""How many graphs `torch.compile` makes of a model with effects: no more than without them and one for each size
that the features have, none in a second run, no breaks.

bench/graphs.py counts more effects at more sizes, on models with more blocks.
"""

from __future__ import annotations

import pytest
import torch
from megapixel.patches.deep_shrink import DeepShrink, apply_deep_shrink
from megapixel.patches.hidiffusion import HiDiffusion, apply_hidiffusion
from torch._dynamo.utils import counters

from devhost.sampling import sample
from devhost.tiny import random_models, topology

SIZES = (24, 32), (26, 36)
OF_PLAIN = 2  # graphs without effects: one for the first size, one for all others


def shrunk(model):
    return apply_deep_shrink(model, DeepShrink(2))


def shrunk_in_windows(model):
    return apply_hidiffusion(model, HiDiffusion(trained_size=128))


# In two steps features are shrunk, then full.
@pytest.mark.parametrize(("effect", "layers", "steps"), [(shrunk, 0, 2), (shrunk_in_windows, 1, 1)])
def test_each_size_of_the_features_makes_one_graph_at_most(compiled, effect, layers, steps):
    plain = random_models.sd15(**topology.SMALLEST | {"transformer_depth": [layers]})
    model = effect(plain)
    ours, backend = compiled(model)
    counters.clear()
    graphs, result = [], torch.empty(0)
    for seed in range(2):
        for size in SIZES:
            result = sample(ours, size, steps=steps, cfg=1.0, seed=seed)
        graphs.append(backend.graphs)
    assert graphs[0] <= OF_PLAIN + steps * len(SIZES)
    assert graphs[1] == graphs[0]
    assert not counters["graph_break"]
    expected = sample(model, SIZES[-1], steps=steps, cfg=1.0, seed=1)
    assert (result - expected).norm() < 1e-5 * expected.norm()
    assert not torch.equal(expected, sample(plain, SIZES[-1], steps=steps, cfg=1.0, seed=1))
