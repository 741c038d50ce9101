"""How much faster a run is with HiDiffusion, compared with the bound from the saved multiply-accumulates.

One UNet call in each state of the published schedule, CPU seconds, one process, interleaved; the states are
weighted by their shares of 50 steps. Topologies are the real ones at 96 channels for 320, heads as wide as
the real ones; the bound is counted for that width, because attention weighs more in a narrow network.

Expected: 0.9 of the bound and more. The rest is work without multiplications: norms, gathering the windows,
and convolutions that are less efficient on small features.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from devhost.host import import_host

import_host()

import torch
from megapixel.patches import msw_msa
from megapixel.patches.model_call import first_call
from megapixel.patches.msw_msa import Windows, apply_msw_msa
from megapixel.patches.rau_net import apply_rau_net
from megapixel.patches.rau_net_published import Published
from megapixel.patches.rau_net_settings import RAUNet
from megapixel.patches.topology import topology_of
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from devhost.sampling import sample
from devhost.timing import interleave
from devhost.tiny import random_models

STEPS = 50
WIDTH = 96
State = tuple[bool, bool]  # the Downsample pair is on, the pooled pair is on


@dataclass(frozen=True)
class Case:
    build: Callable[..., Any]
    side: int
    heads: dict[str, int]
    windows: tuple[Windows, ...]
    published: str
    rounds: int


CASES = {
    "SD1.5 1024 px": Case(random_models.sd15, 128, {"num_heads": 2}, ("2x2",), "1.70", 9),
    "SD1.5 2048 px": Case(
        random_models.sd15, 256, {"num_heads": 2}, ("2x2", "native"), "2.84, native 4.34", 3
    ),
    "SDXL 2048 px": Case(random_models.sdxl, 256, {"num_head_channels": 64}, ("2x2",), "1.56", 2),
}


def one_call(model: Any, side: int) -> Callable[[], torch.Tensor]:
    return partial(sample, model, (side, side), tokens=77, cfg=1.0, sigmas=torch.tensor([10.0, 0.0]))


def flops(call: Callable[[], object]) -> int:
    """Count the operations, including those of the CPU's fused attention,
    which the counter does not support.
    """

    def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return sdpa_flop_count(query, key, value)

    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    with FlopCounterMode(display=False, custom_mapping={fused: attention}) as counter:
        call()
    return counter.get_total_flops()


def published(model: Any, side: int) -> RAUNet:
    settings = Published().settings(first_call(model, (side, side), torch.tensor([10.0, 0.0])))
    assert settings is not None
    return settings


def shares(settings: RAUNet) -> Mapping[State, float]:
    """Return the share of a run's steps in which the published schedule is in each state."""
    spans = [(settings.start_time, settings.end_time), (settings.ca_start_time, settings.ca_end_time)]
    on = [[int(start * STEPS) <= step < int(end * STEPS) for start, end in spans] for step in range(STEPS)]
    states = [(dilated, pooled) for dilated, pooled in on]
    return {state: states.count(state) / STEPS for state in dict.fromkeys(states)}


def in_state(model: Any, settings: RAUNet, state: State, windows: Windows | None) -> Any:
    """Return a clone that is in `state` in every step."""
    dilated, pooled = state
    always = replace(
        settings, time_mode="percent", start_time=0.0, end_time=1.0, ca_start_time=0.0, ca_end_time=1.0
    )
    if not dilated:
        always = replace(always, input_blocks=(), output_blocks=())
    if not pooled:
        always = replace(always, ca_input_blocks=(), ca_output_blocks=())
    patched = apply_rau_net(model, always)
    if windows is None:
        return patched
    topology = topology_of(model.get_model_object("diffusion_model"))
    return apply_msw_msa(patched, msw_msa.original_preset(topology, start=0.0, windows=windows))


def measure(title: str, case: Case) -> None:
    model = case.build(model_channels=WIDTH, **case.heads)
    settings = published(model, case.side)
    weights = shares(settings)
    variants = [
        (state, windows) for windows in (None, *case.windows) for state in weights if windows or any(state)
    ]
    calls: dict[Any, Callable[[], torch.Tensor]] = {"plain": one_call(model, case.side)}
    calls |= {variant: one_call(in_state(model, settings, *variant), case.side) for variant in variants}
    seconds = interleave(calls, case.rounds)
    work = {name: flops(call) for name, call in calls.items()}

    def speed_up(cost: Mapping[Any, float], windows: Windows | None) -> float:
        run = sum(share * cost.get((state, windows), cost["plain"]) for state, share in weights.items())
        return cost["plain"] / run

    for windows in (None, *case.windows):
        rounds = [
            speed_up(dict(zip(seconds, each, strict=True)), windows)
            for each in zip(*seconds.values(), strict=True)
        ]
        low, median, high = statistics.quantiles(rounds, n=4)
        bound = speed_up(work, windows)
        method = "RAU-Net" if windows is None else f"RAU-Net + MSW-MSA {windows}"
        print(
            f"| {title} | {method} | {median:.2f} ({low:.2f} to {high:.2f}) | {bound:.2f} | {median / bound:.2f} "
            f"| {case.published} | {statistics.median(seconds['plain']):.1f} |",
            flush=True,
        )
    for state, windows in variants:
        each = statistics.median(
            mine / plain for mine, plain in zip(seconds[state, windows], seconds["plain"], strict=True)
        )
        print(f"    {state} {windows}: time {each:.3f}, work {work[state, windows] / work['plain']:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=CASES)
    options = parser.parse_args()
    print("| run | method | speed-up | bound at this width | reached | bound at full width | plain call, s |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for title in options.cases:
        measure(title, CASES[title])


if __name__ == "__main__":
    main()
