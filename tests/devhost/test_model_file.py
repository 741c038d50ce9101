"""Files of tiny models: a loader builds what the metadata say, and 8 bits lose no more than half a step."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from devhost.tiny.eight_bit import SCALE, convert, pack_rows, unpack_rows
from devhost.tiny.model_file import CLASS_TOKENS_KEY, Facts, load_model, read_facts, save_model
from devhost.tiny.node import ASSETS, CONTROLNETS
from devhost.tiny.random_models import random_state
from devhost.tiny.text import build_clip
from devhost.tiny.unet import TRAINED_FAMILIES, build_unet

NARROW = Facts("sd15", width=16, heads=2, context=24, trained_side=64, names=("t rex", "fox"), seen=96)


def written(path, facts: Facts) -> dict[str, torch.Tensor]:
    """Write a model with random weights and return them."""
    family = TRAINED_FAMILIES[facts.arch]
    network = build_unet(family, facts.topology, lambda module: random_state(module, 3)).model.diffusion_model
    weights = {name: value.half().float() for name, value in network.state_dict().items()}
    save_model(path, weights, torch.randn(3, 6, facts.context).half(), facts)
    return weights


@pytest.mark.parametrize(
    "facts",
    [NARROW, replace(NARROW, width=32, heads=4, context=40), replace(NARROW, arch="sdxl", width=32, heads=1)],
    ids=["narrow", "wide", "sdxl"],
)
def test_a_model_of_any_width_is_loaded_as_its_metadata_say(tmp_path, facts):
    with torch.random.fork_rng():
        weights = written(tmp_path / "model.safetensors", facts)
    tiny = load_model(tmp_path / "model.safetensors")
    loaded = tiny.patcher.model.diffusion_model
    assert tiny.facts == read_facts(tmp_path / "model.safetensors") == facts
    assert all(torch.equal(value, weights[name]) for name, value in loaded.state_dict().items())
    attention = loaded.input_blocks[4][1].transformer_blocks[0].attn1
    channels = 2 * facts.width
    assert (
        attention.heads == {"sd15": facts.heads, "sdxl": channels // (facts.width // facts.heads)}[facts.arch]
    )
    assert tiny.class_tokens.shape == (3, 6, facts.context)


def test_a_file_without_metadata_names_what_is_missing(tmp_path):
    save_file({CLASS_TOKENS_KEY: torch.zeros(2, 4, 8)}, tmp_path / "old.safetensors")
    with pytest.raises(ValueError, match="got none for arch, width, heads, context, trained_side, names"):
        load_model(tmp_path / "old.safetensors")


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_the_shipped_files_say_what_they_are(name):
    facts = read_facts(ASSETS / f"{name}.safetensors")
    state = load_file(ASSETS / f"{name}.safetensors")
    assert state["input_blocks.0.0.weight"].shape[0] == facts.width
    assert state[CLASS_TOKENS_KEY].shape == (len(facts.names) + 1, 4, facts.context)
    assert CONTROLNETS[f"tiny_{name}.safetensors"]() == facts.topology


def test_all_models_together_stay_small():
    assert sum(file.stat().st_size for file in ASSETS.glob("*.safetensors")) < 40e6


def test_eight_bits_move_no_weight_by_more_than_half_a_step():
    generator = torch.Generator().manual_seed(1)
    spread = torch.logspace(-4, 2, 7)[:, None]
    state = {
        "matrix.weight": torch.randn(7, 33, generator=generator) * spread,
        "kernel.weight": torch.randn(5, 3, 3, 3, generator=generator),
        "empty.weight": torch.zeros(2, 4),
        "norm.bias": torch.randn(9, generator=generator).half().float(),
    }
    back = unpack_rows(pack_rows(state))
    assert back.keys() == state.keys()
    assert torch.equal(back["norm.bias"], state["norm.bias"])
    assert torch.equal(back["empty.weight"], state["empty.weight"])
    for name in ("matrix.weight", "kernel.weight"):
        rows = state[name].flatten(1)
        half_a_step = rows.abs().amax(1, keepdim=True) / 254
        error = (back[name].flatten(1) - rows).abs()
        assert (error <= 1.001 * half_a_step).all()
        assert (error.amax(1) > 0.5 * half_a_step[:, 0]).all()  # the bound is not far away
    assert all(torch.equal(value, back[name]) for name, value in unpack_rows(pack_rows(back)).items())


def test_a_converted_file_is_half_as_large_and_loads_as_the_same_model(tmp_path):
    with torch.random.fork_rng():
        weights = written(tmp_path / "half.safetensors", NARROW)
    convert(tmp_path / "half.safetensors", tmp_path / "eight.safetensors")
    half, eight = ((tmp_path / f"{name}.safetensors").stat().st_size for name in ("half", "eight"))
    assert eight < 0.58 * half
    tiny = load_model(tmp_path / "eight.safetensors")
    assert tiny.facts == NARROW
    assert any(name.endswith(SCALE) for name in load_file(tmp_path / "eight.safetensors"))
    for name, value in tiny.patcher.model.diffusion_model.state_dict().items():
        largest = weights[name].abs().max()
        torch.testing.assert_close(value, weights[name], atol=float(largest) / 250 + 1e-6, rtol=0)


def test_prompts_are_those_of_the_file():
    clip = build_clip(torch.arange(3.0)[:, None, None].expand(3, 2, 4), names=("t rex", "fox"))
    texts = {"a fox on a hill": 1.0, "T Rex, roaring": 0.0, "rex": 2.0, "": 2.0}
    for text, row in texts.items():
        [[tokens, _]] = clip.encode_from_tokens_scheduled(clip.tokenize(text))
        assert torch.equal(tokens, torch.full((1, 2, 4), row))
