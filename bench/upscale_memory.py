"""How much main memory tiled upscaling takes beyond its result, beside ComfyUI's own node.

Each case runs in a fresh process: growth of the peak resident memory over what the process held before, once
the model was measured and one small image went through. "Beyond the result" is that growth without the result
itself.

Expected: at the host's tile size no more than the host's node; with many frames the same as with one.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

FRAMES = (1, 10, 60)
CASES: dict[str, tuple[str, tuple[int, int, int]]] = {  # label: model, (frames, height, width)
    "768x512": ("Compact 16x4", (1, 512, 768)),
    "4 of 768x512": ("Compact 16x4", (4, 512, 768)),
    "1920x1080": ("Compact 16x4", (1, 1080, 1920)),
    "768x512, ESRGAN": ("ESRGAN 32x2", (1, 512, 768)),
}
SIDES = {"host": None, "ours, tiles of 512": 512, "ours, automatic": 0}


def measure(model: str, shape: tuple[int, int, int], tile: int | None) -> tuple[float, float]:
    """Return (growth, result) in MB of one node call in a process of its own."""
    command = [sys.executable, "-m", "bench.upscale_memory", "--child", json.dumps([model, shape, tile])]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    growth, result = json.loads(output.splitlines()[-1])
    return growth, result


def child(model_name: str, shape: tuple[int, int, int], tile: int | None) -> None:
    """Run one case and print its figures."""
    from devhost.host import import_host

    import_host()
    import folder_paths
    import psutil
    import torch
    from comfy_extras.nodes_upscale_model import ImageUpscaleWithModel
    from megapixel.nodes.upscale import MegapixelUpscale

    from bench.upscale import loaded
    from devhost.tiny.random_upscalers import pictures

    frames, height, width = shape
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        folder_paths.set_user_directory(str(Path(folder)))
        model = loaded(model_name)

        def run(image: torch.Tensor) -> torch.Tensor:
            if tile is None:
                return ImageUpscaleWithModel.execute(model, image).args[0]
            return MegapixelUpscale.execute(model, image, precision="float32", tile_size=tile).args[0]

        run(pictures(1, 700, 100, 3) if tile else pictures(1, 64, 64, 3))
        image = pictures(frames, height, width, 3)
        before = psutil.Process().memory_info().rss
        result = run(image)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps([(peak - before) / 1e6, result.nbytes / 1e6]))


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(prog="dev.py bench upscale_memory", description=__doc__)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*json.loads(options.child))
        return
    print("| picture | result, MB | " + " | ".join(f"{side}, MB beyond it" for side in SIDES) + " |")
    print("| --- " * (len(SIDES) + 2) + "|")
    for label, (model, shape) in CASES.items():
        figures = [measure(model, shape, tile) for tile in SIDES.values()]
        cells = [f"{growth - result:.0f}" for growth, result in figures]
        print(f"| {label} | {figures[0][1]:.0f} | {' | '.join(cells)} |", flush=True)
    print("\n| frames of 512x512 at 4x | result, MB | ours, MB beyond it |\n| --- | --- | --- |")
    for frames in FRAMES:
        growth, result = measure("Compact 16x4", (frames, 512, 512), 0)
        print(f"| {frames} | {result:.0f} | {growth - result:.0f} |", flush=True)


if __name__ == "__main__":
    main()
