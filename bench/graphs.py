"""Compiled effects: how many graphs `torch.compile` creates for a whole model in two runs at five sizes.

    python3 dev.py bench graphs --only "RAU-Net, three states"

`torch.compile` as the host's node sets it, with a backend that runs the traced graph unchanged. Expected: at
most as many graphs as without effects and one for each distinct size of the features, no breaks, and none
added by the second run. The results of compiled and uncompiled runs agree within 1e-5.

A distinct size is a set of sizes that all features of a call have together, over all steps and sizes. torch
stops compiling after 8 graphs for one model; here there is no limit. The models are as small as the effects
allow: a row is one to four minutes of a slow core. The graphs so far are printed to stderr after each size.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
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
from devhost.tiny import random_models, topology

Sizes = Sequence[tuple[int, int]]
SIZES: Sizes = ((32, 24), (20, 26), (24, 20), (28, 22), (40, 30))
# One of them is so large that HiDiffusion's windows begin at half of the sampling.
WITH_A_LARGE_ONE: Sizes = (*SIZES[:-1], (48, 36))
STEPS, RUNS = 3, 2
TRAINED = 128  # pixels; all sizes are above it
Effect = Callable[[Any], Any]


def face(model: Any, **settings: Any) -> Any:
    widths = tuple(cross_attentions(model.get_model_object("diffusion_model")).values())
    keys = torch.randn(2, 2, 16, sum(widths), generator=torch.Generator().manual_seed(0))
    return apply_instant_id(model, Person(FaceKeys(keys, widths), 0.8, **settings))


def two_faces(model: Any) -> Any:
    return face(face(model, end_at=0.5, mask=torch.linspace(0, 1, 64).repeat(1, 64, 1)))


ATTENTION = (3,), (), (0, 1)  # of a UNet of two levels
TWO_LEVELS: dict[str, Effect] = {
    "Deep Shrink": lambda model: apply_deep_shrink(model, DeepShrink()),
    "Deep Shrink auto": lambda model: apply_deep_shrink(model, DeepShrink(mode="auto", trained_size=TRAINED)),
    "Deep Shrink, fade": lambda model: apply_deep_shrink(model, DeepShrink(fade_percent=0.4)),
    "RAU-Net, three states": lambda model: apply_rau_net(
        model, RAUNet((2,), (1,), end_time=0.6, ca_end_time=0.3, ca_input_blocks=(3,), ca_output_blocks=())
    ),
    "MSW-MSA": lambda model: apply_msw_msa(model, MSWMSA(*ATTENTION)),
    "MSW-MSA native": lambda model: apply_msw_msa(
        model, MSWMSA(*ATTENTION, windows="native", trained_size=64)
    ),
    "HiDiffusion": lambda model: apply_hidiffusion(model, HiDiffusion(trained_size=TRAINED)),
    "HiDiffusion, late windows": lambda model: apply_hidiffusion(model, HiDiffusion(trained_size=TRAINED)),
}
THREE_LEVELS: dict[str, Effect] = {
    "HiDiffusion published": lambda model: apply_hidiffusion(
        model, HiDiffusion(mode="published", trained_size=TRAINED)
    )
}
SDXL: dict[str, Effect] = {
    "InstantID": face,
    "InstantID until 0.5": lambda model: face(model, end_at=0.5),
    "InstantID, two faces, one in a mask until 0.5": two_faces,
}
FAMILIES: dict[str, tuple[Callable[[], Any], dict[str, Effect]]] = {
    "SD 1.5, two levels": (lambda: random_models.sd15(**topology.TWO_LEVELS), TWO_LEVELS),
    "SD 1.5, three levels": (lambda: random_models.sd15(**topology.SHORT), THREE_LEVELS),
    "SDXL, two levels": (lambda: random_models.sdxl(**topology.TWO_LEVELS), SDXL),
}


OTHER_RUNS: dict[str, tuple[Sizes, int]] = {"HiDiffusion, late windows": (WITH_A_LARGE_ONE, 6)}
"""The sizes and steps of effects that need others than the usual ones."""


class Backend:
    """Runs the traced graphs unchanged, and counts them."""

    graphs = 0

    def __call__(self, module: Any, inputs: Any) -> Any:
        self.graphs += 1
        return module.forward


@dataclass(frozen=True)
class Counts:
    """The graphs that each run added, and the breaks of all runs."""

    graphs: tuple[int, ...]
    breaks: int


def count(model: Any, sizes: Sizes, steps: int) -> Counts:
    """Return the graphs and the breaks of a model over all `sizes`, run by run.

    Raises:
        AssertionError: when a compiled run gives other values than an uncompiled one.
    """
    torch._dynamo.reset()
    counters.clear()
    compiled, backend = model.clone(), Backend()
    options = {"guard_filter_fn": skip_torch_compile_dict}
    set_torch_compile_wrapper(compiled, backend=backend, options=options)  # pyright: ignore[reportArgumentType]
    graphs, result = [0], torch.empty(0)
    with torch._dynamo.config.patch(recompile_limit=64):
        for seed in range(RUNS):
            for size in sizes:
                result = sample(compiled, size, steps=steps, cfg=1.0, seed=seed)
                print(f"run {seed + 1}, {size}: {backend.graphs} graphs", file=sys.stderr, flush=True)
            graphs.append(backend.graphs)
    expected = sample(model, sizes[-1], steps=steps, cfg=1.0, seed=RUNS - 1)
    assert (result - expected).norm() < 1e-5 * expected.norm()
    added = tuple(after - before for before, after in pairwise(graphs))
    return Counts(added, sum(counters["graph_break"].values()))


def distinct_sizes(model: Any, sizes: Sizes, steps: int) -> int:
    sigmas = calculate_sigmas(model.get_model_object("model_sampling"), "normal", steps)
    runs = [plan_run(model, size, sigmas) for size in sizes]
    return len({tuple(step.sizes.items()) for run in runs for step in run.steps})


def main() -> int:
    """Print the table; return 1 when a row is not as expected."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--only", action="append", help="the name of an effect; may be given several times")
    options = parser.parse_args()
    status = 0
    print(
        "| model | effect | graphs | without effects | distinct feature sizes | bound | second run | breaks |"
    )
    print("| --- " * 8 + "|")
    for family, (build, effects) in FAMILIES.items():
        chosen = {
            name: effect for name, effect in effects.items() if not options.only or name in options.only
        }
        if not chosen:
            continue
        plain = build()
        plain_graphs: dict[tuple[Sizes, int], int] = {}
        for name, effect in chosen.items():
            run = OTHER_RUNS.get(name, (SIZES, STEPS))
            if run not in plain_graphs:
                plain_graphs[run] = sum(count(plain, *run).graphs)
            without, model = plain_graphs[run], effect(plain)
            counts, sizes = count(model, *run), distinct_sizes(model, *run)
            first, second = counts.graphs
            print(
                f"| {family} | {name} | {first} | {without} | {sizes} | {without + sizes} | +{second} | {counts.breaks} |",
                flush=True,
            )
            status |= first + second > without + sizes or second > 0 or counts.breaks > 0
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
