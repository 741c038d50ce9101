"""Seams and drift of refined tiles: Upscale SEGS, and other packs' nodes beside it, with one small model.

    python3 dev.py bench segs_seams --model FILE --vae FILE PICTURE [PICTURE ...] [--packs FOLDER]

Model and VAE are those of `devhost/training`: SD 1.5's blocks with the prompts in `class_tokens`, and a
TAESD. A PICTURE is a file, or the name of a photograph that scikit-image brings along. FOLDER holds other
packs as ComfyUI's `custom_nodes` does; those that are not there have no row.

Every picture is enlarged twice by lanczos; its tiles are sampled again, without a prompt. Two figures for
each result:

    border jump   how far the edges of tiles stand out from the columns and rows beside them (1 to 3 pixels
    away), divided by how far the other columns and rows of the VAE's grid do, which shows a little in all of
    its pictures. 1 is no seam.
    drift         the root mean square of what the means of squares of 32 pixels changed by: colours and
        brightness that moved, of [0, 1]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from devhost.host import import_host

import_host()

import torch
import torch.nn.functional as F
from megapixel.nodes.segs_makers import MegapixelTilesToSEGS
from megapixel.nodes.segs_upscale import MegapixelSEGSUpscale
from megapixel.scaling.resized import resize_pictures
from torch import Tensor

from bench.neighbours import load_pack
from devhost.photographs import photograph, reduce_by
from devhost.tiny.model_file import load_model
from devhost.tiny.vae import load_vae
from devhost.upscale_demo import read_picture, write_picture

FACTOR, TILE, OVERLAP = 2, 256, 32  # the tile and the overlap in pixels of the result
BESIDE, CELL = 3, 8  # neighbours of an edge; pixels to a latent pixel
BLOCK = 32
SAMPLING: dict[str, Any] = {
    "seed": 7, "steps": 10, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 0.4,
}  # fmt: skip
ENLARGING: dict[str, Any] = {
    "rescale_factor": 2.0, "resampling_method": "lanczos", "supersample": "true", "rounding_modulus": 8,
}  # fmt: skip


@dataclass(frozen=True)
class Models:
    """What every node is given."""

    model: Any
    vae: Any
    text: list[list[Any]]


@dataclass(frozen=True)
class Case:
    """A node with settings: its tiles' edges for a side of the result, and the picture that it makes."""

    name: str
    edges: Callable[[int], list[int]]
    run: Callable[[Models, Tensor], Tensor]
    pack: str | None = None


def overlapping_edges(side: int) -> list[int]:
    """Return where tiles of this pack begin and end, without the picture's own ends."""
    tiles = _tiles(torch.zeros(1, side // FACTOR, side // FACTOR, 3))[1]
    ends = {FACTOR * end for tile in tiles for end in (tile.crop_region[0], tile.crop_region[2])}
    return sorted(ends - {0, side})


def grid_edges(side: int) -> list[int]:
    """Return where tiles beside each other meet."""
    return list(range(TILE, side, TILE))


def border_jump(result: Tensor, case: Case) -> float:
    """Return how far tiles' edges stand out in (H, W, C), relative to the rest of the VAE's grid."""
    edges, grid = _Contrast(), _Contrast()
    for pixels in (result, result.transpose(0, 1)):
        steps = (
            (pixels[:, 1:] - pixels[:, :-1]).abs().mean(dim=(0, 2))
        )  # step x lies between the columns x and x + 1
        length = pixels.shape[1]
        at = set(case.edges(length))
        edges.add(steps, at)
        grid.add(steps, {x for x in range(CELL, length, CELL) if all(abs(x - edge) >= CELL for edge in at)})
    return edges.value / grid.value


class _Contrast:
    """The mean step at some columns, divided by that of their neighbours."""

    def __init__(self) -> None:
        self._at: list[Tensor] = []
        self._beside: list[Tensor] = []

    def add(self, steps: Tensor, columns: Iterable[int]) -> None:
        for column in columns:
            if BESIDE < column < len(steps) - BESIDE:
                self._at.append(steps[column - 1])
                self._beside += [steps[column - 1 - BESIDE : column - 1], steps[column : column + BESIDE]]

    @property
    def value(self) -> float:
        return (torch.stack(self._at).mean() / torch.cat(self._beside).mean()).item()


def drift(result: Tensor, plain: Tensor) -> float:
    """Return by how much colours of (H, W, C) moved, in the root mean square over squares of the picture."""
    moved = F.avg_pool2d((result - plain).movedim(-1, 0), BLOCK)
    return moved.square().mean().sqrt().item()


def _tiles(image: Tensor) -> Any:
    return MegapixelTilesToSEGS.execute(image, TILE // FACTOR, OVERLAP // FACTOR).args[0]


def _own(feather: int, **settings: Any) -> Callable[[Models, Tensor], Tensor]:
    def run(models: Models, image: Tensor) -> Tensor:
        return MegapixelSEGSUpscale.execute(
            image, _tiles(image), models.model, models.vae, models.text, models.text, feather=feather, **ENLARGING, **SAMPLING, **settings
        ).args[0]  # fmt: skip

    return run


def _impact(feather: int) -> Callable[[Models, Tensor], Tensor]:
    def run(models: Models, image: Tensor) -> Tensor:
        node = sys.modules["ComfyUI_Impact_Pack"].NODE_CLASS_MAPPINGS["SEGSUpscaler"]
        [result] = node.doit(
            image, _tiles(image), models.model, None, models.vae, positive=models.text, negative=models.text, feather=feather,
            inpaint_model=False, noise_mask_feather=0, **ENLARGING, **SAMPLING,
        )  # fmt: skip
        return result

    return run


def _ultimate(padding: int, blur: int, seam_fix: str = "None") -> Callable[[Models, Tensor], Tensor]:
    def run(models: Models, image: Tensor) -> Tensor:
        node = sys.modules["ComfyUI_UltimateSDUpscale"].NODE_CLASS_MAPPINGS["UltimateSDUpscaleNoUpscale"]
        # a tile is sampled with its padding: so it has the size of the others' tiles
        inner = TILE - 2 * padding
        [result] = node().upscale(
            enlarged(image), models.model, models.text, models.text, models.vae, mode_type="Linear", tile_width=inner, tile_height=inner,
            mask_blur=blur, tile_padding=padding, seam_fix_mode=seam_fix, seam_fix_denoise=SAMPLING["denoise"], seam_fix_mask_blur=blur,
            seam_fix_width=64, seam_fix_padding=16, force_uniform_tiles=True, tiled_decode=False, **SAMPLING,
        )  # fmt: skip
        return result

    return run


def enlarged(image: Tensor) -> Tensor:
    """Return IMAGE (1, H, W, 3) as every node enlarges it."""
    size = FACTOR * image.shape[1], FACTOR * image.shape[2]
    return resize_pictures(image.movedim(-1, 1), size, "lanczos").movedim(1, -1)


IMPACT, ULTIMATE = "ComfyUI-Impact-Pack", "ComfyUI_UltimateSDUpscale"
CASES = [
    Case("Upscale SEGS, feather 16", overlapping_edges, _own(16)),
    Case("Upscale SEGS, feather 16, match_colours 0.5", overlapping_edges, _own(16, match_colours=0.5)),
    Case("Upscale SEGS, feather 16, in order", overlapping_edges, _own(16, overlaps="in order")),
    Case("Upscale SEGS, feather 5", overlapping_edges, _own(5)),
    Case("Upscaler (SEGS), feather 16", overlapping_edges, _impact(16), IMPACT),
    Case("Upscaler (SEGS), feather 5", overlapping_edges, _impact(5), IMPACT),
    Case(
        "Ultimate SD Upscale, padding 32, blur 8",
        lambda side: list(range(TILE - 64, side, TILE - 64)),
        _ultimate(32, 8),
        ULTIMATE,
    ),
    Case(
        "Ultimate SD Upscale, the same, seams fixed by half tiles",
        lambda side: list(range(TILE - 64, side, TILE - 64)),
        _ultimate(32, 8, "Half Tile"),
        ULTIMATE,
    ),
    Case("Upscale SEGS, feather 32", overlapping_edges, _own(32)),
]


def load_models(model: Path, vae: Path) -> Models:
    """Load a trained small model, with its empty prompt as the text."""
    tiny = load_model(model)
    empty = tiny.class_tokens[-1:]
    return Models(tiny.patcher, load_vae(vae), [[empty, {"pooled_output": empty.mean(dim=1)}]])


def load_packs(folder: Path | None) -> set[str]:
    """Import the packs that are there, and return their names."""
    found = [name for name in (IMPACT, ULTIMATE) if folder and (folder / name).is_dir()]
    if found:
        import server

        server.PromptServer(asyncio.new_event_loop())  # they add routes to it
    for name in found:
        assert folder is not None
        load_pack(folder / name)
    return set(found)


def read_image(name: str) -> Tensor:
    """Return a file, or a photograph by its name, as IMAGE (1, H, W, 3) that tiles fit:
    half as large where it is a photograph.
    """
    picture = read_picture(Path(name)) if Path(name).is_file() else reduce_by(photograph(name), 2)
    height, width = (side // 8 * 8 for side in picture.shape[-2:])
    return picture[..., :height, :width].movedim(1, -1).contiguous()


def rows(
    models: Models, name: str, packs: set[str], save: Path | None, only: list[int] | None
) -> Iterator[str]:
    """Yield a row for each node."""
    image = read_image(name)
    plain = enlarged(image)[0]
    for number, case in enumerate(CASES):
        if (case.pack and case.pack not in packs) or (only and number not in only):
            continue
        with torch.inference_mode():
            result = case.run(models, image)
        if save:
            write_picture(result.movedim(-1, 1), save / f"{Path(name).stem}_{number}.png")
        jump, moved = border_jump(result[0], case), drift(result[0], plain)
        yield f"| {Path(name).stem} | {case.name} | {jump:.2f} | {moved:.4f} |"


def main() -> None:
    """Print a row for each picture and node."""
    parser = argparse.ArgumentParser(prog="dev.py bench segs_seams", description=__doc__)
    parser.add_argument("pictures", nargs="+")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--vae", type=Path, required=True)
    parser.add_argument("--packs", type=Path)
    parser.add_argument("--save", type=Path, help="a folder for the pictures")
    parser.add_argument("--only", type=int, nargs="+", help="numbers of nodes, in the order of the table")
    given = parser.parse_args()
    models, packs = load_models(given.model, given.vae), load_packs(given.packs)
    print("| picture | node | border jump | drift |\n| --- | --- | --- | --- |")
    for name in given.pictures:
        for row in rows(models, name, packs, given.save, given.only):
            print(row, flush=True)


if __name__ == "__main__":
    main()
