"""Our nodes compared with the original ones, which run unchanged: relative rms difference of the samples, in
one process.

The packs are not part of this one. Fetch them into one folder, each under its own name, and name the folder:

    python3 dev.py bench originals --packs FOLDER

Tiny random models of the real classes, fp32, PyTorch attention. Expected: 0, which is at most 1e-5 here: the
order of a few float32 operations differs.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import cycle
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from devhost.host import import_host, import_pack

import_host()

import numpy as np
import torch
from comfy.samplers import calculate_sigmas
from megapixel.attention.instant_id import InstantID, projection_key
from megapixel.attention.resampler import ResamplerShape
from megapixel.nodes.instant_id import MegapixelInstantIDApply
from megapixel.patches.model_call import first_call
from megapixel.patches.msw_msa import apply_msw_msa, original_preset as original_windows
from megapixel.patches.rau_net import apply_rau_net
from megapixel.patches.rau_net_preset import Resolution, original_preset
from megapixel.patches.rau_net_settings import RAUNet
from megapixel.patches.topology import topology_of
from megapixel.patches.wrapper import effects_of
from megapixel.scaling.size import Size
from torch import Tensor, nn

from devhost.sampling import sample
from devhost.tiny import random_models, topology
from devhost.tiny.random_faces import as_bin

Difference = tuple[str, float]

INSTANT_ID, JANK = "ComfyUI_InstantID", "comfyui_jankhidiffusion"


def load_pack(folder: Path) -> ModuleType:
    """Import a pack under a recognisable name."""
    return import_pack(folder, f"original_{folder.name.lower()}".replace("-", "_"))


def difference(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).square().mean() / theirs.square().mean()).sqrt().item()


# InstantID


class Analysis:
    """A FaceAnalysis for both packs: every image has one face in the middle, and its first pixel is the
    identity.
    """

    points = np.array([[40, 40], [60, 40], [50, 52], [42, 62], [58, 62]], np.float32)
    box = np.array([[20, 20, 80, 80, 0.9]], np.float32)

    def __init__(self) -> None:
        self.det_model = SimpleNamespace(input_size=(640, 640))
        self.models = {"detection": self, "recognition": SimpleNamespace(get=lambda picture, _: who(picture))}

    def detect(self, picture: Any, input_size: Any) -> tuple[Any, Any]:
        return self.box, self.points[None]

    def get(self, picture: Any) -> list[dict[str, Any]]:
        embedding = torch.from_numpy(who(picture)).numpy()
        return [{"bbox": self.box[0, :4], "kps": self.points, "embedding": embedding}]


def who(picture: Any) -> Any:
    return np.random.default_rng(int(picture[0, 0].sum())).normal(size=512).astype(np.float32)


def instant_id_state() -> dict[str, Tensor]:
    """Return random weights in the shapes that the original network has, narrow inside."""
    shape = ResamplerShape(width=128, hidden=512)
    widths = [64] * 4 + [128] * 50 + [64] * 6 + [128] * 10
    network = InstantID(shape, widths, lambda *_: torch.empty(0), nn)
    generator = torch.Generator().manual_seed(0)
    assert projection_key(69) == "139"
    return {
        name: torch.randn(value.shape, generator=generator) * value.shape[-1] ** -0.5
        for name, value in network.state_dict().items()
    }


def people(*names: int) -> Tensor:
    pictures = torch.full((len(names), 100, 100, 3), 0.5)
    for picture, name in zip(pictures, names, strict=True):
        picture[0, 0] = name / 255
    return pictures


KNOWN = {"start_at": 0.0, "end_at": 1.0, "noise": 0.35}
FACES: dict[str, tuple[Tensor, float, dict[str, Any]]] = {  # references, weight, further settings
    "plain": (people(1), 0.8, {}),
    "weight 0.3": (people(1), 0.3, {}),
    "weight 2.5": (people(1), 2.5, {}),
    "the ControlNet weaker": (people(1), 0.8, {"cn_strength": 0.4}),
    "noise 0.1": (people(1), 0.8, {"noise": 0.1}),
    "window 0.2 to 0.7": (people(1), 0.8, {"start_at": 0.2, "end_at": 0.7}),
    "average of two": (people(1, 2), 0.8, {}),
    "norm average of two": (people(1, 2), 0.8, {"combine_embeds": "norm average"}),
    "concat of two": (people(1, 2), 0.8, {"combine_embeds": "concat"}),
    "concat of three": (people(1, 2, 3), 0.8, {"combine_embeds": "concat"}),
}


def instant_id(packs: Path) -> Iterator[Difference]:
    pack = load_pack(packs / INSTANT_ID)
    network = sys.modules[f"{pack.__name__}.InstantID"].InstantID(as_bin(instant_id_state()), 128, 2048)
    apply = pack.NODE_CLASS_MAPPINGS["ApplyInstantIDAdvanced"]().apply_instantid
    model, control = random_models.sdxl(), random_models.controlnet(topology.SDXL, effect=0.3)
    conditions = [random_models.conditioning(model, seed) for seed in (1, 2)]
    for name, (image, weight, case) in FACES.items():
        given = (network, Analysis(), control, image, model, *conditions)
        settings = KNOWN | case
        with torch.inference_mode():
            ours = MegapixelInstantIDApply.execute(*given, weight=weight, middle_block=False, **settings).args
            settings.setdefault("cn_strength", weight)
            theirs = apply(*given, ip_weight=weight, **settings)
        for batch in (1, 2):
            run = {"batch": batch, "steps": 6 if "window" in name else 1, "cfg": 5.0}
            results = [
                sample(patched, (8, 6), positive=positive, negative=negative, **run)
                for patched, positive, negative in (ours, theirs)
            ]
            yield f"{name}, batch {batch}", difference(*results)


# RAU-Net and MSW-MSA

SCHEDULERS = (
    "normal",
    "sgm_uniform",
    "simple",
    "karras",
    "exponential",
    "ddim_uniform",
    "beta",
    "linear_quadratic",
    "kl_optimal",
)
HIGH = torch.tensor([10.0, 0.0])  # one step, inside of all windows


def sizes(count: int, multiple: int = 1, least: int = 9) -> list[Size]:
    """Return different latent sizes from `least` to 40 pixels,
    that is images with sides that are multiples of 8.
    """
    rng = random.Random(1)
    sides = [side for side in range(least, 41) if side % multiple == 0]
    return rng.sample([(height, width) for height in sides for width in sides], count)


def jank(packs: Path) -> tuple[dict[str, Any], Any]:
    """Return the nodes of the pack, and its module of shared functions;
    its changes to ComfyUI are reverted.
    """
    pack = load_pack(packs / JANK)
    rau_net = sys.modules[f"{pack.__name__}.py.raunet"]
    rau_net.GLOBAL_STATE.no_controlnet_workaround = True
    return pack.NODE_CLASS_MAPPINGS, sys.modules[f"{pack.__name__}.py.utils"]


def families() -> dict[str, Any]:
    shallow = {
        "transformer_depth": [0, 0, 1, 1, 1, 1],
        "transformer_depth_output": [0, 0, 0, 1, 1, 1, 1, 1, 1],
    }
    return {"SD 1.5": random_models.sd15(), "SDXL": random_models.sdxl(transformer_depth_middle=1, **shallow)}


RESOLUTIONS: dict[Resolution, str] = {
    "low": "low (1024 or lower)",
    "high": "high (1536-2048)",
    "ultra": "ultra (over 2048)",
}


def rau_net(packs: Path) -> Iterator[Difference]:
    nodes, _ = jank(packs)
    for family, model in families().items():
        topology_here = topology_of(model.get_model_object("diffusion_model"))
        variants: dict[str, tuple[Any, Any]] = {}
        for ours, theirs in RESOLUTIONS.items():
            original = simple_rau_net(nodes, model, theirs)
            variants[f"simple, {ours}"] = apply_rau_net(model, original_preset(topology_here, ours)), original
        for mode in ("avg_pool2d", "adaptive_avg_pool2d", "bicubic"):
            settings = replace(
                RAUNet(), **asdict(original_preset(topology_here, "ultra")) | {"ca_downscale_mode": mode}
            )
            variants[mode] = apply_rau_net(model, settings), original_rau_net(nodes, model, settings)
        yield from over_sizes(family, variants, sizes(200))


def simple_rau_net(nodes: dict[str, Any], model: Any, resolution: str) -> Any:
    """Return the model with the original node's preset of a resolution, a value of `RESOLUTIONS`."""
    return nodes["ApplyRAUNetSimple"].patch(
        model=model, model_type="auto", res_mode=resolution, upscale_mode="default", ca_upscale_mode="default"
    )[0]


def original_rau_net(nodes: dict[str, Any], model: Any, settings: RAUNet) -> Any:
    given = {name: value for name, value in asdict(settings).items() if value is not None}
    lists = {name: ",".join(map(str, blocks)) for name, blocks in given.items() if name.endswith("_blocks")}
    return nodes["ApplyRAUNet"].patch(model=model, **given | lists)[0]


def over_sizes(
    family: str, variants: dict[str, tuple[Any, Any]], chosen: Sequence[Size]
) -> Iterator[Difference]:
    """Yield the largest difference of each variant; the variants are distributed over the sizes."""
    largest = dict.fromkeys(variants, 0.0)
    counts = dict.fromkeys(variants, 0)
    raised: list[Size] = []
    for number, size in enumerate(chosen):
        name = list(variants)[number % len(variants)]
        ours, theirs = (partial(sample, each, size, cfg=1.0, sigmas=HIGH) for each in variants[name])
        result = ours()
        try:
            expected = theirs()
        except (RuntimeError, ValueError):
            raised.append(size)
            continue
        largest[name] = max(largest[name], difference(result, expected))
        counts[name] += 1
    for name, value in largest.items():
        yield f"{family}, {name}: {counts[name]} sizes", value
    yield f"{family}, sizes at which the original raises: {raised or 'none'}", 0.0


def ends(packs: Path) -> Iterator[Difference]:
    """Yield for each end the steps at which only one of the two is on, over schedulers and 4 to 50 steps."""
    _, utils = jank(packs)
    sampling = random_models.sd15().get_model_object("model_sampling")
    for end in (0.3, 0.35, 0.4, 0.45, 0.5, 0.6):
        start_sigma, end_sigma = utils.convert_time(sampling, utils.TimeMode.PERCENT, 0.0, end)
        differing = count = 0
        for scheduler in SCHEDULERS:
            for steps in range(4, 51):
                sigmas = calculate_sigmas(sampling, scheduler, steps)
                window = RAUNet(end_time=end).schedule.resolve(sampling, tuple(sigmas.tolist()))
                on = [bool(window.strength(sigma)) for sigma in sigmas[:-1].tolist()]
                theirs = [
                    utils.check_time({"sigmas": each[None]}, start_sigma, end_sigma) for each in sigmas[:-1]
                ]
                differing += sum(one != other for one, other in zip(on, theirs, strict=True))
                count += len(on)
        yield f"end {end}: steps of {count} that differ", float(differing)


def msw_msa(packs: Path) -> Iterator[Difference]:
    nodes, _ = jank(packs)
    original = nodes["ApplyMSWMSAAttention"]
    for family, model in families().items():
        settings = original_windows(topology_of(model.get_model_object("diffusion_model")), 0.0)
        blocks = {
            name: ",".join(map(str, getattr(settings, name)))
            for name in ("input_blocks", "middle_blocks", "output_blocks")
        }
        [theirs] = original.patch(model=model, time_mode="percent", start_time=0.0, end_time=1.0, **blocks)
        ours = apply_msw_msa(model, settings)
        shifts = cycle(effects_of(ours)["msw_msa"].plan(first_call(ours, (32, 32), HIGH)).quarters)
        original.get_shift = staticmethod(
            lambda *_, shifts=shifts, **__: next(shifts)
        )  # the same draws for both
        # Grids of even sides with windows of at least 4 tokens a side, at the first level with attention.
        even, least = {"SD 1.5": (2, 9), "SDXL": (4, 16)}[family]
        yield from over_sizes(family, {"even grids": (ours, theirs)}, sizes(40, even, least))


PARTS: dict[str, Callable[[Path], Iterator[Difference]]] = {
    "instant_id": instant_id, "rau_net": rau_net, "ends": ends, "msw_msa": msw_msa,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packs", type=Path, help="the folder of the original packs")
    parser.add_argument("--only", choices=PARTS)
    options = parser.parse_args()
    if options.packs is None:
        print("Nothing to compare with: --packs names the folder of the original packs.")
        return
    for part in [options.only] if options.only else PARTS:
        print(f"| {part} | difference |\n| --- | --- |")
        for name, value in PARTS[part](options.packs):
            print(f"| {name} | {value:.1e} |", flush=True)


if __name__ == "__main__":
    main()
