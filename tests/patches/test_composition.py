"""Every combination of RAU-Net, MSW-MSA, Deep Shrink, ControlNet, FreeU and PAG,
laid on in an order drawn for each.
"""

from __future__ import annotations

import random
from itertools import combinations

import pytest
import torch
from comfy_extras.nodes_freelunch import FreeU_V2
from comfy_extras.nodes_pag import PerturbedAttentionGuidance
from megapixel.patches.deep_shrink import DeepShrink, apply_deep_shrink
from megapixel.patches.msw_msa import apply_msw_msa, original_preset
from megapixel.patches.rau_net import apply_rau_net
from megapixel.patches.rau_net_published import pairs_of
from megapixel.patches.rau_net_settings import RAUNet
from megapixel.patches.topology import topology_of

from devhost.sampling import sample
from devhost.tiny import random_models, topology

pytestmark = pytest.mark.slow

# Small, but large enough that the deepest features keep two pixels: FreeU divides by the span of their means.
SIZES = [(24, 32), (33, 21)]
STEPS = 2  # the first inside the windows of all effects, the last outside that of some


def rau_net(model):
    found = topology_of(model.get_model_object("diffusion_model"))
    pairs = pairs_of(found, found.downsamplers[:1], (4,))
    settings = RAUNet(
        **pairs, end_time=1.0, ca_end_time=0.4, ca_downscale_factor=1.2, ca_latent_pixel_increment=1
    )
    return apply_rau_net(model, settings)


def windows(model):
    return apply_msw_msa(model, original_preset(topology_of(model.get_model_object("diffusion_model")), 0.0))


EFFECTS = {
    "RAU-Net": rau_net,
    "MSW-MSA": windows,
    "Deep Shrink": lambda model: apply_deep_shrink(model, DeepShrink(2, 1.3)),
    "FreeU": lambda model: FreeU_V2.execute(model, 1.3, 1.4, 0.9, 0.2)[0],
    "PAG": lambda model: PerturbedAttentionGuidance.execute(model, 3.0)[0],
}
CONTROL = "ControlNet"
COMBINATIONS = [
    chosen for count in range(len(EFFECTS) + 2) for chosen in combinations([*EFFECTS, CONTROL], count)
]


def laid_on(model, chosen, number):
    """Return the model with the chosen effects, in an order drawn for this number."""
    order = [name for name in chosen if name != CONTROL]
    random.Random(number).shuffle(order)
    for name in order:
        model = EFFECTS[name](model)
    return model


class Bench:
    """One family's models and what they give by themselves."""

    def __init__(self, model, controlnet, with_control):
        self.model = model
        self.controlled = {size: with_control(model, controlnet, size) for size in SIZES}
        self.plain = {size: self.run(model, size, ()) for size in SIZES}

    def run(self, model, size, chosen):
        positive = self.controlled[size] if CONTROL in chosen else None
        return sample(model, size, steps=STEPS, positive=positive, seed=1)

    def check(self, number):
        chosen = COMBINATIONS[number]
        patched = laid_on(self.model, chosen, number)
        results = {size: self.run(patched, size, chosen) for size in SIZES}
        for size, first in results.items():
            assert first.shape == (1, 4, *size)
            assert first.isfinite().all()
            assert torch.equal(first, self.plain[size]) == (not chosen)
        if number // 8 % 2:  # again after a sampler at the other size, or another run of its own
            again = SIZES[number % 2]
            assert torch.equal(self.run(patched, again, chosen), results[again])


@pytest.fixture(scope="module")
def sd15_bench(short_sd15, with_control):
    return Bench(short_sd15, random_models.controlnet(topology.SD15 | topology.SHORT), with_control)


@pytest.fixture(scope="module")
def sdxl_bench(sdxl, with_control):
    return Bench(sdxl, random_models.controlnet(topology.SDXL | topology.SHALLOW), with_control)


def check(bench, numbers, caplog):
    for number in numbers:
        bench.check(number)
        assert "could not be applied" not in caplog.text, COMBINATIONS[number]
    assert torch.equal(bench.run(bench.model, SIZES[0], ()), bench.plain[SIZES[0]])


def test_there_are_sixty_four():
    assert len(set(COMBINATIONS)) == 64


@pytest.mark.parametrize("chunk", range(8))
def test_all_on_sd15(sd15_bench, caplog, chunk):
    check(sd15_bench, range(chunk, 64, 8), caplog)


@pytest.mark.parametrize("chunk", range(4))
def test_a_quarter_of_them_on_sdxl(sdxl_bench, caplog, chunk):
    drawn = [*random.Random(0).sample(range(1, 63), 15), 63]
    check(sdxl_bench, drawn[chunk::4], caplog)


@pytest.mark.parametrize("name", ["RAU-Net", "MSW-MSA", "Deep Shrink"])
def test_each_of_ours_acts_in_the_company_of_all_others(sd15_bench, name):
    """The picture of everything is not that of everything but one."""
    everything = sd15_bench.run(laid_on(sd15_bench.model, COMBINATIONS[63], 63), SIZES[1], (CONTROL,))
    others = tuple(each for each in COMBINATIONS[63] if each != name)
    without = sd15_bench.run(laid_on(sd15_bench.model, others, 63), SIZES[1], (CONTROL,))
    assert not torch.equal(everything, without)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_ours_give_the_same_picture_in_every_order_without_deep_shrink(sd15, size):
    a, b = (sample(windows(rau_net(sd15)), size), sample(rau_net(windows(sd15)), size))
    assert torch.equal(a, b)


def test_weights_that_the_host_casts_at_every_use(sd15_bench):
    """With little memory the weights stay where they are, and each layer fetches its own when it runs."""
    model = random_models.sd15(**topology.SHORT)
    sample(model, SIZES[0], steps=1, cfg=1.0)  # loads it
    unet = model.get_model_object("diffusion_model")
    cast = [
        layer for layer in unet.modules() if hasattr(layer, "comfy_cast_weights") and layer.weight is not None
    ]
    assert len(cast) > 100
    for layer in cast:  # what lies in the layer is not what it uses: whoever reads it directly is found out
        with torch.no_grad():
            layer.weight.mul_(0.5)
        layer.comfy_cast_weights = True
        layer.weight_function = [lambda weight: weight * 2]
    for number in (63, COMBINATIONS.index(("RAU-Net", "MSW-MSA", CONTROL))):
        chosen = COMBINATIONS[number]
        result = sd15_bench.run(laid_on(model, chosen, number), SIZES[1], chosen)
        expected = sd15_bench.run(laid_on(sd15_bench.model, chosen, number), SIZES[1], chosen)
        assert all(layer.weight_function for layer in cast)
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())
