"""Our nodes beside the original ones, run unchanged: relative rms difference of what is sampled, in one process.

The packs are not part of this one. Fetch them into one folder, each under its own name, and name the folder:

    python3 dev.py bench originals --packs FOLDER

Tiny random models of the real classes, fp32, PyTorch attention. Expected: 0, which is at most 1e-5 here: the order of a few
float32 operations differs.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from devhost.host import import_host

import_host()

import numpy as np
import torch
from megapixel.attention.instant_id import InstantID, projection_key
from megapixel.attention.resampler import ResamplerShape
from megapixel.nodes.instant_id import MegapixelInstantIDApply
from torch import Tensor, nn

from devhost.sampling import sample
from devhost.tiny import random_models, topology
from devhost.tiny.random_faces import as_bin

Difference = tuple[str, float]

INSTANT_ID = "ComfyUI_InstantID"


def load_pack(folder: Path) -> ModuleType:
    """Import a pack as the host does: as a package of its own, whatever its folder is called."""
    name = f"original_{folder.name.lower()}".replace("-", "_")
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def difference(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).square().mean() / theirs.square().mean()).sqrt().item()


# InstantID


class Analysis:
    """A FaceAnalysis for both packs: whatever picture there is, its face lies in the middle and its first pixel says who it is."""

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


PARTS: dict[str, Callable[[Path], Iterator[Difference]]] = {"instant_id": instant_id}


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
