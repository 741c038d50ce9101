"""Large edits in tiles: does a picture stay one picture? Independent and joint segments,
and two other packs on the same tiles.

    python3 dev.py bench segs_joint --records FOLDER [--model FILE] [--packs FOLDER]

MODEL is one of `devhost.tiny.model_file`, with its `vae.safetensors` beside it. Its own pictures of one object,
at the trained size, are enlarged to twice that and sampled again in tiles of the trained size. By way and
denoise, the median over the scenes, with the least and the most:

    objects       found in the result, the mean; the scene has one. Figures by their light parts, which are one
                  an object; of other models by `devhost.whole_objects`, where objects that touch are one
    contrast      how far the borders of tiles stand out among all lines of the picture (`bench/seams.py`): 1 is
                  no seam
    rank          share of the other lines that are weaker than a border: a half by chance
    mean jump     mean step near the borders divided by the mean step elsewhere; objects that lie there count
    calls         rows that the network is given for a picture, with and without the prompt
    largest       latent pixels in the largest call: what the memory of the network follows

Beside contrast and jump: those of `whole`, the same latent sampled without tiles, at the same lines. Each way
has its own borders; SpotDiffusion's move, and its figures are of where they are without that.

FOLDER of `--packs` holds other packs as ComfyUI's `custom_nodes` does; those that are not there have no rows.
They sample the whole latent once, with the same text, seed, levels and tiles; vslinx takes rows and columns
instead of a tile's size.

Pictures stay in the folder of `--records`: an interrupted run goes on, and a changed way needs a new folder.
Expected: joint tiles have the contrast of `whole` and as many rows as independent, whose contrast is above it. At
denoise .8 and above, tiles draw several objects in each way.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from devhost.host import import_host

import_host()

import numpy as np
import torch
from comfy.patcher_extension import WrappersMP
from megapixel.host.segment_sampler import Sampling
from megapixel.host.segs import Enlargement, Pasting, enlarge_image, upscale_segments
from megapixel.patches.deep_shrink import DeepShrink, apply_deep_shrink
from megapixel.segs.find import tile_segments
from torch import Tensor

import nodes as host_nodes
from bench.seams import Seams, seams
from devhost.tiny.counting import count_objects, wilson_interval
from devhost.tiny.forms import TEXTS
from devhost.whole_objects.counter import count
from devhost.whole_objects.plan import MODELS, Cell, Model
from devhost.whole_objects.sampling import Painter

FACTOR, CELL = 2, 8  # how far a scene is enlarged; pixels to a latent pixel
DENOISES = (0.8, 1.0, 0.6, 0.4)
STEPS, CFG, SAMPLER, SCHEDULER = 12, 3.0, "euler", "normal"
SEED = 100
LEVELS = 65535  # of a picture in a record


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
        kind: number of its prompt.
        text: positive and negative.
    """

    number: int
    image: Tensor
    kind: int
    text: tuple[Any, Any]

    @property
    def seed(self) -> int:
        return SEED + self.number

    @property
    def side(self) -> int:
        """Of a tile, in pixels."""
        return self.image.shape[1]


@dataclass(frozen=True)
class Way:
    """Something that refines a scene, and where its tiles have borders for tiles of so many pixels."""

    run: Callable[[Any, Any, Scene, float], Tensor]
    borders: Callable[[int], list[int]]


@dataclass
class Row:
    """Results of one way at one denoise, a value for each scene."""

    way: str
    denoise: float
    objects: list[int] = field(default_factory=list[int])
    found: list[Seams] = field(default_factory=list[Seams])
    of_whole: list[Seams] = field(default_factory=list[Seams])
    cost: Cost = field(default_factory=Cost)

    def __str__(self) -> str:
        number, one = len(self.objects), sum(found == 1 for found in self.objects)
        low, high = wilson_interval(one, number)
        cells = [
            self.way,
            f"{self.denoise}",
            f"{number}",
            f"{sum(self.objects) / number:.1f}",
            f"{one / number:.2f} ({low:.2f} to {high:.2f})",
            f"{_spread([each.contrast for each in self.found])} ({_spread([each.contrast for each in self.of_whole])})",
            _spread([each.rank for each in self.found]),
            f"{_spread([each.mean_jump for each in self.found])} ({_spread([each.mean_jump for each in self.of_whole])})",
            f"{self.cost.rows}",
            f"{self.cost.largest}",
        ]
        return f"| {' | '.join(cells)} |"


def _spread(values: Sequence[float]) -> str:
    """Return the median, and the least and the most."""
    return f"{np.median(values):.2f} [{min(values):.2f} to {max(values):.2f}]"


def ours(overlaps: str, shift: bool = False, shrink: bool = False) -> Way:
    """Return our node's way."""

    def run(model: Any, vae: Any, scene: Scene, denoise: float) -> Tensor:
        if shrink:
            model = apply_deep_shrink(model, DeepShrink(mode="auto", trained_size=scene.side // 2))
        sampling = Sampling(
            model, vae, *scene.text, scene.seed, STEPS, CFG, SAMPLER, SCHEDULER, denoise,
            overlaps=overlaps, shift_borders=shift,
        )  # fmt: skip
        size = scene.side, scene.side
        segs = size, tile_segments(size, scene.side // FACTOR, _overlap(scene.side) // FACTOR, None)
        pasting = Pasting(feather=16, smallest_crop=8)
        return upscale_segments(scene.image, segs, Enlargement(float(FACTOR)), sampling, pasting)[0]

    return Way(run, borders)


def whole(model: Any, vae: Any, scene: Scene, denoise: float) -> Tensor:
    """Return a scene refined as one latent, without tiles: no border,
    and objects doubled by the size alone.
    """
    [latent] = host_nodes.VAEEncode().encode(vae, enlarged(scene.image))
    [latent] = host_nodes.KSampler().sample(
        model, scene.seed, STEPS, CFG, SAMPLER, SCHEDULER, *scene.text, latent, denoise=denoise
    )
    return host_nodes.VAEDecode().decode(vae, latent)[0]


def tiled_diffusion(method: str, pack: Any) -> Way:
    """Return the way that samples the whole latent with a model that ComfyUI-TiledDiffusion has patched."""
    node = pack.NODE_CLASS_MAPPINGS["TiledDiffusion"]

    def run(model: Any, vae: Any, scene: Scene, denoise: float) -> Tensor:
        [patched] = node().apply(model, method, scene.side, scene.side, _overlap(scene.side), 1)
        return whole(patched, vae, scene, denoise)

    return Way(run, borders)


def vslinx(pack: Any) -> Way:
    """Return the way of vslinx's hires fix, in as many rows and columns as ours has tiles."""
    node = pack.NODE_CLASS_MAPPINGS["vsLinx_MultiDiffusionTiledHiresFix"]

    def run(model: Any, vae: Any, scene: Scene, denoise: float) -> Tensor:
        tiles, overlap = _tiles_along(scene.side), _overlap(scene.side)
        return node().execute(
            image=enlarged(scene.image), model=model, positive=scene.text[0], negative=scene.text[1], vae=vae, seed=scene.seed,
            steps=STEPS, cfg=CFG, sampler_name=SAMPLER, scheduler=SCHEDULER, denoise=denoise, rows=tiles, columns=tiles, overlap=0.0,
            overlap_x=overlap, overlap_y=overlap, vae_decode_tiled=False, vae_decode_tile_size=512,
        )[0]  # fmt: skip

    def own_borders(side: int) -> list[int]:
        length = FACTOR * side // CELL
        spans = pack._md_spans(length, _tiles_along(side), _overlap(side) // CELL)
        return sorted({CELL * end for span in spans for end in span} - {0, CELL * length})

    return Way(run, own_borders)


def _overlap(side: int) -> int:
    return side // 4


def _tiles_along(side: int) -> int:
    return round(len(tile_segments((side, side), side // FACTOR, _overlap(side) // FACTOR, None)) ** 0.5)


def borders(side: int) -> list[int]:
    """Return where our tiles of so many pixels begin and end in the result, in either direction."""
    tiles = tile_segments((side, side), side // FACTOR, _overlap(side) // FACTOR, None)
    return sorted({FACTOR * edge for tile in tiles for edge in tile.crop_region} - {0, FACTOR * side})


def enlarged(image: Tensor) -> Tensor:
    """Return IMAGE enlarged as ours is before it is sampled."""
    return enlarge_image(
        image, Enlargement(float(FACTOR)), (FACTOR * image.shape[1], FACTOR * image.shape[2])
    )


class Records:
    """Pictures of ways and scenes, in files of a folder."""

    def __init__(self, folder: Path, model: Model) -> None:
        self._folder, self._model = folder, model
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, name: str, make: Callable[[], tuple[Tensor, Cost]] | None) -> tuple[Tensor, Cost] | None:
        """Return the picture (H, W, 3) of that name and its cost, made if it is not there;
        None without a way to make it.
        """
        file = self._folder / f"{self._model.digest}-{name.replace(' ', '_')}.pt"
        if not file.exists():
            if make is None:
                return None
            picture, cost = make()
            kept = (picture.cpu().clamp(0, 1) * LEVELS).round().to(torch.uint16)
            torch.save((kept, cost.rows, cost.largest), partial := file.with_suffix(".part"))
            partial.rename(file)
        kept, *cost = torch.load(file)
        return kept.to(torch.float32) / LEVELS, Cost(*cost)


class Comparison:
    """The ways on the scenes of a model."""

    def __init__(self, model: Model, records: Records, ways: dict[str, Way]) -> None:
        self._painter, self._model, self._records, self._ways = Painter(model), model, records, ways

    def scenes(self, number: int) -> Iterator[Scene]:
        """Yield so many pictures of the model that show one object."""
        tiny, cell, picture = self._painter.tiny, Cell(self._model.name, "1x", "plain"), 0
        while number:
            drawn = self._records.get(f"scene-{picture}", partial(self._paint, cell, picture))
            assert drawn is not None
            if _objects(drawn[0]) == 1:
                kind = tiny.facts.names.index(self._painter.prompt(picture))
                text = [[tiny.class_tokens[kind][None], {}]], [[tiny.class_tokens[-1:], {}]]
                yield Scene(picture, drawn[0][None], kind, text)
                number -= 1
            picture += 1

    def rows(self, denoise: float, scenes: Sequence[Scene], make: bool) -> Iterator[Row]:
        """Yield the rows of a denoise; without `make`, of recorded scenes alone."""
        rows = {name: Row(name, denoise) for name in self._ways}
        for scene in scenes:
            for name, way in self._ways.items():
                run = partial(self._refine, way, scene, denoise) if make else None
                found = self._records.get(f"{name}-{denoise}-{scene.number}", run)
                base = self._records.get(f"whole-{denoise}-{scene.number}", None)
                if found is None or base is None:
                    continue
                lines, row = way.borders(scene.side), rows[name]
                row.objects.append(self._count(found[0], scene))
                row.found.append(seams(found[0], lines, lines))
                row.of_whole.append(seams(base[0], lines, lines))
                row.cost = found[1]
        yield from (row for row in rows.values() if row.objects)

    def _count(self, picture: Tensor, scene: Scene) -> int:
        """Count the objects; figures that overlap by their light parts, which are one an object."""
        if self._painter.tiny.facts.names != TEXTS:
            return _objects(picture)
        with torch.inference_mode():
            latent = self._painter.vae.encode(picture[None])
        return count_objects(latent.cpu().numpy(), [scene.kind])[0].objects

    def _paint(self, cell: Cell, picture: int) -> tuple[Tensor, Cost]:
        with torch.random.fork_rng():
            pixels, _ = self._painter.paint(cell, picture)
        return torch.from_numpy(pixels).float() / 255, Cost()

    def _refine(self, way: Way, scene: Scene, denoise: float) -> tuple[Tensor, Cost]:
        cost = Cost()
        with torch.inference_mode(), torch.random.fork_rng():
            return way.run(cost.watch(self._painter.tiny.patcher), self._painter.vae, scene, denoise)[0], cost


def _objects(picture: Tensor) -> int:
    return count(picture.double().numpy()).objects


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


def all_ways(packs: Path | None) -> dict[str, Way]:
    """Return what is compared, by name; `whole` first, beside which the others stand."""
    found = {
        "whole": Way(whole, borders),
        "independent": ours("independent"),
        "joint": ours("joint"),
        "joint, shift_borders": ours("joint", shift=True),
    }
    if packs is not None:
        if (tiled := load_pack(packs / "ComfyUI-TiledDiffusion", "tiled_diffusion")) is not None:
            found["TiledDiffusion, MultiDiffusion"] = tiled_diffusion("MultiDiffusion", tiled)
            found["TiledDiffusion, SpotDiffusion"] = tiled_diffusion("SpotDiffusion", tiled)
        if (
            other := load_pack(packs / "ComfyUI-vslinx-nodes" / "nodes", "multidiffusion_tiled_hires")
        ) is not None:
            found["vslinx, MultiDiffusion"] = vslinx(other)
    return found | {
        "independent, Deep Shrink": ours("independent", shrink=True),
        "joint, Deep Shrink": ours("joint", shrink=True),
    }


def main() -> int:
    """Print the rows of each denoise as soon as they are there."""
    parser = argparse.ArgumentParser(prog="dev.py bench segs_joint", description="Large edits in tiles.")
    parser.add_argument("--records", type=Path, required=True, help="a folder for pictures")
    parser.add_argument("--model", type=Path, default=MODELS[0].file, help="a tiny model (default: figures)")
    parser.add_argument("--packs", type=Path, help="a folder with other packs")
    parser.add_argument("--scenes", type=int, default=8, help="scenes for each row (default: 8)")
    parser.add_argument("--denoise", type=float, nargs="*", default=DENOISES)
    parser.add_argument("--only", nargs="+", default=[], help="ways beside whole, as the table names them")
    parser.add_argument("--table", action="store_true", help="of what is recorded; sample nothing")
    given = parser.parse_args()
    ways = all_ways(given.packs)
    chosen = {name: way for name, way in ways.items() if not given.only or name in ["whole", *given.only]}
    model = Model(given.model.stem, given.model)
    comparison = Comparison(model, Records(given.records, model), chosen)
    scenes = list(comparison.scenes(given.scenes))
    print(
        "| way | denoise | n | objects | exactly one | contrast (whole) | rank | mean jump (whole) | rows | largest |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for denoise in given.denoise:
        for row in comparison.rows(denoise, scenes, make=not given.table):
            print(row, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
