"""Compiled effects: how many graphs a whole model takes over two runs at five sizes, beside the same model without them."""

from __future__ import annotations

import pytest
import torch
from megapixel.attention.instant_id import FaceKeys
from megapixel.patches.deep_shrink import DeepShrink, apply_deep_shrink
from megapixel.patches.hidiffusion import HiDiffusion, apply_hidiffusion
from megapixel.patches.instant_id import Person, apply_instant_id, cross_attentions
from megapixel.patches.rau_net import apply_rau_net
from megapixel.patches.rau_net_settings import RAUNet
from torch._dynamo.utils import counters

from devhost.sampling import sample
from devhost.tiny import random_models

SIZES = (
    (20, 26),
    (24, 20),
    (28, 22),
    (16, 30),
    (32, 24),
)  # all above the trained size, and no side like another
SIGMAS = torch.tensor([14.0, 2.0, 0.0])
TRAINED = 64


def with_faces(model):
    """Put two random faces on a model, one in a mask and only in the first step."""
    widths = tuple(cross_attentions(model.get_model_object("diffusion_model")).values())
    for seed, settings in enumerate(({}, {"mask": torch.linspace(0, 1, 64).repeat(1, 64, 1), "end_at": 0.3})):
        keys = torch.randn(2, 2, 4, sum(widths), generator=torch.Generator().manual_seed(seed))
        model = apply_instant_id(model, Person(FaceKeys(keys, widths), 0.8, **settings))
    return model


EFFECTS = {  # MSW-MSA is in both HiDiffusions, with windows of the trained size and two by two
    "Deep Shrink": lambda model: apply_deep_shrink(model, DeepShrink(block_number=1)),
    "RAU-Net": lambda model: apply_rau_net(
        model, RAUNet((2,), (1,), end_time=0.4, ca_end_time=0.4, ca_input_blocks=(3,), ca_output_blocks=())
    ),
    "HiDiffusion": lambda model: apply_hidiffusion(model, HiDiffusion(trained_size=TRAINED)),
    "HiDiffusion published": lambda model: apply_hidiffusion(
        model, HiDiffusion(mode="published", trained_size=TRAINED)
    ),
    "InstantID": with_faces,
}


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shallow():
    """A tiny SD 1.5 of two levels: input blocks 1 and 3 and all output blocks with attention, a Downsample in block 2."""
    return random_models.sd15(
        num_res_blocks=[1, 1],
        channel_mult=(1, 2),
        transformer_depth=[1, 1],
        transformer_depth_output=[1, 1, 1, 1],
    )


@pytest.fixture
def graphs(compiled):
    """A function (model) that returns the number of its graphs over two runs at five sizes."""

    def count(model):
        counters.clear()
        ours, backend = compiled(model)
        with torch._dynamo.config.patch(recompile_limit=64):  # else the count would end at 8
            for seed in range(2):
                for size in SIZES:
                    result = sample(ours, size, sigmas=SIGMAS, cfg=1.0, seed=seed)
        expected = sample(model, SIZES[-1], sigmas=SIGMAS, cfg=1.0, seed=1)
        assert (result - expected).norm() < 1e-5 * expected.norm()
        assert not counters["graph_break"]
        return backend.graphs

    return count


PLAIN = 3  # one for the first size, one for any, one for the other side that is the longer one


@pytest.mark.parametrize("effect", ["nothing", *EFFECTS])
def test_at_most_one_graph_more_for_each_size(shallow, graphs, effect):
    if effect == "nothing":
        assert graphs(shallow) == PLAIN
    else:
        model = EFFECTS[effect](shallow)
        assert not torch.equal(*(sample(each, SIZES[0], sigmas=SIGMAS, cfg=1.0) for each in (model, shallow)))
        assert graphs(model) <= PLAIN + len(SIZES)


def by_size(features, options):
    """Decide by every number, one graph for each."""
    return features * (1 + int(features.shape[-1]) * 1e-3) if features.shape[-1] in range(64) else features


def reading(features, options):
    """Take a number out of a tensor, which breaks the graph."""
    return features * features.mean().item()


@pytest.mark.parametrize("patch", [by_size, reading])
def test_the_count_sees_what_is_traced_anew_and_what_breaks(shallow, graphs, patch):
    clone = shallow.clone()
    clone.set_model_input_block_patch(patch)
    with pytest.raises(AssertionError):
        assert graphs(clone) <= PLAIN
