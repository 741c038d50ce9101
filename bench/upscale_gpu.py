"""How near tiled upscaling comes to what the device can do: the network alone, and nothing around it.

    python3 dev.py bench upscale_gpu --write        # on a GPU: all cases, and the table in
    bench/results/upscale_gpu.md
    python3 dev.py bench upscale_gpu --small        # on a CPU, in minutes: the same code on small images

*bound*: the network alone in half precision and channels_last on images that lie on the device, the better of
eager and torch.compile. *share*: the bound's seconds divided by those of the whole node, from the image in
main memory to the result there, at `precision: auto`. *core*: seconds of ComfyUI's own node divided by the
node's. Wall-clock seconds, one process, interleaved, random weights, models measured before (as in every run
but a user's first).

*launches* and *copies* count what the node asks torch to do, and what the network alone does: operations that
compute, and those that only move or convert numbers. They are the same on every device.

Expected on a GPU: a share of at least 0.85 for ESRGAN and 0.6 for the others; never slower than core.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devhost.host import import_host

import_host()

import folder_paths
import torch
from comfy_extras.nodes_upscale_model import ImageUpscaleWithModel
from megapixel.nodes.upscale import MegapixelUpscale
from megapixel.upscale.tensor_format import TensorFormat, copy_descriptor
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bench.upscale import loaded
from devhost.environment import ROOT
from devhost.tiny.random_upscalers import pictures

NAMES = ("ESRGAN 64x23", "Compact 64x32", "SPAN 48", "PLKSR 12")
CASES = {"1024x1024": (1, 1024, 1024), "1920x1080": (1, 1080, 1920), "16 of 1280x720": (16, 720, 1280)}
SMALL = {"64x48": (1, 48, 64), "3 of 40x32": (3, 32, 40)}
RESULTS = ROOT / "bench" / "results" / "upscale_gpu.md"
COPIES = {"copy_", "clone", "_to_copy", "contiguous", "cat", "stack"}
FREE = {
    "view",
    "_unsafe_view",
    "t",
    "transpose",
    "permute",
    "slice",
    "select",
    "unsqueeze",
    "squeeze",
    "expand",
    "detach",
}
FREE |= {
    "alias",
    "as_strided",
    "empty",
    "empty_strided",
    "split",
    "unbind",
    "lift_fresh",
    "_local_scalar_dense",
}


@dataclass(frozen=True)
class Counts:
    """Operations that compute, and operations that only move numbers."""

    launches: int
    copies: int


class _Operations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        self.launches = self.copies = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.copies += name in COPIES
        self.launches += name not in COPIES | FREE
        return func(*args, **(kwargs or {}))


def count(work: Callable[[], object]) -> Counts:
    """Return what `work` asks torch to do."""
    with _Operations() as operations:
        work()
    return Counts(operations.launches, operations.copies)


def bound(name: str, images: Tensor, device: torch.device) -> dict[str, Callable[[], object]]:
    """Return the network alone on images on the device, as it is and compiled; on a CPU in float32."""
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    network = copy_descriptor(loaded(name), TensorFormat(dtype, channels_last=True)).model.to(device)
    given = images.movedim(-1, 1).to(device, dtype).contiguous(memory_format=torch.channels_last)
    ways = {"eager": network}
    if device.type == "cuda":
        ways["compiled"] = torch.compile(network, dynamic=False)  # pyright: ignore[reportArgumentType]

    def alone(network: torch.nn.Module) -> None:
        for picture in given:
            network(picture[None])
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    runs: dict[str, Callable[[], object]] = {}
    for way, module in ways.items():
        with contextlib.suppress(Exception):  # the compiler fails on networks that change weights as they run
            alone(module)
            runs[way] = lambda module=module: alone(module)
    return runs


def seconds_of(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median wall-clock seconds of each, in turn, after one round to warm up."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(-1, rounds):
        for way, work in ways.items():
            started = time.perf_counter()
            work()
            if number >= 0:
                seconds[way].append(time.perf_counter() - started)
    return {way: statistics.median(times) for way, times in seconds.items()}


def rows(names: list[str], cases: Mapping[str, tuple[int, int, int]], rounds: int) -> Iterator[str]:
    """Yield the table, a row for each model and case as it is measured."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    yield "| model | pictures | bound, s | node, s | share | core | launches (alone) | copies (alone) |"
    yield "| --- " * 8 + "|"
    for name in names:
        model, hosts = loaded(name), loaded(name)
        for descriptor in (model, hosts):
            descriptor.patcher.load_device = device
        for label, (frames, height, width) in cases.items():
            images = pictures(frames, height, width, 3)

            def node(model: Any = model, images: Tensor = images) -> Tensor:
                return MegapixelUpscale.execute(model, images).args[0]

            def core(model: Any = hosts, images: Tensor = images) -> Tensor:
                return ImageUpscaleWithModel.execute(model, images.clone()).args[0]

            for _ in range(2):  # what is left for later is measured too
                node()
            alone = bound(name, images, device)
            ours, network = count(node), count(alone["eager"])
            seconds = seconds_of({**alone, "node": node, "core": core}, rounds)
            best = min(seconds[way] for way in alone)
            yield (
                f"| {name} | {label} | {best:.3f} | {seconds['node']:.3f} | {best / seconds['node']:.2f} "
                f"| {seconds['core'] / seconds['node']:.1f} | {ours.launches} ({network.launches}) "
                f"| {ours.copies} ({network.copies}) |"
            )


def main() -> None:
    """Print a row for each model and case, and write the table where that is asked for."""
    parser = argparse.ArgumentParser(prog="dev.py bench upscale_gpu", description=__doc__)
    parser.add_argument("--names", nargs="*", choices=NAMES, default=list(NAMES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="small pictures, for a CPU")
    parser.add_argument(
        "--write", action="store_true", help=f"write the table to {RESULTS.relative_to(ROOT)}"
    )
    options = parser.parse_args()
    table: list[str] = []
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        folder_paths.set_user_directory(str(Path(folder)))  # what is measured here stays here
        for row in rows(options.names, SMALL if options.small else CASES, options.rounds):
            table.append(row)
            print(row, flush=True)
    if options.write:
        where = torch.cuda.get_device_name() if torch.cuda.is_available() else "a CPU"
        head = f"# Tiled upscaling beside the network alone\n\nOn {where}, torch {torch.__version__}.\n\n"
        RESULTS.write_text(f"{head}{(__doc__ or '').strip()}\n\n" + "\n".join(table) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
