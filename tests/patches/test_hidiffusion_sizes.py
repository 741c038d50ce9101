"""RAU-Net and MSW-MSA at 200 random sizes under a ControlNet: no crash,
no residual dropped, no token resized.
"""

from __future__ import annotations

import random
from typing import get_args

import comfy.controlnet
import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from megapixel.patches.deep_shrink import DeepShrink, apply_deep_shrink
from megapixel.patches.msw_msa import apply_msw_msa, original_preset as original_windows
from megapixel.patches.rau_net import apply_rau_net
from megapixel.patches.rau_net_preset import Resolution, original_preset
from megapixel.patches.rau_net_published import Published
from megapixel.patches.rau_net_settings import RAUNet
from megapixel.patches.topology import topology_of
from megapixel.patches.wrapper import planned

from devhost.sampling import sample
from devhost.tiny import random_models

pytestmark = pytest.mark.slow

CELLS = 200
CHUNKS = 5
STEPS = 10
TEXT = 131  # tokens of the text: a prime above the longest side, so no grid or window has as many
TRAINED = 256  # px
WIDTHS = (
    [32] * 3 + [32] + [64] * 2 + [64] + [128] * 2 + [128] * 3
)  # channels of the residuals, by input block
HALVINGS = [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3


def cell(number):
    """Return the size (latent pixels, 256 to 1024 px, log-uniform), the step and the settings of one cell."""
    rng = random.Random(f"HiDiffusion {number}")
    size = tuple(round(32 * 4 ** rng.random()) for _ in range(2))
    mode = rng.choice(["avg_pool2d", "adaptive_avg_pool2d", "adaptive_avg_pool2d", "bicubic", "area"])
    pairs = RAUNet(
        input_blocks=tuple(rng.sample((3, 6, 9), rng.randint(0, 2))),
        output_blocks=(),
        ca_input_blocks=tuple(rng.sample(range(1, 12), rng.randint(1, 2))),
        ca_output_blocks=(),
        ca_downscale_mode=mode,
        ca_downscale_factor=rng.choice([2, 3] if mode == "avg_pool2d" else [1.1, 1.5, 2, 2, 3, 3.7]),
        ca_downscale_factor_w=rng.choice([None, None, 2]),
        ca_input_after_skip_mode=rng.random() < 0.3,
        ca_latent_pixel_increment=rng.choice([1, 8]),
        ca_avg_pool2d_ceil_mode=rng.random() < 0.5,
        two_stage_upscale_mode=rng.choice(["disabled", "bilinear"]),
    )
    return {
        "size": size,
        "step": rng.choice([0, 0, 2]),
        "rau": rng.choice(["published", *get_args(Resolution), pairs, pairs, None]),
        "windows": rng.choice(["2x2", "native", None]),
        "shrink": DeepShrink(
            rng.randint(1, 11), rng.choice([1.3, 2.0]), downscale_after_skip=rng.random() < 0.5
        )
        if rng.random() < 0.25
        else None,
        "ours_first": rng.random() < 0.5,
    }


def hidiffusion(model, settings):
    topology = topology_of(model.get_model_object("diffusion_model"))
    recipe = settings["rau"]
    if recipe == "published":
        model = apply_rau_net(model, Published())
    elif recipe is not None:
        model = apply_rau_net(model, original_preset(topology, recipe) if isinstance(recipe, str) else recipe)
    if settings["windows"] is not None:
        windows = original_windows(topology, 0.0, windows=settings["windows"], trained_size=TRAINED)
        model = apply_msw_msa(model, windows)
    return model


def patched(model, settings):
    if settings["ours_first"]:
        model = hidiffusion(model, settings)
    if settings["shrink"] is not None:
        model = apply_deep_shrink(model, settings["shrink"])
    return model if settings["ours_first"] else hidiffusion(model, settings)


class EveryResidual(comfy.controlnet.ControlBase):
    """A control with the residuals of a ControlNet for SD 1.5, in their sizes, at none of its cost."""

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        batch, _, height, width = x_noisy.shape
        sides = [(-(-height // 2**n), -(-width // 2**n)) for n in HALVINGS]
        residuals = [
            torch.linspace(-0.1, 0.1, size[0] * size[1]).reshape(1, 1, *size).repeat(batch, width, 1, 1)
            for width, size in zip(WIDTHS, sides, strict=True)
        ]
        return {"input": [], "middle": [residuals[-1].clone()], "output": residuals}

    def copy(self):
        return self


class Attention:
    """Attends to all tokens alike, and checks what it is given: whole grids,
    or windows of them, of real tokens.
    """

    def __init__(self):
        self.layers = self.windowed = 0

    def __call__(self, attention, q, k, v, heads, *args, transformer_options, **kwargs):
        height, width = transformer_options["activations_shape"][-2:]
        assert k.shape == v.shape
        assert q.shape[0] == k.shape[0]
        if k.shape[1] == TEXT:
            assert q.shape[:2] == (1, height * width)
        else:
            assert q.shape == k.shape
            rows, columns = self._count((height, width), q, transformer_options)
            assert q.shape[:2] == (rows * columns, -(-height // rows) * -(-width // columns))
            self.layers += 1
            self.windowed += rows * columns > 1
        return v.mean(1, keepdim=True).expand(-1, q.shape[1], -1)

    def _count(self, size, q, options):
        plan = planned("msw_msa", q)
        number = plan and plan.numbers.get((*options["block"], options["block_index"]))
        return (1, 1) if number is None else plan.count(number, size)


def visit(model, size, step, positive):
    """Call the model once, at the noise level of that step of a run, through the host's sampling."""
    outputs = []

    def visiting_sampler(model, x, sigmas, extra_args, **_):
        outputs.append(model(x * (sigmas[step] / sigmas[0]), sigmas[step] * x.new_ones(1), **extra_args))
        return x

    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", STEPS)
    noise = torch.randn(1, 4, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        comfy.sample.sample_custom(
            model, noise, 1.0, comfy.samplers.KSAMPLER(visiting_sampler), sigmas, positive, positive,
            torch.zeros_like(noise), disable_pbar=True, seed=0,
        )  # fmt: skip
    [output] = outputs
    return output


@pytest.fixture(scope="module")
def model_and_attention(light_model):
    model, attention = light_model.clone(), Attention()
    model.model_options["transformer_options"]["optimized_attention_override"] = attention
    return model, attention


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_size_runs_and_every_residual_is_applied(model_and_attention, caplog, chunk):
    model, attention = model_and_attention
    positive = random_models.conditioning(
        model, 1, tokens=TEXT, control=EveryResidual(), control_apply_to_uncond=True
    )
    for number in range(chunk, CELLS, CHUNKS):
        settings = cell(number)
        attention.layers = attention.windowed = 0
        output = visit(patched(model, settings), settings["size"], settings["step"], positive)
        assert output.shape == (1, 4, *settings["size"])
        assert output.isfinite().all(), settings
        assert "could not be applied" not in caplog.text, settings
        assert attention.layers == 16
        assert attention.windowed == 5 or settings["windows"] != "2x2", settings


def test_the_cells_cover_what_they_should():
    cells = [cell(number) for number in range(CELLS)]
    sizes = [settings["size"] for settings in cells]
    assert sum(height % 2 or width % 2 for height, width in sizes) > 120
    assert sum(height != width for height, width in sizes) > 190
    assert min(map(min, sizes)) < 34 < 120 < max(map(max, sizes))
    pairs = [settings["rau"] for settings in cells if isinstance(settings["rau"], RAUNet)]
    assert {block for pair in pairs for block in pair.ca_input_blocks} == set(range(1, 12))
    assert {block for pair in pairs for block in pair.input_blocks} == {3, 6, 9}
    for name in ("published", *get_args(Resolution), None):
        assert sum(settings["rau"] == name for settings in cells) > 15
    assert all(
        sum(settings["windows"] == name for settings in cells) > 40 for name in ("2x2", "native", None)
    )
    assert sum(settings["shrink"] is not None for settings in cells) > 30


def test_the_stand_in_gives_what_a_controlnet_gives(light_model, light_controlnet, with_control):
    """The same places and shapes, at sizes of every remainder."""
    for size in ((32, 39), (41, 37), (50, 36), (47, 33)):
        shapes = []

        def note(executor, x, t, c_concat, c_crossattn, control, *args, shapes=shapes, **kwargs):
            shapes.append({place: [tuple(each.shape) for each in control[place]] for place in control})
            return x

        model = light_model.clone()
        model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "note", note)
        stand_in = random_models.conditioning(model, 1, control=EveryResidual(), control_apply_to_uncond=True)
        for positive in (with_control(model, light_controlnet, size), stand_in):
            sample(model, size, steps=1, cfg=1.0, positive=positive)
        real, ours = ({place: each for place, each in seen.items() if each} for seen in shapes)
        assert real == ours
        assert len(real["output"]) == 12
