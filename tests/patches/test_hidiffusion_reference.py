"""RAU-Net and MSW-MSA as published, against the method written out slowly in `hidiffusion_reference`."""

from __future__ import annotations

import comfy.model_base
import comfy.sample
import comfy.samplers
import comfy.supported_models
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from megapixel.patches.msw_msa import WindowPlan, apply_msw_msa, original_preset
from megapixel.patches.rau_net import apply_rau_net
from megapixel.patches.rau_net_effect import RescalePlan
from megapixel.patches.rau_net_published import Published
from megapixel.patches.topology import topology_of
from megapixel.patches.wrapper import planned
from megapixel.scaling.rau_net import LARGE_SIDE

from devhost.tiny import random_models, topology
from devhost.tiny.unet import build_unet

from . import hidiffusion_reference as reference

FAMILIES = ("sd15", "sd21", "sdxl")
STEPS = (4, 8, 20, 30, 50)
TOLERANCE = 1e-5

# Aspect ratios 1:1, 4:3, 3:4, 2:1, and about 9:16 with odd width and height. SDXL has its attention one level
# deeper, so its sizes are those at which pooled features still have windows that shift.
SIZES = {
    "sd15": [(24, 24), (20, 15), (18, 24), (32, 16), (17, 29)],
    "sd21": [(16, 16), (24, 18), (15, 20), (28, 14), (19, 33)],
    "sdxl": [(36, 36), (40, 30), (30, 40), (48, 24), (33, 59)],
}
CELLS = [(family, size) for family in FAMILIES for size in SIZES[family]]

# The real classes begin at 256 and 512 latent pixels, too large for a CPU. Both entries of the table ("sd" and
# "sdxl") are lowered, and the reference gets the same number.
SMALL, LARGE = 10_000, 8


@pytest.fixture(params=[SMALL, LARGE], ids=["small class", "large class"])
def large_side(request, monkeypatch):
    for kind in ("sd", "sdxl"):
        monkeypatch.setitem(LARGE_SIDE, kind, request.param)
    return request.param


class VPredictionSD20(comfy.supported_models.SD20):
    """SD 2.1 at 768 pixels. The host tells it from 2.0 by trained weights,
    which a tiny model does not have.
    """

    def model_type(self, state_dict, prefix=""):
        return comfy.model_base.ModelType.V_PREDICTION


@pytest.fixture(scope="module")
def models(sd15, sdxl):
    sd21 = topology.SD15 | {
        "use_linear_in_transformer": True,
        "context_dim": 1024,
        "num_heads": -1,
        "num_head_channels": 16,
    }
    return {
        "sd15": sd15,
        "sd21": build_unet(VPredictionSD20, sd21, lambda net: random_models.random_state(net, 0)),
        "sdxl": sdxl,
    }


def with_windows(model):
    unet = model.get_model_object("diffusion_model")
    return apply_msw_msa(model, original_preset(topology_of(unet), start=0.0))


def patched(model, effects):
    if "rau" in effects:
        model = apply_rau_net(model, Published())
    return with_windows(model) if "msw" in effects else model


class Visit:
    """One call of the UNet: what went in, what came out, and what the effects had planned for it."""

    def __init__(self, executor, x, timesteps, context, y, control, *rest, run_unet=True):
        self.inputs = x, timesteps, context, y
        self.rescaling = planned("rau_net", x)
        self.windows = planned("msw_msa", x)
        self.output = executor(x, timesteps, context, y, control, *rest) if run_unet else x

    @property
    def pairs(self):
        """Whether the dilated pair and the pooled pair are planned."""
        plan = self.rescaling
        return (bool(plan.dilated), bool(plan.pooled)) if isinstance(plan, RescalePlan) else (False, False)

    @property
    def quarters(self):
        """How far each layer's windows are moved. The method draws it, so the reference has to be told."""
        if not isinstance(self.windows, WindowPlan):
            return None
        return {layer: self.windows.quarters[number] for layer, number in self.windows.numbers.items()}


def visit(model, size, steps, visited, batch=1, run_unet=True):
    """Call the model at the noise levels of the `visited` steps of a run of `steps`,
    through the host's sampling.
    """
    visits = []

    def record(executor, *args):
        visits.append(Visit(executor, *args, run_unet=run_unet))
        return visits[-1].output

    def visiting_sampler(model, x, sigmas, extra_args, **_):
        ones = x.new_ones(x.shape[0])
        for step in visited:
            model(x * (sigmas[step] / sigmas[0]), sigmas[step] * ones, **extra_args)
        return x

    recorded = model.clone()
    recorded.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "record", record)
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", steps)
    assert len(sigmas) == steps + 1
    noise = torch.randn(batch, 4, *size, generator=torch.Generator().manual_seed(steps))
    conditioning = random_models.conditioning(model, 1)
    with torch.inference_mode():
        comfy.sample.sample_custom(
            recorded, noise, 1.0, comfy.samplers.KSAMPLER(visiting_sampler), sigmas, conditioning, conditioning,
            torch.zeros_like(noise), disable_pbar=True, seed=size[0],
        )  # fmt: skip
    assert len(visits) == len(visited)
    return visits


def reference_output(model, family, seen, **changes):
    unet = model.get_model_object("diffusion_model")
    with torch.inference_mode():
        return reference.unet_output(unet, family, *seen.inputs, **changes)


def difference(result, expected):
    assert result.shape == expected.shape
    return ((result - expected).abs().max() / expected.abs().max()).item()


def changes_of_phase(family, size, steps, large_side):
    """Return the first and the last step of a run, and those on both sides of each change between them."""
    states = [reference.pairs_on(family, size, step, steps, large_side) for step in range(steps)]
    chosen = {0, steps - 1}
    for step in range(1, steps):
        if states[step] != states[step - 1]:
            chosen |= {step - 1, step}
    return sorted(chosen)


def check(models, family, size, steps, visited, large_side, effects=("rau", "msw"), batch=1):
    model = models[family]
    visits = visit(patched(model, effects), size, steps, visited, batch)
    for step, seen in zip(visited, visits, strict=True):
        dilated, pooled = reference.pairs_on(family, size, step, steps, large_side)
        on = {"dilated": dilated, "pooled": pooled} if "rau" in effects else {}
        expected = reference_output(model, family, seen, **on, quarters=seen.quarters)
        assert difference(seen.output, expected) < TOLERANCE, (step, on, seen.quarters)


class TestTheReferenceItself:
    @pytest.mark.parametrize(("family", "size"), CELLS)
    def test_without_the_method_it_is_the_plain_unet(self, models, family, size):
        [seen] = visit(models[family], size, 4, [1], batch=2)
        assert difference(seen.output, reference_output(models[family], family, seen)) < 2e-6

    @pytest.mark.parametrize("size", [(8, 12), (10, 6), (16, 16)])
    @pytest.mark.parametrize("quarter", range(4))
    def test_at_even_sizes_its_mask_is_its_published_form(self, draw, size, quarter):
        q, k, v = draw(3, 2, size[0] * size[1], 6).unbind()
        masked = reference.dense_attention(q, k, v, 2, reference.window_mask(size, quarter))
        published = reference.published_windows(q, k, v, 2, size, quarter)
        assert difference(masked, published) < TOLERANCE

    @pytest.mark.parametrize("family", FAMILIES)
    def test_any_single_deviation_from_the_method_shows(self, models, family):
        """Each comparison below would fail if one pair or one layer's windows were not as they should be."""
        for size in SIZES[family][:1] + SIZES[family][-1:]:
            [seen] = visit(patched(models[family], ("msw",)), size, 8, [1])
            right = reference_output(models[family], family, seen, quarters=seen.quarters)
            for layer, quarter in seen.quarters.items():
                for other in (None, (quarter + 1) % 4):
                    wrong = reference_output(
                        models[family], family, seen, quarters=seen.quarters | {layer: other}
                    )
                    assert difference(wrong, right) > 20 * TOLERANCE, (size, layer, other)
            for pairs in ({"dilated": True}, {"pooled": True}, {"dilated": True, "pooled": True}):
                wrong = reference_output(models[family], family, seen, quarters=seen.quarters, **pairs)
                assert difference(wrong, right) > 20 * TOLERANCE


@pytest.mark.parametrize(("family", "size"), CELLS)
def test_both_effects_equal_the_reference_at_every_size(models, family, size, large_side):
    at_every_step = size == SIZES[family][0]
    visited = range(8) if at_every_step else changes_of_phase(family, size, 8, large_side)
    check(models, family, size, 8, visited, large_side)


@pytest.mark.parametrize("steps", [4, 20, 30, 50])
@pytest.mark.parametrize("family", FAMILIES)
def test_both_effects_equal_it_around_every_change_of_phase(models, family, steps, large_side):
    size = SIZES[family][1 + (4, 20, 30, 50).index(steps)]
    check(models, family, size, steps, changes_of_phase(family, size, steps, large_side), large_side)


@pytest.mark.parametrize("effect", ["rau", "msw"])
@pytest.mark.parametrize("family", FAMILIES)
def test_each_effect_alone_equals_it(models, family, effect, large_side):
    size = SIZES[family][-1]
    visited = changes_of_phase(family, size, 8, large_side)
    check(models, family, size, 8, visited, large_side, effects=(effect,), batch=2)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize(("family", "size"), CELLS)
def test_the_same_pairs_are_on_at_every_step(models, family, size, steps, large_side):
    visits = visit(patched(models[family], ("rau", "msw")), size, steps, range(steps), run_unet=False)
    for step, seen in enumerate(visits):
        assert seen.pairs == reference.pairs_on(family, size, step, steps, large_side), step
        assert set(seen.quarters) == set(reference.WINDOWED[family])
        if any(seen.pairs):
            assert set(seen.rescaling.dilated) <= {reference.DILATED[family]}
            assert set(seen.rescaling.pooled) <= {reference.POOLED[family]}
            assert set(seen.rescaling.restored) <= {reference.RESTORED[family]}
    if steps == 50:
        assert {quarter for seen in visits for quarter in seen.quarters.values()} == {0, 1, 2, 3}
