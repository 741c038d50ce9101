"""Deep Shrink at 100 random sizes, each with and without a ControlNet: no crash, no residual dropped."""

from __future__ import annotations

import random

import pytest
import torch
from comfy_extras.nodes_model_downscale import PatchModelAddDownscale
from megapixel.patches.deep_shrink import DeepShrink, apply_deep_shrink

from devhost.sampling import sample

pytestmark = pytest.mark.slow

CELLS = 100
CHUNKS = 5


def cell(number):
    """Return the size (latent pixels, 256 to 640 px, log-uniform) and the settings of one cell."""
    rng = random.Random(number)
    size = tuple(round(32 * 2.5 ** rng.random()) for _ in range(2))
    settings = DeepShrink(
        block_number=rng.randint(1, 11),
        downscale_factor=rng.choice([1.01, 1.3, 1.5, 2.0, 2.0, 3.0, 4.0, 7.7]),
        downscale_after_skip=rng.random() < 0.5,
        mode=rng.choice(["manual", "manual", "auto"]),
        trained_size=256,
    )
    return size, settings


def run_cell(model, controlnet, with_control, number, apply):
    size, settings = cell(number)
    patched = apply(model, settings)
    plain = sample(patched, size, steps=1, cfg=1.0)
    controlled = sample(patched, size, steps=1, cfg=1.0, positive=with_control(model, controlnet, size))
    assert plain.shape == controlled.shape == (1, 4, *size)
    assert plain.isfinite().all()
    assert controlled.isfinite().all()
    assert not torch.equal(plain, controlled)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_size_runs_and_every_residual_is_applied(
    light_model, light_controlnet, with_control, caplog, chunk
):
    for number in range(chunk, CELLS, CHUNKS):
        run_cell(light_model, light_controlnet, with_control, number, apply_deep_shrink)
        assert "could not be applied" not in caplog.text, cell(number)


def test_the_cells_cover_what_they_should():
    sizes = [cell(number)[0] for number in range(CELLS)]
    assert sum(height % 2 or width % 2 for height, width in sizes) > 50
    assert sum(height != width for height, width in sizes) > 90
    assert {cell(number)[1].block_number for number in range(CELLS)} == set(range(1, 12))
    assert min(map(min, sizes)) < 34 < 75 < max(map(max, sizes))


def test_the_hosts_node_drops_nine_of_thirteen(light_model, light_controlnet, with_control, caplog):
    """The check above sees what it is for."""

    def host(model, settings):
        return PatchModelAddDownscale.execute(model, 3, 2.0, 0.0, 0.35, True, "bicubic", "bicubic")[0]

    run_cell(light_model, light_controlnet, with_control, 0, host)
    assert caplog.text.count("could not be applied") == 9
