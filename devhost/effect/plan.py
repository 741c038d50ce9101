"""The plan of what is sampled: cells of a model, a subject, a size and a method, divided into units of one
batch.

An image is identified by a number. It has the same prompt and noise in every cell of its subject and size,
however the cell is divided into units, so methods can be compared image by image.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ..tiny.forms import CLASS_TEXTS, CROWD_TEXTS, FIRST_CROWD
from .methods import DRAWN

Subject = Literal["one", "many"]
SUBJECTS: tuple[Subject, ...] = ("one", "many")

MODELS = {"sd15": "Tiny SD 1.5", "sdxl": "Tiny SDXL"}
"""What people call them; their weights are `assets/tiny/<name>.safetensors`."""

TRAINED_SIZE = (16, 16)
SIZES = {"1x": TRAINED_SIZE, "1.5x": (24, 24), "2x": (32, 32), "1:2": (24, 48), "3x": (48, 48)}
"""(height, width) in latent pixels."""
CURVE_SIZE = "2x"

BLOCK = 32
"""Images with one seed of the sampler, which shifts the windows of MSW-MSA. A unit is in one block."""
SAMPLER, SCHEDULER, STEPS, CFG = "dpmpp_2m", "normal", 20, 2.5
SETTINGS = f"{SAMPLER}, {SCHEDULER}, {STEPS} steps, cfg {CFG:g}, bf16 (float32 on CPUs without it)"


@dataclass(frozen=True)
class Cell:
    """One cell of a table: `size` is a key of `SIZES`, `method` a name that `methods.method_of` accepts."""

    model: str
    subject: Subject
    size: str
    method: str


@dataclass(frozen=True)
class Unit:
    """The images of a cell that are sampled as one batch. `seed` is that of the run; image i gets its noise
    from `seed` + i. `source` is a digest of the model's weights.
    """

    cell: Cell
    pictures: tuple[int, ...]
    seed: int
    source: str

    @property
    def sampler_seed(self) -> int:
        """Return the seed that the sampler gets; it does not depend on how a block is divided."""
        return self.seed + self.pictures[0] // BLOCK

    @property
    def weight(self) -> float:
        """Return the approximate duration, in arbitrary units (measured: a fifth more than twice the time for
        twice the area).
        """
        height, width = SIZES[self.cell.size]
        return len(self.pictures) * (height * width) ** 1.35


def class_of(subject: Subject, picture: int) -> int:
    """Return the class id of an image: the prompts of a subject are used in turn."""
    if subject == "one":
        return picture % len(CLASS_TEXTS)
    return FIRST_CROWD + picture % len(CROWD_TEXTS)


def cut(
    wanted: Mapping[Cell, Sequence[int]],
    kept: Mapping[Cell, Collection[int]],
    seed: int,
    sources: Mapping[str, str],
) -> list[Unit]:
    """Return the units of all wanted images that are not cached: drawn scenes first, then block by block, so
    that all cells grow at the same rate.
    """
    units = [
        Unit(cell, pictures, seed, sources[cell.model])
        for cell, numbers in wanted.items()
        for pictures in _batches(numbers, set(kept.get(cell, ())))
    ]
    return sorted(units, key=lambda unit: (unit.cell.model != DRAWN, unit.pictures[0] // BLOCK, -unit.weight))


def _batches(numbers: Sequence[int], done: Collection[int]) -> Iterator[tuple[int, ...]]:
    missing = [number for number in sorted(numbers) if number not in done]
    for block in sorted({number // BLOCK for number in missing}):
        yield tuple(number for number in missing if number // BLOCK == block)
