"""The speed of the effects compared with an earlier commit, in one process.

    git worktree add /tmp/before COMMIT
    python3 dev.py bench before --folder /tmp/before

CPU seconds of one UNet call, or of a run of 20 steps, interleaved: the median of the pairwise ratios, and its
95 % interval. The settings mean the same in both commits. One call is the cheapest that exists (26 ms), in
which the pack's own work has the largest share; the other is larger.

Expected: at most 1 within the interval. The row "the same twice" shows how much two runs of the same code
differ on this machine.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from devhost.host import import_host, import_pack

import_host()

import torch
from megapixel.patches.instant_id import cross_attentions

from devhost.sampling import sample
from devhost.timing import interleave
from devhost.tiny import random_models

NOW, BEFORE = "megapixel", "megapixel_before"
INSIDE, OUTSIDE = 10.0, 0.5  # sigmas
TRAINED = 64  # pixels: all sizes here are above it


def effect(name: str, function: str, settings: str, **named: Any) -> Callable[[str, Any], Any]:
    """Return a function that applies an effect of a pack to a model."""

    def apply(pack: str, model: Any) -> Any:
        parts = [importlib.import_module(f"{pack}.patches.{name}")]
        if importlib.util.find_spec(f"{pack}.patches.{name}_settings"):
            parts.append(importlib.import_module(f"{pack}.patches.{name}_settings"))
        config = next(getattr(part, settings) for part in parts if hasattr(part, settings))
        return getattr(parts[0], function)(model, config(**named))

    return apply


def face(pack: str, model: Any, **settings: Any) -> Any:
    """Apply a random face to a model."""
    widths = tuple(cross_attentions(model.get_model_object("diffusion_model")).values())
    keys = torch.randn(2, 2, 16, sum(widths), generator=torch.Generator().manual_seed(0))
    patches = importlib.import_module(f"{pack}.patches.instant_id")
    face_keys = importlib.import_module(f"{pack}.attention.instant_id").FaceKeys(keys, widths)
    return patches.apply_instant_id(model, patches.Person(face_keys, 0.8, **settings))


def nothing(pack: str, model: Any) -> Any:
    """Return the model unchanged."""
    return model


EFFECTS: dict[str, Callable[[str, Any], Any]] = {
    "the same twice": nothing,
    "Deep Shrink": effect("deep_shrink", "apply_deep_shrink", "DeepShrink"),
    "RAU-Net": effect("rau_net", "apply_rau_net", "RAUNet"),
    "MSW-MSA": effect("msw_msa", "apply_msw_msa", "MSWMSA"),
    "MSW-MSA native": effect("msw_msa", "apply_msw_msa", "MSWMSA", windows="native", trained_size=TRAINED),
    "HiDiffusion published": effect(
        "hidiffusion", "apply_hidiffusion", "HiDiffusion", mode="published", trained_size=TRAINED
    ),
    "HiDiffusion auto at the trained size": effect(
        "hidiffusion", "apply_hidiffusion", "HiDiffusion", trained_size=4096
    ),
}
FACES: dict[str, Callable[[str, Any], Any]] = {
    "InstantID": face,
    "InstantID in a mask": partial(face, mask=torch.linspace(0, 1, 256).repeat(1, 256, 1)),
    "InstantID outside its window": partial(face, end_at=0.05),
}
SMALL, LARGE = (16, 16), (64, 48)


def one_call(model: Any, size: tuple[int, int], sigma: float) -> Callable[[], torch.Tensor]:
    return partial(sample, model, size, sigmas=torch.tensor([sigma, 0.0]))


def median_of(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the median and its 95 % interval, computed from the ranks of the values."""
    ordered, half = sorted(values), 0.98 * len(values) ** 0.5
    middle = len(ordered) / 2
    low, high = ordered[max(0, int(middle - half))], ordered[min(len(ordered) - 1, int(middle + half))]
    return ordered[len(ordered) // 2], low, high


def row(title: str, name: str, calls: dict[str, Callable[[], object]], rounds: int) -> str:
    seconds = interleave(calls, rounds)
    pairs = [now / before for now, before in zip(seconds[NOW], seconds[BEFORE], strict=True)]
    median, low, high = median_of(pairs)
    return f"| {title} | {name} | {median:.3f} | {low:.3f} to {high:.3f} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--folder", type=Path, required=True, help="the pack at an earlier commit")
    parser.add_argument("--only", default="", help="a part of an effect's name")
    parser.add_argument("--what", default="", help="the first column of the rows; all by default")
    parser.add_argument("--share", type=float, default=1.0, help="of the rounds")
    options = parser.parse_args()
    import_pack(options.folder, BEFORE)
    cheap, dear = random_models.sd15(model_channels=32), random_models.sd15(model_channels=64)
    xl = random_models.sdxl(model_channels=32)
    cases = [
        *(("one call, inside, SD 1.5", cheap, SMALL, INSIDE, 120, each) for each in EFFECTS),
        *(("one call, outside, SD 1.5", cheap, SMALL, OUTSIDE, 120, each) for each in EFFECTS),
        *(("one call, inside, SD 1.5, 512 x 384 px", dear, LARGE, INSIDE, 15, each) for each in EFFECTS),
        *(("20 steps, SD 1.5", cheap, SMALL, None, 15, each) for each in EFFECTS),
        *(("one call, SDXL", xl, SMALL, INSIDE, 40, each) for each in FACES),
        *(("20 steps, SDXL", xl, SMALL, None, 7, each) for each in FACES),
    ]
    print("| what | effect | now / before | 95 % interval of the median |")
    print("| --- | --- | --- | --- |")
    for title, plain, size, sigma, rounds, name in cases:
        if options.only not in name or options.what not in ("", title):
            continue
        apply = {**EFFECTS, **FACES}[name]
        models = {pack: apply(pack, plain) for pack in (NOW, BEFORE)}
        calls: dict[str, Callable[[], object]] = {
            pack: one_call(model, size, sigma) if sigma else partial(sample, model, size, steps=20)
            for pack, model in models.items()
        }
        print(row(title, name, calls, max(5, int(rounds * options.share))), flush=True)


if __name__ == "__main__":
    main()
