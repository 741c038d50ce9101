"""What a face costs during sampling: one UNet call with InstantID compared with the same call without it.

CPU seconds, one process, interleaved. SDXL's topology at 64 channels for 320, heads of 64, tokens of 2048,
both halves of the guidance in one call. "projecting" is the attention of the same face with keys and values
computed again in each layer and call, where the noise level is also read from the device, as in the original
node.

Expected: at most 1.05 for one person. In multiply-accumulates it is 1.001 to 1.01; most of the measured cost
is the overhead of calls.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

from devhost.host import import_host

import_host()

import torch
from comfy.ldm.modules.attention import optimized_attention
from megapixel.attention.instant_id import FaceKeys
from megapixel.patches.instant_id import Person, apply_instant_id, cross_attentions

from devhost.sampling import sample
from devhost.timing import interleave, ratios
from devhost.tiny import random_models

WIDTH = 64
TOKENS, CONTEXT = 16, 2048
SIGMA = 5.0


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def with_people(model: Any, count: int, **settings: Any) -> Any:
    widths = tuple(cross_attentions(model.get_model_object("diffusion_model")).values())
    for seed in range(count):
        face = FaceKeys(random(2, 2, TOKENS, sum(widths), seed=seed), widths)
        model = apply_instant_id(model, Person(face, 0.8, **settings))
    return model


def projecting(model: Any) -> Any:
    """Return a clone that computes a face's keys and values where they are used."""
    clone = model.clone()
    tokens = random(2, TOKENS, CONTEXT)

    def replacement(width: int) -> Callable[..., torch.Tensor]:
        to_k, to_v = (random(width, CONTEXT, seed=seed) / CONTEXT**0.5 for seed in (1, 2))

        def attend(q: Any, k: Any, v: Any, options: Any) -> torch.Tensor:
            result = optimized_attention(q, k, v, options["n_heads"])
            if options["sigmas"].detach().cpu()[0].item() < 0:
                return result
            chosen = [[tokens[i : i + 1] @ w.T for i in range(2)] for w in (to_k, to_v)]
            keys, values = (torch.cat([each[i] for i in options["cond_or_uncond"]]) for each in chosen)
            return result + 0.8 * optimized_attention(q, keys, values, options["n_heads"])

        return attend

    for layer, width in cross_attentions(model.get_model_object("diffusion_model")).items():
        clone.set_model_attn2_replace(replacement(width), *layer)
    return clone


def one_call(model: Any, side: int) -> Callable[[], torch.Tensor]:
    return partial(sample, model, (side, side), tokens=77, sigmas=torch.tensor([SIGMA, 0.0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--side", type=int, default=32, help="of the latent")
    options = parser.parse_args()
    plain = random_models.sdxl(model_channels=WIDTH, num_head_channels=64)
    mask = torch.linspace(0, 1, 512).repeat(1, 512, 1)
    variants = {
        "plain": plain,
        "outside the window": with_people(plain, 1, end_at=0.1),
        "one person": with_people(plain, 1),
        "one person in a mask": with_people(plain, 1, mask=mask),
        "two people in masks": with_people(plain, 2, mask=mask),
        "projecting": projecting(plain),
    }
    seconds = interleave(
        {name: one_call(model, options.side) for name, model in variants.items()}, options.rounds
    )
    print("| UNet call | time beside plain | quartiles |")
    print("| --- | --- | --- |")
    for name, (median, low, high) in ratios(seconds, "plain").items():
        print(f"| {name} | {median:.3f} | {low:.3f} to {high:.3f} |")


if __name__ == "__main__":
    main()
