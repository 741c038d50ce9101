"""What Upscale SEGS costs beside its models: cutting, masks, conditioning, pasting, previews.

The whole node runs on an image with 50 elliptic segments, with a VAE and a sampler that cost nothing: they
give back what they were given. CPU milliseconds a segment: those of the node with segments less those
without, by their number. Interleaved, one process.

Expected: at most 7 ms a segment of 512 px, on any canvas. The Impact Pack's node takes 70 ms with its
defaults and 421 ms with feather 50 on 4096x4096 (measured with its sampler and VAE taken out in the same way;
segments of 1024 px: 262 ms).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from devhost.host import import_host

import_host()

import comfy.sample
import torch
from megapixel.host.segment_sampler import Sampling
from megapixel.host.segs import Enlargement, Pasting, upscale_segments
from megapixel.scaling.box import Box
from megapixel.segs.find import box_segment
from megapixel.segs.segment import SEG

from devhost.timing import interleave
from devhost.tiny import random_models

COUNT = 50
CASES = (  # canvas, side of a segment, feather, noise_mask_feather, overlaps
    (2048, 512, 5, 20, "independent"),
    (4096, 512, 5, 20, "independent"),
    (8192, 512, 5, 20, "independent"),
    (4096, 512, 5, 20, "in order"),
    (4096, 512, 0, 0, "independent"),
    (4096, 512, 50, 20, "independent"),
    (4096, 1024, 5, 20, "independent"),
)


class FreeVAE:
    """A VAE that costs nothing: every crop comes back as one and the same noise."""

    def __init__(self) -> None:
        self._pictures: dict[tuple[int, int], torch.Tensor] = {}

    def spacial_compression_encode(self) -> int:
        return 8

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        _, height, width, _ = pixels.shape
        return torch.zeros(1, 4, height // 8, width // 8)

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        size = latent.shape[-2] * 8, latent.shape[-1] * 8
        if size not in self._pictures:
            self._pictures[size] = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
        return self._pictures[size].clone().movedim(1, -1)  # as the host's VAE lays it in memory


def ellipses(canvas: int, side: int) -> list[SEG]:
    """Return segments at places drawn from a seed; on a small canvas many of them overlap."""
    generator = torch.Generator().manual_seed(canvas + side)
    corners = torch.randint(0, canvas - side + 1, (COUNT, 2), generator=generator).tolist()
    axis = torch.linspace(-1, 1, side)
    ellipse = (axis[:, None] ** 2 + axis**2 < 0.9).float()
    size = canvas, canvas
    return [
        box_segment(Box(top, left, top + side, left + side), size, 1.0, lambda _: ellipse)
        for top, left in corners
    ]


def main() -> None:
    """Print a row for each case."""
    parser = argparse.ArgumentParser(prog="dev.py bench segs", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    model, vae = random_models.sd15(), FreeVAE()
    text = random_models.conditioning(model)
    comfy.sample.sample_custom = lambda *given, **named: given[7]  # the latent, as it came
    print("| canvas | segment | feather, noise mask | overlaps | ms a segment | without segments, s |")
    print("| --- | --- | --- | --- | --- | --- |")
    with torch.inference_mode():
        for case in CASES:
            print(_row(case, model, vae, text, rounds), flush=True)


def _row(case: tuple[int, int, int, int, str], model: Any, vae: Any, text: Any, rounds: int) -> str:
    canvas, side, feather, noise_feather, overlaps = case
    image = torch.rand(1, canvas, canvas, 3, generator=torch.Generator().manual_seed(1))
    sampling = Sampling(
        model, vae, text, text, 0, 4, 7.0, "euler", "normal", 0.5, noise_feather, overlaps=overlaps
    )
    pasting = Pasting(feather)

    def run(segments: list[SEG]) -> torch.Tensor:
        return upscale_segments(image, ((canvas, canvas), segments), Enlargement(1.0), sampling, pasting)[0]

    found = ellipses(canvas, side)
    seconds = interleave({"with": lambda: run(found), "without": lambda: run([])}, rounds)
    each = [
        (one - none) / COUNT * 1000 for one, none in zip(seconds["with"], seconds["without"], strict=True)
    ]
    low, middle, high = sorted(each)[0], sorted(each)[len(each) // 2], sorted(each)[-1]
    without = sorted(seconds["without"])[len(each) // 2]
    return (
        f"| {canvas}x{canvas} | {side} | {feather}, {noise_feather} | {overlaps} | {middle:.1f} ({low:.1f} to {high:.1f}) | "
        f"{without:.2f} |"
    )


if __name__ == "__main__":
    main()
