"""What Deep Shrink costs and saves: a run of one UNet call, outside its schedule and inside, compared with
the host's node.

Ratios of CPU seconds to the plain model's, one process, interleaved: median (quartiles).

Expected: outside the window nothing but a dozen dictionary look-ups a call (under 1 % of a call), inside it
the share of multiply-accumulates that `torch.utils.flop_counter` counts. Topologies are the real ones at a
tenth or a fifth of the width; the bound is counted for that width.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from devhost.host import import_host

import_host()

import torch
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_model_downscale import PatchModelAddDownscale
from megapixel.patches.deep_shrink import DeepShrink, apply_deep_shrink
from megapixel.patches.topology import topology_of
from megapixel.patches.wrapper import WRAPPER_KEY
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from devhost.sampling import sample
from devhost.timing import interleave, ratios
from devhost.tiny import random_models

CASES = {  # family, latent size, width, rounds
    "SD1.5 128 px, width 32 (the cheapest call there is)": (random_models.sd15, (16, 16), 32, 200),
    "SD1.5 512 px, width 64": (random_models.sd15, (64, 64), 64, 15),
    "SD1.5 1024x768 px, width 64": (random_models.sd15, (128, 96), 64, 9),
    "SDXL 1024 px, width 32": (random_models.sdxl, (128, 128), 32, 9),
}
INSIDE, OUTSIDE = 10.0, 0.5  # sigmas


def host_shrink(model: Any) -> Any:
    return PatchModelAddDownscale.execute(model, 3, 2.0, 0.0, 0.35, True, "bicubic", "bicubic")[0]


def one_call(model: Any, size: tuple[int, int], sigma: float) -> Callable[[], torch.Tensor]:
    """Return a run of exactly one UNet call at `sigma`."""
    return partial(sample, model, size, tokens=77, cfg=1.0, sigmas=torch.tensor([sigma, 0.0]))


def flops(call: Callable[[], object]) -> int:
    # The counter does not know the CPU's fused attention; as plain products it counts.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


class Nothing:
    """A model call that does nothing, so that only the wrapper's own work is timed."""

    def __init__(self, model: Any) -> None:
        self.class_obj = model

    def __call__(self, x: torch.Tensor, *_: Any) -> torch.Tensor:
        return x


def microseconds(work: Callable[[], object], repeats: int = 5000) -> float:
    began = time.process_time()
    for _ in range(repeats):
        work()
    return (time.process_time() - began) / repeats * 1e6


def own_work(patched: Any) -> float:
    """Return the microseconds that the pack adds to a call outside the schedule."""
    [wrapper] = patched.get_wrappers(WrappersMP.APPLY_MODEL, WRAPPER_KEY)
    x, t = torch.zeros(2, 4, 16, 16), torch.full((2,), OUTSIDE)
    options = {"sample_sigmas": torch.tensor([OUTSIDE, 0.0]), "block": ("input", 3)}
    patches = patched.model_options["transformer_options"]["patches"]
    [shrink], [grow_back] = patches["input_block_patch_after_skip"], patches["output_block_patch"]
    topology = topology_of(patched.get_model_object("diffusion_model"))
    return (
        microseconds(lambda: wrapper(Nothing(patched.model), x, t, transformer_options=options))
        + len(topology.inputs) * microseconds(lambda: shrink(x, options))
        + len(topology.outputs) * microseconds(lambda: grow_back(x, x, options))
    )


def main() -> None:
    alone = own_work(apply_deep_shrink(random_models.sd15(), DeepShrink()))
    print(f"Our own work in a call outside the window, timed alone: {alone:.0f} us\n")
    print("| UNet call | variant | outside the window | inside | bound inside (FLOPs) |")
    print("| --- | --- | --- | --- | --- |")
    for title, (build, size, width, rounds) in CASES.items():
        plain = build(model_channels=width)
        variants = {
            "plain": plain,
            "host": host_shrink(plain),
            "ours": apply_deep_shrink(plain, DeepShrink()),
        }
        cells: dict[str, list[str]] = {name: [] for name in variants}
        for sigma in (OUTSIDE, INSIDE):
            calls = {name: one_call(model, size, sigma) for name, model in variants.items()}
            for name, (median, low, high) in ratios(interleave(calls, rounds), "plain").items():
                cells[name].append(f"{median:.4f} ({low:.3f} to {high:.3f})")
        work = {name: flops(one_call(model, size, INSIDE)) for name, model in variants.items()}
        for name in ("host", "ours"):
            print(
                f"| {title} | {name} | {' | '.join(cells[name])} | {work[name] / work['plain']:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
