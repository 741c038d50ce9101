"""How far a tiled result lies from the untiled one, for every architecture,
beside ComfyUI's own way of tiling.

Random weights in float32, results inside (0, 1), odd sizes. *Exact* networks are given tiles with the
measured margin; *blended* ones look at the whole image, and neighbours are mixed.

Expected: at most 1e-6 for every exact one, which is float32's own noise; the host's feathered overlap of 32
pixels lies thousands of times farther off.
"""

from __future__ import annotations

import argparse

from devhost.host import import_host

import_host()

import comfy.utils
import torch
from megapixel.upscale.network import Descriptor, Network
from megapixel.upscale.upscaler import Hooks, Options, upscale_pictures

from devhost.tiny.random_upscalers import NAMES, pictures, random_upscaler

TILES = (128, 192, 256, 512, 1024)
PLENTY = 8 * 2**30  # bytes
SIZES = {"Compact 16x4": (1103, 613), "SPAN 48": (537, 301), "Compact 64x16": (537, 301)}
USUAL_SIZE = (283, 201)
TOO_DEAR = ("ESRGAN 64x23",)


def load(descriptor: Descriptor, device: torch.device) -> None:
    descriptor.model.to(device)


def main() -> None:
    """Print a row for each architecture and each tile that cuts its image."""
    parser = argparse.ArgumentParser(prog="dev.py bench upscale_equality", description=__doc__)
    parser.add_argument("--names", nargs="*", choices=NAMES, default=[n for n in NAMES if n not in TOO_DEAR])
    options = parser.parse_args()
    print("| model | bound, margin, period | tile | plan | largest difference | ComfyUI's tiling |")
    print("| --- " * 6 + "|")
    with torch.inference_mode():
        for name in options.names:
            _rows(name)


def _rows(name: str) -> None:
    descriptor = random_upscaler(name)
    store: dict[str, dict[str, int | None]] = {}
    network = Network(descriptor, [torch.device("cpu")], load, store=store)
    height, width = SIZES.get(name, USUAL_SIZE)
    picture = pictures(1, descriptor.input_channels, height, width)
    untiled = descriptor(picture.clone())
    assert 0 < float(untiled.min()) < float(untiled.max()) < 1, "a clamp would hide differences"
    for tile in (tile for tile in TILES if tile < max(height, width)):
        plans: list[str] = []
        enlarged = upscale_pictures(
            picture, network, Options(tile=tile), Hooks(lambda: PLENTY, log=plans.append)
        )
        # RCAN writes into what it is given, here into the host's own input: a copy keeps ours.
        hosts = comfy.utils.tiled_scale(
            picture.clone(), descriptor, tile, tile, 32, descriptor.scale, descriptor.output_channels
        )
        fields = "; ".join(
            f"{field['bound'] or 'none'}, {field['margin']}, {field['period']}"
            for key, field in store.items()
            if key.startswith("receptive_field")
        )
        differences = [f"{float((other - untiled).abs().max()):.0e}" for other in (enlarged, hosts)]
        print(f"| {name} | {fields} | {tile} | {'; '.join(plans)} | {' | '.join(differences)} |", flush=True)


if __name__ == "__main__":
    main()
