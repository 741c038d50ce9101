"""Large edits in tiles: does a picture stay one picture? Independent and joint segments,
and two other packs on the same tiles.

    python3 dev.py bench segs_joint --packs FOLDER

A drawn scene of the toy world with one object, at the trained size, is enlarged to twice that and sampled
again in tiles of the trained size. By way and denoise:

    objects       mean number of objects in the result; the scene has one
    border jump   mean step of brightness across the edges of tiles divided by the mean step elsewhere. An
    object lies on some of these lines, so the jump of `whole`, the same latent sampled without tiles, is what
    no seam shows; it stands at 1 only by chance
    calls         rows that the network is given for a picture, with and without the prompt
    largest       latent pixels in the largest call: what the memory of the network follows

FOLDER holds other packs as ComfyUI's `custom_nodes` does; those that are not there have no rows. They sample
the whole latent once, with the same text, seed, levels and tiles. Expected: at denoise .8 and above,
independent tiles draw an object each, joint ones fewer, with the border jump of `whole` and as many rows as
independent.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from devhost.host import import_host

import_host()

import torch
from comfy.patcher_extension import WrappersMP
from megapixel.host.segment_sampler import Sampling
from megapixel.host.segs import Enlargement, Pasting, enlarge_image, upscale_segments
from megapixel.patches.deep_shrink import DeepShrink, apply_deep_shrink
from megapixel.segs.find import tile_segments
from torch import Tensor

import nodes as host_nodes
from devhost.environment import ROOT
from devhost.tiny.counting import count_objects
from devhost.tiny.model_file import load_model
from devhost.tiny.scenes import random_scenes
from devhost.tiny.vae import load_vae

TINY = ROOT / "assets" / "tiny"
SIDE, FACTOR = 128, 2  # pixels of a scene and of a tile; how far it is enlarged
OVERLAPS = (32, 64)  # pixels of the result
DENOISES = (0.4, 0.6, 0.8, 1.0)
STEPS, CFG, SAMPLER, SCHEDULER = 12, 3.0, "euler", "normal"
BAND = 4  # pixels at each side of a tile's edge


@dataclass
class Cost:
    """What the network is given."""

    rows: int = 0
    largest: int = 0

    def watch(self, model: Any) -> Any:
        """Return a clone that counts."""
        clone = model.clone()
        clone.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "bench", self._count)
        return clone

    def _count(self, executor: Any, x: Tensor, *rest: Any, **named: Any) -> Any:
        self.rows += len(x)
        self.largest = max(self.largest, len(x) * x.shape[-2] * x.shape[-1])
        return executor(x, *rest, **named)


@dataclass(frozen=True)
class Scene:
    """A scene to edit.

    Attributes:
        image: (1, h, w, 3), small.
        kind: its class.
        text: positive and negative.
    """

    image: Tensor
    kind: int
    text: tuple[Any, Any]
    seed: int


@dataclass
class Row:
    """Results of one way at one denoise."""

    way: str
    overlap: int
    denoise: float
    objects: list[int] = field(default_factory=list[int])
    jumps: list[float] = field(default_factory=list[float])
    cost: Cost = field(default_factory=Cost)

    def __str__(self) -> str:
        count = len(self.objects)
        one = sum(found == 1 for found in self.objects)
        jump = sum(self.jumps) / count
        return (
            f"| {self.way} | {self.overlap} | {self.denoise} | {sum(self.objects) / count:.1f} | {one} of {count} | {jump:.2f} | "
            f"{self.cost.rows // count} | {self.cost.largest} |"
        )


def ours(overlaps: str, shift: bool = False, shrink: bool = False) -> Callable[..., Tensor]:
    """Return a function that refines a scene with our node's way."""

    def run(model: Any, vae: Any, scene: Scene, overlap: int, denoise: float) -> Tensor:
        if shrink:
            model = apply_deep_shrink(model, DeepShrink(mode="auto", trained_size=SIDE // 2))
        sampling = Sampling(
            model, vae, *scene.text, scene.seed, STEPS, CFG, SAMPLER, SCHEDULER, denoise,
            joint=overlaps == "joint", shift_borders=shift,
        )  # fmt: skip
        size = scene.image.shape[1], scene.image.shape[2]
        segs = size, tile_segments(size, SIDE // FACTOR, overlap // FACTOR, None)
        pasting = Pasting(feather=16, overlaps=overlaps, smallest_crop=8)
        return upscale_segments(scene.image, segs, Enlargement(float(FACTOR)), sampling, pasting)[0]

    return run


def whole(model: Any, vae: Any, scene: Scene, overlap: int, denoise: float) -> Tensor:
    """Return a scene refined as one latent, without tiles: no border,
    and objects doubled by the size alone.
    """
    [latent] = host_nodes.VAEEncode().encode(vae, enlarged(scene.image))
    [latent] = host_nodes.KSampler().sample(
        model, scene.seed, STEPS, CFG, SAMPLER, SCHEDULER, *scene.text, latent, denoise=denoise
    )
    return host_nodes.VAEDecode().decode(vae, latent)[0]


def tiled_diffusion(method: str, pack: Any) -> Callable[..., Tensor]:
    """Return a function that samples the whole latent with a model that
    ComfyUI-TiledDiffusion has patched.
    """
    node = pack.NODE_CLASS_MAPPINGS["TiledDiffusion"]

    def run(model: Any, vae: Any, scene: Scene, overlap: int, denoise: float) -> Tensor:
        [patched] = node().apply(model, method, SIDE, SIDE, overlap, 1)
        return whole(patched, vae, scene, overlap, denoise)

    return run


def vslinx(pack: Any) -> Callable[..., Tensor]:
    """Return a function that refines with vslinx's hires fix,
    in as many rows and columns as ours has tiles.
    """
    node = pack.NODE_CLASS_MAPPINGS["vsLinx_MultiDiffusionTiledHiresFix"]

    def run(model: Any, vae: Any, scene: Scene, overlap: int, denoise: float) -> Tensor:
        tiles = len(tile_segments((SIDE, SIDE), SIDE // FACTOR, overlap // FACTOR, None))
        side = round(tiles**0.5)
        return node().execute(
            image=enlarged(scene.image), model=model, positive=scene.text[0], negative=scene.text[1], vae=vae, seed=scene.seed,
            steps=STEPS, cfg=CFG, sampler_name=SAMPLER, scheduler=SCHEDULER, denoise=denoise, rows=side, columns=side, overlap=0.0,
            overlap_x=overlap, overlap_y=overlap, vae_decode_tiled=False, vae_decode_tile_size=512,
        )[0]  # fmt: skip

    return run


def enlarged(image: Tensor) -> Tensor:
    """Return IMAGE enlarged as ours is before it is sampled."""
    return enlarge_image(image, Enlargement(float(FACTOR)), (SIDE * FACTOR, SIDE * FACTOR))


def scenes(count: int, tokens: Tensor) -> Iterator[Scene]:
    """Yield scenes with one person or ring each."""
    drawn = random_scenes(8 * count, (SIDE // 8, SIDE // 8), torch.Generator().manual_seed(11))
    pictures = drawn.pictures().movedim(1, -1)
    for number, kind in list(enumerate(drawn.classes.tolist()))[:count]:
        text = [[tokens[kind : kind + 1], {}]], [[tokens[-1:], {}]]
        yield Scene(pictures[number : number + 1], kind, text, 100 + number)


def border_jump(picture: Tensor, overlap: int) -> float:
    """Return the mean step across the edges of tiles divided by the mean step elsewhere,
    of a picture (1, H, W, 3).
    """
    size = picture.shape[1], picture.shape[2]
    grey = picture[0].mean(-1)
    edges = {
        edge * FACTOR
        for tile in tile_segments((SIDE, SIDE), SIDE // FACTOR, overlap // FACTOR, None)
        for edge in tile.crop_region
    } - {0, *size}
    near = torch.zeros(size[0], dtype=torch.bool)
    for edge in edges:
        near[edge - BAND : edge + BAND] = True
    steps = torch.cat([grey.diff(dim=0).abs().mean(1)[None], grey.diff(dim=1).abs().mean(0)[None]])
    return float(steps[:, near[1:]].mean() / steps[:, ~near[1:]].mean())


def load_pack(folder: Path, module: str) -> Any:
    """Import one module of a pack, without what the pack registers in the host;
    None where it is not there.
    """
    if not (folder / f"{module}.py").is_file():
        return None
    package = ModuleType(f"bench_{folder.name}")
    package.__path__ = [str(folder)]
    sys.modules[package.__name__] = package
    return importlib.import_module(f"{package.__name__}.{module}")


def ways(packs: Path | None) -> dict[str, Callable[..., Tensor]]:
    """Return what is compared, by name."""
    found = {
        "whole": whole,
        "independent": ours("independent"),
        "independent, Deep Shrink": ours("independent", shrink=True),
        "joint": ours("joint"),
        "joint, shift_borders": ours("joint", shift=True),
        "joint, Deep Shrink": ours("joint", shrink=True),
    }
    if packs is not None:
        if (tiled := load_pack(packs / "ComfyUI-TiledDiffusion", "tiled_diffusion")) is not None:
            found["TiledDiffusion, MultiDiffusion"] = tiled_diffusion("MultiDiffusion", tiled)
            found["TiledDiffusion, SpotDiffusion"] = tiled_diffusion("SpotDiffusion", tiled)
        if (
            other := load_pack(packs / "ComfyUI-vslinx-nodes" / "nodes", "multidiffusion_tiled_hires")
        ) is not None:
            found["vslinx, MultiDiffusion"] = vslinx(other)
    return found


def main() -> int:
    """Print the table, a row as soon as it is there."""
    parser = argparse.ArgumentParser(prog="dev.py bench segs_joint", description="Large edits in tiles.")
    parser.add_argument("--packs", type=Path, help="a folder with other packs")
    parser.add_argument("--scenes", type=int, default=8, help="scenes for each row (default: 8)")
    parser.add_argument("--denoise", type=float, nargs="*", default=DENOISES)
    parser.add_argument("--overlap", type=int, nargs="*", default=OVERLAPS, help="pixels of the result")
    parser.add_argument("--only", nargs="+", help="ways, as the table names them (default: all)")
    given = parser.parse_args()
    chosen = {way: run for way, run in ways(given.packs).items() if not given.only or way in given.only}
    tiny = load_model(TINY / "sd15.safetensors")
    vae = load_vae(TINY / "vae.safetensors")
    print("| way | overlap | denoise | objects | exactly one | border jump | rows | largest |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for overlap in given.overlap:
        for denoise in given.denoise:
            for way, run in chosen.items():
                row = Row(way, overlap, denoise)
                for scene in scenes(given.scenes, tiny.class_tokens):
                    with torch.inference_mode(), torch.random.fork_rng():
                        result = run(row.cost.watch(tiny.patcher), vae, scene, overlap, denoise)
                        latent = vae.encode(result[..., :3])
                    row.objects.append(count_objects(latent.cpu().numpy(), [scene.kind])[0].objects)
                    row.jumps.append(border_jump(result, overlap))
                print(row, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
