"""Models of other loaders in segments: a patcher of another class and quantised weights, the host's fp8, and
what is no model at all.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from megapixel.host.segment_sampler import Sampling

from devhost.tiny.families import FAMILIES
from devhost.tiny.quantised import QuantisedPatcher, QuantisedWeight, fp8_model, quantised_model

from .test_segment_families import SIZE, refine

STEPS = {"sampler_name": "euler", "steps": 2}


@pytest.fixture(scope="module")
def picture():
    return torch.rand(1, *SIZE, 3, generator=torch.Generator().manual_seed(0))


def quantised_keys(model):
    return [name for name, weight in model.model.named_parameters() if isinstance(weight, QuantisedWeight)]


def lora_of(model):
    """Return a patch for each quantised weight, as a LoRA of rank 1."""
    generator = torch.Generator().manual_seed(3)

    def draw(length):
        return torch.randn(length, 1, generator=generator) * length**-0.5

    weights = dict(model.model.named_parameters())
    return {
        key: ("diff", (draw(weights[key].shape[0]) @ draw(weights[key].shape[1]).T,))
        for key in quantised_keys(model)
    }


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", ["Flux", "Qwen-Image", "Z-Image", "Wan"])
def test_a_patcher_of_another_class_gives_the_bits_of_the_same_weights_in_the_hosts_own(name, batch, picture):
    quantised, plain = quantised_model(FAMILIES[name])
    assert len(quantised_keys(quantised)) > 5
    results = [refine(name, model, picture, batch_size=batch, **STEPS) for model in (quantised, plain)]
    assert torch.equal(*results)
    assert not torch.equal(results[0], picture)


def test_each_clone_that_is_sampled_is_of_that_class_and_the_model_stays_as_it_was(picture, monkeypatch):
    quantised, _ = quantised_model(FAMILIES["Flux"])
    loaded = []
    original = QuantisedPatcher.load
    monkeypatch.setattr(
        QuantisedPatcher,
        "load",
        lambda self, *given, **named: (loaded.append(self), original(self, *given, **named))[1],
    )
    before = refine("Flux", quantised, picture, noise_mask_feather=4, **STEPS)
    patched = quantised.clone()
    patched.add_patches(lora_of(quantised))
    with_lora = refine("Flux", patched, picture, noise_mask_feather=4, **STEPS)
    assert loaded
    assert all(type(each) is QuantisedPatcher for each in loaded)
    assert not torch.equal(with_lora, before)
    assert torch.equal(refine("Flux", quantised, picture, noise_mask_feather=4, **STEPS), before)


def test_a_lora_beside_quantised_weights_is_that_in_the_weights(picture):
    quantised, plain = quantised_model(FAMILIES["Flux"])
    patches = lora_of(quantised)
    for model in (quantised, plain):
        assert set(model.add_patches(patches)) == set(patches)
    results = [refine("Flux", model, picture, **STEPS) for model in (quantised, plain)]
    torch.testing.assert_close(*results, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["Flux", "Qwen-Image"])
def test_weights_in_fp8_are_sampled_in_a_batch_as_alone(name, picture):
    model = fp8_model(FAMILIES[name])
    results = [refine(name, model, picture, batch_size=batch, **STEPS) for batch in (1, 3)]
    torch.testing.assert_close(*results, rtol=0, atol=1e-4)
    assert bool(results[0].isfinite().all())
    assert not torch.equal(results[0], picture)


class WithoutClones:
    """A model of a pack that does without the host's patcher."""

    load_device = torch.device("cpu")


@pytest.mark.parametrize(
    "model",
    [WithoutClones(), torch.nn.Linear(2, 2), None, SimpleNamespace(model=1)],
    ids=lambda model: type(model).__name__,
)
def test_what_is_no_model_of_the_host_is_refused_with_an_error_message(model):
    with pytest.raises(
        ValueError,
        match=r"^model: expected a MODEL as ComfyUI's loaders give it, got (\w+ without .*clone|nothing).*\. (Use a loader|The connected) ",
    ):
        Sampling(model, None, [], [], 0, 1, 1.0, "euler", "simple", 0.5)
