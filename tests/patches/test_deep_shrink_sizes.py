"""Deep Shrink at 200 random sizes, each with and without a ControlNet: no crash, no residual dropped."""

from __future__ import annotations

import random

import pytest
import torch
from comfy_extras.nodes_model_downscale import PatchModelAddDownscale
from megapixel.patches.deep_shrink import DeepShrink, apply_deep_shrink

from devhost.sampling import sample
from devhost.tiny import random_models, topology

CELLS = 200
CHUNKS = 10


def cell(number):
    """Return the size (latent pixels, 256 to 2048 px, log-uniform) and the settings of one cell."""
    rng = random.Random(number)
    size = tuple(round(32 * 8 ** rng.random()) for _ in range(2))
    settings = DeepShrink(
        block_number=rng.randint(1, 11),
        downscale_factor=rng.choice([1.01, 1.3, 1.5, 2.0, 2.0, 3.0, 4.0, 7.7]),
        downscale_after_skip=rng.random() < 0.5,
        mode=rng.choice(["manual", "manual", "auto"]),
        trained_size=256,
    )
    return size, settings


def uniform_attention(attention, q, k, v, heads, mask=None, **kwargs):
    """Attend to all tokens alike: the shapes of attention at a cost that does not grow with their square."""
    assert q.shape[0] == k.shape[0] == v.shape[0]
    assert k.shape == v.shape
    return v.mean(1, keepdim=True).expand(-1, q.shape[1], -1)


@pytest.fixture(scope="module")
def light_model():
    model = random_models.sd15().clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = uniform_attention
    return model


@pytest.fixture(scope="module")
def light_controlnet():
    """A ControlNet with attention at the third level alone: the host gives it no attention override."""
    return random_models.controlnet(topology.SD15 | {"transformer_depth": [0, 0, 0, 0, 1, 1, 0, 0]})


def with_control(model, controlnet, size):
    height, width = size
    hint = torch.linspace(0, 1, 3 * 64).reshape(1, 3, 8, 8).repeat(1, 1, height, width)
    conditioning = random_models.conditioning(model, 1)
    control = controlnet.copy().set_cond_hint(hint, 1.0, (0.0, 1.0))
    conditioning[0][1].update(control=control, control_apply_to_uncond=True)
    return conditioning


def run_cell(model, controlnet, number, apply):
    size, settings = cell(number)
    patched = apply(model, settings)
    plain = sample(patched, size, steps=1, cfg=1.0)
    controlled = sample(patched, size, steps=1, cfg=1.0, positive=with_control(model, controlnet, size))
    assert plain.shape == controlled.shape == (1, 4, *size)
    assert plain.isfinite().all()
    assert controlled.isfinite().all()
    assert not torch.equal(plain, controlled)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_size_runs_and_every_residual_is_applied(light_model, light_controlnet, caplog, chunk):
    for number in range(chunk, CELLS, CHUNKS):
        run_cell(light_model, light_controlnet, number, apply_deep_shrink)
        assert "could not be applied" not in caplog.text, cell(number)


def test_the_cells_cover_what_they_should():
    sizes = [cell(number)[0] for number in range(CELLS)]
    assert sum(height % 2 or width % 2 for height, width in sizes) > 100
    assert sum(height != width for height, width in sizes) > 190
    assert {cell(number)[1].block_number for number in range(CELLS)} == set(range(1, 12))
    assert min(map(min, sizes)) < 34 < 240 < max(map(max, sizes))


def test_the_hosts_node_drops_nine_of_thirteen(light_model, light_controlnet, caplog):
    """The check above sees what it is for."""

    def host(model, settings):
        return PatchModelAddDownscale.execute(model, 3, 2.0, 0.0, 0.35, True, "bicubic", "bicubic")[0]

    run_cell(light_model, light_controlnet, 0, host)
    assert caplog.text.count("could not be applied") == 9
