"""The plan of what is sampled: images of cells. A cell is a model, a size, a method and a number of steps.

Image i has the same prompt and start noise in every cell of its model and size, so that methods can be
compared image by image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..environment import ROOT
from ..record_lines import digest
from ..tiny.forms import CLASS_TEXTS
from .methods import same_as

SIZES = {"1x": (1.0, 1.0), "2x": (2.0, 2.0), "1.5x": (1.5, 1.5), "1:2": (1.5, 3.0), "3x": (3.0, 3.0)}
"""Height and width divided by the trained side, the most important first."""
SAMPLER, SCHEDULER, STEPS, CFG = "dpmpp_2m", "normal", 20, 3.0
SEED = 7_310_000
PICTURES = 72
BLOCK = 12
"""Pictures that every cell gets before any cell gets more."""
FEW = tuple(
    [
        "fox",
        "penguin",
        "octopus",
        "elephant",
        "butterfly",
        "crab",
        "astronaut",
        "robot",
        "rocket",
        "sailboat",
        "hamburger",
        "strawberry",
    ]
)
"""Prompts that are asked of a model that knows them; of any other, all that it knows."""


@dataclass(frozen=True)
class Model:
    """A model: a file of :mod:`devhost.tiny.model_file`, with its autoencoder `vae.safetensors` beside it."""

    name: str
    file: Path

    @cached_property
    def digest(self) -> str:
        """Return twelve digits that differ between any two sets of weights."""
        return digest(self.file, self.file.parent / "vae.safetensors")


TINY = ROOT / "assets" / "tiny"
MODELS = (
    Model("figures SD 1.5", TINY / "sd15.safetensors"),
    Model("figures SDXL", TINY / "sdxl.safetensors"),
)


@dataclass(frozen=True)
class Cell:
    """One cell of the table; `size` is a key of `SIZES`, `method` one of `methods.METHODS`."""

    model: str
    size: str
    method: str
    steps: int = STEPS

    @property
    def sampled(self) -> Cell:
        """Return the cell that is sampled instead of this one, if another method gives the same bits here."""
        return Cell(self.model, self.size, same_as(self.method, self.size), self.steps)


def prompts_of(names: Sequence[str]) -> tuple[str, ...]:
    """Return the prompts of a model that request one object."""
    known = [name for name in FEW if name in names] or [name for name in CLASS_TEXTS if name in names]
    return tuple(known or names)


def latent_size(size: str, trained_side: int) -> tuple[int, int]:
    """Return (height, width) of a size in latent pixels, for a trained size in pixels."""
    height, width = (round(trained_side // 8 * ratio) for ratio in SIZES[size])
    return height, width


def tasks(cells: Sequence[Cell], pictures: int) -> Iterator[tuple[Cell, int]]:
    """Yield the blocks of images to sample: the first one of every cell, then the second one of every cell,
    and so on.
    """
    sampled = list(dict.fromkeys(cell.sampled for cell in cells))
    for first in range(0, pictures, BLOCK):
        for cell in sampled:
            yield from ((cell, picture) for picture in range(first, min(first + BLOCK, pictures)))
