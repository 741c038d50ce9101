"""Compiled effects: how many graphs `torch.compile` creates for a whole model in two runs at five sizes.

`torch.compile` as the host's node sets it, with a backend that runs the traced graph unchanged. Expected: at
most as many graphs as without effects and one for each distinct size of the features, and no breaks. The
results of compiled and uncompiled runs agree within 1e-5.

`sizes` counts the distinct sizes that all features of a call have together, over all steps and sizes. torch
stops compiling after 8 graphs for one model; here there is no limit.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from devhost.host import import_host

import_host()

import torch
from comfy.samplers import calculate_sigmas
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_extras.nodes_torch_compile import skip_torch_compile_dict
from megapixel.attention.instant_id import FaceKeys
from megapixel.patches.deep_shrink import DeepShrink, apply_deep_shrink
from megapixel.patches.hidiffusion import HiDiffusion, apply_hidiffusion
from megapixel.patches.instant_id import Person, apply_instant_id, cross_attentions
from megapixel.patches.msw_msa import MSWMSA, apply_msw_msa
from megapixel.patches.rau_net import apply_rau_net
from megapixel.patches.rau_net_settings import RAUNet
from megapixel.patches.run_plan import plan_run
from torch._dynamo.utils import counters

from devhost.sampling import sample
from devhost.tiny import random_models

SIZES = ((32, 24), (20, 26), (24, 20), (28, 22), (40, 30))
STEPS, RUNS = 3, 2
TRAINED = 128  # pixels; all sizes are above it
Effect = Callable[[Any], Any]


def sd15() -> Any:
    """Build a tiny SD 1.5 of six input blocks, 2 and 4 of them with a Downsample."""
    return random_models.sd15(
        num_res_blocks=[1, 1, 1], channel_mult=(1, 2, 4), transformer_depth=[1, 1, 0],
        transformer_depth_output=[1, 1, 1, 1, 0, 0],
    )  # fmt: skip


def sdxl() -> Any:
    """Build a tiny SDXL of four input blocks."""
    return random_models.sdxl(
        num_res_blocks=[1, 1], channel_mult=(1, 2), transformer_depth=[0, 1],
        transformer_depth_output=[0, 0, 1, 1], transformer_depth_middle=1,
    )  # fmt: skip


def face(model: Any, **settings: Any) -> Any:
    widths = tuple(cross_attentions(model.get_model_object("diffusion_model")).values())
    keys = torch.randn(2, 2, 16, sum(widths), generator=torch.Generator().manual_seed(0))
    return apply_instant_id(model, Person(FaceKeys(keys, widths), 0.8, **settings))


def two_faces(model: Any) -> Any:
    return face(face(model, end_at=0.5, mask=torch.linspace(0, 1, 64).repeat(1, 64, 1)))


BLOCKS = (1,), (), (4, 5)
SD15: dict[str, Effect] = {
    "Deep Shrink": lambda model: apply_deep_shrink(model, DeepShrink()),
    "Deep Shrink auto": lambda model: apply_deep_shrink(model, DeepShrink(mode="auto", trained_size=TRAINED)),
    "Deep Shrink, fade": lambda model: apply_deep_shrink(model, DeepShrink(fade_percent=0.4)),
    "RAU-Net": lambda model: apply_rau_net(
        model, RAUNet((2,), (3,), end_time=0.6, ca_end_time=0.3, ca_input_blocks=(3,), ca_output_blocks=())
    ),
    "MSW-MSA": lambda model: apply_msw_msa(model, MSWMSA(*BLOCKS)),
    "MSW-MSA native": lambda model: apply_msw_msa(model, MSWMSA(*BLOCKS, windows="native", trained_size=64)),
    "HiDiffusion": lambda model: apply_hidiffusion(model, HiDiffusion(trained_size=TRAINED)),
    "HiDiffusion published": lambda model: apply_hidiffusion(
        model, HiDiffusion(mode="published", trained_size=TRAINED)
    ),
}
SDXL: dict[str, Effect] = {
    "InstantID": face,
    "InstantID until 0.5": lambda model: face(model, end_at=0.5),
    "InstantID, two faces, one in a mask until 0.5": two_faces,
}


class Backend:
    """Runs the traced graphs unchanged, and counts them."""

    graphs = 0

    def __call__(self, module: Any, inputs: Any) -> Any:
        self.graphs += 1
        return module.forward


def count(model: Any) -> tuple[int, int]:
    """Return the graphs and the breaks of a model over all runs and sizes.

    Raises:
        AssertionError: when a compiled run gives other values than an uncompiled one.
    """
    torch._dynamo.reset()
    counters.clear()
    compiled, backend = model.clone(), Backend()
    options = {"guard_filter_fn": skip_torch_compile_dict}
    set_torch_compile_wrapper(compiled, backend=backend, options=options)  # pyright: ignore[reportArgumentType]
    result = torch.empty(0)
    with torch._dynamo.config.patch(recompile_limit=64):
        for seed in range(RUNS):
            for size in SIZES:
                result = sample(compiled, size, steps=STEPS, cfg=1.0, seed=seed)
    expected = sample(model, SIZES[-1], steps=STEPS, cfg=1.0, seed=RUNS - 1)
    assert (result - expected).norm() < 1e-5 * expected.norm()
    return backend.graphs, sum(counters["graph_break"].values())


def distinct_sizes(model: Any) -> int:
    sigmas = calculate_sigmas(model.get_model_object("model_sampling"), "normal", STEPS)
    runs = [plan_run(model, size, sigmas) for size in SIZES]
    return len({tuple(step.sizes.items()) for run in runs for step in run.steps})


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--only", action="append", help="the name of an effect; may be given several times")
    options = parser.parse_args()
    print("| model | effect | graphs | without effects | sizes | breaks |")
    print("| --- | --- | --- | --- | --- | --- |")
    for family, plain, effects in (("SD 1.5", sd15(), SD15), ("SDXL", sdxl(), SDXL)):
        chosen = {
            name: effect for name, effect in effects.items() if not options.only or name in options.only
        }
        without = count(plain)[0] if chosen else 0
        for name, effect in chosen.items():
            model = effect(plain)
            graphs, breaks = count(model)
            print(
                f"| {family} | {name} | {graphs} | {without} | {distinct_sizes(model)} | {breaks} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
