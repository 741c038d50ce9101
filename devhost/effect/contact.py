"""Sheets of cached images: a block for each method, a column for each prompt, the same noise in a column."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..sheet import Block, Cell as Tile, draw_sheet
from ..tiny.counting import PictureCount, summarise
from ..tiny.forms import TEXTS
from .draw import checkpoint
from .kept import Kept, Sample
from .methods import METHODS, PLAIN, TRAINED_PIXELS
from .plan import MODELS, SIZES, TRAINED_SIZE, Cell, Subject, class_of
from .rows import crowd_row

COLUMNS: dict[Subject, tuple[int, ...]] = {"one": (0, 1, 2, 3, 4, 5), "many": (0, 4, 8, 9, 1, 5)}
"""The images in the sheets: the first one of each prompt; with several objects, some of each kind."""
PALETTE = 256
PIXELS_PER_LATENT = 8
SUBTITLE = (
    "The first picture of each of these prompts; a column is the same noise, and only the method differs."
)


def draw_sheets(kept: Kept, samples: Mapping[Cell, Sample], folder: Path) -> list[Path]:
    """Write a sheet for each model, subject and square size above the trained one, and return the files."""
    files: list[Path] = []
    for first in dict.fromkeys(replace(cell, method=PLAIN) for cell in samples):
        cells = [replace(first, method=method) for method in METHODS]
        shown = {
            cell: samples[cell] for cell in cells if cell in samples and _is_complete(cell, samples[cell])
        }
        if shown and _is_large_square(first.size):
            ending = "" if first.subject == "one" else "_many"
            files.append(folder / f"sheet_{first.model}_{first.size}{ending}.png")
            draw_cells(kept, shown).quantize(PALETTE).save(files[-1], optimize=True)
    return files


def draw_cells(kept: Kept, shown: Mapping[Cell, Sample]) -> Image.Image:
    """Draw the sheet of cells of one model, subject and size."""
    first = next(iter(shown))
    labels = [TEXTS[class_of(first.subject, number)] for number in COLUMNS[first.subject]]
    title = f"{MODELS[first.model]}, trained at {TRAINED_PIXELS} px, asked for {PIXELS_PER_LATENT * SIZES[first.size][0]} px"
    with TemporaryDirectory() as folder:
        blocks = [
            Block(cell.method, finding(cell, sample), [_tiles(kept, cell, sample, Path(folder))])
            for cell, sample in shown.items()
        ]
        return draw_sheet(title, SUBTITLE, labels, blocks, stacked=True)


def finding(cell: Cell, sample: Sample) -> str:
    """Return the result for all images of a cell, as text."""
    if cell.subject == "many":
        row = crowd_row(cell, sample, None)
        (low, high), share, words = row.exact_interval, row.exact, "as many as asked"
    else:
        summary = summarise(list(sample.counts.values()))
        (low, high), share, words = summary.share_whole_interval, summary.share_whole, "one whole object"
    numbers = f"n = {len(sample.counts)}, 95 % interval {100 * low:.0f} to {100 * high:.0f} %"
    return f"{100 * share:.0f} % {words} ({numbers})"


def _tiles(kept: Kept, cell: Cell, sample: Sample, folder: Path) -> list[Tile]:
    numbers = COLUMNS[cell.subject]
    latents = sample.only(lambda number: number in numbers).latents(kept)
    pictures = dict(zip(sorted(numbers), decoded(cell.model, torch.from_numpy(latents)), strict=True))
    return [
        _tile(pictures[number], sample.counts[number], folder / f"{cell.method}_{number}.png")
        for number in numbers
    ]


def _tile(picture: Image.Image, count: PictureCount, file: Path) -> Tile:
    picture.save(file)
    if count.asked == 1:
        return Tile(file, count.verdict, count.whole)
    return Tile(file, f"{count.objects} of {count.asked}", count.exact)


def decoded(model: str, latents: torch.Tensor) -> list[Image.Image]:
    """Decode latents (B, 4, H, W) with the model's autoencoder."""
    vae: Any = checkpoint(model)[2]
    with torch.inference_mode():
        pictures = vae.decode(latents).cpu().numpy()  # (B, 8H, 8W, 3) in [0, 1]
    return [Image.fromarray((255 * picture + 0.5).clip(0, 255).astype(np.uint8)) for picture in pictures]


def _is_complete(cell: Cell, sample: Sample) -> bool:
    return set(COLUMNS[cell.subject]) <= set(sample.counts)


def _is_large_square(size: str) -> bool:
    height, width = SIZES[size]
    return height == width and height > TRAINED_SIZE[0]
