"""What tiled upscaling costs beside the untiled network and beside ComfyUI's own node,
over real architectures.

CPU seconds of whole node calls, one process, interleaved, random weights. The bound is the network on the
whole image in one piece, in float32, without a node around it. Models are measured before (as in every run
but a user's first).

* exact: `precision: float32`. The tiles' margins come on top of the bound; smaller tensors take away from it.
* fast: `precision: auto`, what a user gets. bfloat16 is what it may choose where a probe allows it.

Expected: exact within 1.03 of the bound or below it, because tensors above 32 MiB come from fresh pages on
every call; fast at least 1.3 times as fast as the host's node on convolutional networks.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from devhost.host import import_host

import_host()

import comfy.model_patcher
import folder_paths
import torch
from comfy_extras.nodes_upscale_model import ImageUpscaleWithModel
from megapixel.nodes.upscale import MegapixelUpscale

from devhost.timing import interleave, ratios
from devhost.tiny.random_upscalers import pictures, random_upscaler

SIDES = (640, 576)  # more than one of the host's tiles on both axes
DEAR_SIDES = (560, 528)
CASES: dict[str, tuple[tuple[int, int], int]] = {  # size, rounds
    "Compact 16x4": (SIDES, 7),
    "Compact 64x16": (SIDES, 3),
    "SPAN 48": (SIDES, 3),
    "ESRGAN 32x2": (SIDES, 3),
    "ESRGAN 32x2 2x": (SIDES, 3),
    "ESRGAN 64x6": (DEAR_SIDES, 2),
    "PLKSR 12": (DEAR_SIDES, 2),
    "SwinIR": (DEAR_SIDES, 3),
    "DITN": (DEAR_SIDES, 2),
    "SAFMN": (SIDES, 3),
    "SwiftSRGAN": (DEAR_SIDES, 2),
    "MoSR": (DEAR_SIDES, 2),
    "OmniSR": (DEAR_SIDES, 3),
    "RCAN": (DEAR_SIDES, 2),
    "DAT": (DEAR_SIDES, 2),
}
COLUMNS = ("host", "exact", "fast", "bfloat16")


def loaded(name: str) -> Any:
    """Return a model as the host's loader would hand it on."""
    model: Any = random_upscaler(name)
    cpu = torch.device("cpu")
    model.patcher = comfy.model_patcher.CoreModelPatcher(model.model, load_device=cpu, offload_device=cpu)
    return model


def variants(name: str, image: torch.Tensor) -> dict[str, Callable[[], torch.Tensor]]:
    """Return the calls to compare; each has a model of its own, as in a graph of its own."""
    untiled = loaded(name)
    whole = image.movedim(-1, 1).contiguous()
    calls: dict[str, Callable[[], torch.Tensor]] = {
        "untiled": lambda: untiled(whole.clone()).movedim(1, -1),
        # A copy, because RCAN writes into what the host's node gives it: the image itself.
        "host": lambda: ImageUpscaleWithModel.execute(untiled, image.clone()).args[0],
    }
    for label, precision in (("exact", "float32"), ("fast", "auto"), ("bfloat16", "bfloat16")):
        model = loaded(name)

        def call(model: Any = model, precision: str = precision, image: torch.Tensor = image) -> torch.Tensor:
            return MegapixelUpscale.execute(model, image, precision=precision).args[0]

        with contextlib.suppress(ValueError):  # not every model can compute in bfloat16
            call(image=image[:, :64, :64])
            calls[label] = call
    return calls


def main() -> None:
    """Print a row for each architecture as it is measured."""
    parser = argparse.ArgumentParser(prog="dev.py bench upscale", description=__doc__)
    parser.add_argument("--names", nargs="*", choices=list(CASES), default=list(CASES))
    options = parser.parse_args()
    print(
        "| model | picture | untiled, s | " + " | ".join(f"{name}" for name in COLUMNS) + " | differences |"
    )
    print("| --- " * (len(COLUMNS) + 4) + "|")
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        folder_paths.set_user_directory(str(Path(folder)))  # what is measured here stays here
        for name in options.names:
            print(_row(name), flush=True)


def _row(name: str) -> str:
    (height, width), rounds = CASES[name]
    image = pictures(1, 3, height, width).movedim(1, -1).contiguous()
    calls = variants(name, image)
    expected = calls["untiled"]()
    differences = [
        f"{label} {(calls[label]() - expected).abs().max():.0e}" for label in calls if label != "untiled"
    ]
    seconds = interleave(calls, max(2, rounds))
    shares = ratios(seconds, "untiled")
    cells = [
        "{:.2f} ({:.2f} to {:.2f})".format(*shares[label]) if label in shares else "not allowed"
        for label in COLUMNS
    ]
    untiled = statistics.median(seconds["untiled"])
    return f"| {name} | {width}x{height} | {untiled:.1f} | {' | '.join(cells)} | {', '.join(differences)} |"


if __name__ == "__main__":
    main()
