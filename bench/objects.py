"""How many objects each method draws, on the tiny trained model: a table of methods by sizes.

Every cell holds the same seeds and prompts, so a method is paired with plain sampling picture by picture. `--quick` is a
tenth of the pictures at two sizes.

Expected (from the published pictures and a first count of Deep Shrink): plain fails more the larger the picture; a
rescaling cures twice the size and helps at three times; windows neither help nor harm.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from devhost.host import import_host

import_host()

import torch
from megapixel.patches import msw_msa
from megapixel.patches.deep_shrink import DeepShrink, apply_deep_shrink
from megapixel.patches.hidiffusion import HiDiffusion, apply_hidiffusion
from megapixel.patches.msw_msa import apply_msw_msa
from megapixel.patches.rau_net import Published, apply_rau_net, known_preset
from megapixel.patches.topology import topology_of

from devhost.sampling import sample
from devhost.tiny.counting import PictureCount, count_objects, summarise
from devhost.tiny.forms import CLASS_TEXTS
from devhost.tiny.node import load_trained_sd15

TRAINED = 128  # px: 16 latent pixels
SIZES = {"1x": (16, 16), "1.5x": (24, 24), "2x": (32, 32), "3x": (48, 48), "1:2": (24, 48)}
BATCH = 32


def topology(model: Any) -> Any:
    return topology_of(model.get_model_object("diffusion_model"))


def windows(model: Any, **settings: Any) -> Any:
    config = msw_msa.known_preset(topology(model), start=0.0, trained_size=TRAINED, **settings)
    return apply_msw_msa(model, config)


METHODS: dict[str, Callable[[Any], Any]] = {
    "plain": lambda model: model,
    "Deep Shrink auto": lambda model: apply_deep_shrink(model, DeepShrink(mode="auto", trained_size=TRAINED)),
    "RAU-Net published": lambda model: apply_rau_net(model, Published()),
    "RAU-Net + MSW-MSA 2x2, published": lambda model: windows(apply_rau_net(model, Published())),
    "RAU-Net + MSW-MSA native": lambda model: windows(apply_rau_net(model, Published()), windows="native"),
    "RAU-Net low preset": lambda model: apply_rau_net(model, known_preset(topology(model), "low")),
    "HiDiffusion auto": lambda model: apply_hidiffusion(model, HiDiffusion(trained_size=TRAINED)),
}


def counts(
    checkpoint: Any, method: Callable[[Any], Any], size: tuple[int, int], pictures: int, seed: int
) -> Iterator[PictureCount]:
    """Yield the count of each picture; picture i has the same noise and prompt whatever the method."""
    model, clip, _ = checkpoint
    patched = method(model)

    def encode(text: str) -> torch.Tensor:
        return clip.encode_from_tokens_scheduled(clip.tokenize(text))[0][0]

    texts = torch.cat([encode(text) for text in CLASS_TEXTS])
    for batch in range(math.ceil(pictures / BATCH)):
        classes = [
            number % len(CLASS_TEXTS) for number in range(batch * BATCH, min(pictures, (batch + 1) * BATCH))
        ]
        latents = sample(
            patched, size, batch=len(classes), steps=20, cfg=2.5, sampler="dpmpp_2m", seed=seed + batch,
            positive=[[texts[classes], {}]], negative=[[encode(""), {}]],
        )  # fmt: skip
        yield from count_objects(latents.float(), classes)


def discordant(plain: list[PictureCount], other: list[PictureCount]) -> tuple[int, int, float]:
    """Return how many pictures became whole, how many broke, and the sign test's two-sided probability."""
    gained = sum(b.whole and not a.whole for a, b in zip(plain, other, strict=True))
    lost = sum(a.whole and not b.whole for a, b in zip(plain, other, strict=True))
    n, k = gained + lost, min(gained, lost)
    return gained, lost, min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n) if n else 1.0


def kept(file: Path | None) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file and file.exists() else {}


def cell(checkpoint: Any, name: str, label: str, pictures: int, seed: int) -> dict[str, Any]:
    began = time.process_time()
    found = [asdict(count) for count in counts(checkpoint, METHODS[name], SIZES[label], pictures, seed)]
    return {"seed": seed, "pictures": found, "seconds": round(time.process_time() - began)}


def row(label: str, name: str, cells: Mapping[str, Any]) -> str:
    plain, found = (
        [PictureCount(**picture) for picture in cells[f"{label} / {method}"]["pictures"]]
        for method in ("plain", name)
    )
    summary, (gained, lost, p) = summarise(found), discordant(plain, found)
    low, high = summary.share_whole_interval
    return (
        f"| {label} | {name} | {len(found)} | {summary.share_one:.3f} | {summary.share_whole:.3f} ({low:.2f} to {high:.2f}) "
        f"| {summary.mean_count:.2f} | {summary.edge:.2f} | +{gained} / -{lost}, {p:.1g} "
        f"| {cells[f'{label} / {name}']['seconds']} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=256)
    parser.add_argument("--seed", type=int, default=10_000)
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--sizes", nargs="*", default=list(SIZES), choices=SIZES)
    parser.add_argument(
        "--keep", type=Path, help="a file for every picture's count; what it has is not drawn again"
    )
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.pictures, options.sizes = options.pictures // 10, ["1x", "2x"]
    checkpoint, cells = load_trained_sd15(), kept(options.keep)
    print(
        "| size | method | n | one | whole (95 % interval) | mean count | edge | gained / lost, p | CPU s |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for label in options.sizes:
        for name in dict.fromkeys(["plain", *options.methods]):
            if f"{label} / {name}" not in cells:
                cells[f"{label} / {name}"] = cell(checkpoint, name, label, options.pictures, options.seed)
            print(row(label, name, cells), flush=True)
            if options.keep:
                options.keep.write_text(json.dumps(cells) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
