"""The results: a line of JSON for each image, and the image beside it.

Counts of an earlier version of the counter are computed again from the image; images of other weights are not
used.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..record_lines import RecordLines, digest
from . import counter
from .counter import Count, count
from .plan import CFG, SAMPLER, SCHEDULER, SEED, Cell

COUNTER = digest(Path(counter.__file__))
SETTINGS = f"{SAMPLER}, {SCHEDULER}, cfg {CFG:g}, seed {SEED}"


@dataclass(frozen=True)
class Record:
    """An image: its cell, the counts and the version of the counter, and the CPU seconds of sampling."""

    cell: Cell
    picture: int
    weights: str
    file: str
    count: Count
    seconds: float
    counter: str = COUNTER
    settings: str = SETTINGS

    def as_json(self) -> str:
        """Return the line."""
        return json.dumps(asdict(self))


def record_of(line: str) -> Record:
    """Return the record in a line from `as_json`.

    Raises:
        ValueError: when it is not such a line, or is incomplete.
    """
    try:
        values: dict[str, Any] = json.loads(line)
        return Record(Cell(**values.pop("cell")), count=Count(**values.pop("count")), **values)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a record: {error}") from error


class Records:
    """A folder of images and their records. Only one process may write at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lines = folder / "records.jsonl"
        self._records = RecordLines(self.lines)

    def __iter__(self) -> Iterator[Record]:
        """Yield the records of the current settings whose picture is there,
        counted by the current counter.
        """
        for line in self._records:
            try:
                record = record_of(line)
            except ValueError:
                continue  # an interruption cut it off
            if record.settings == SETTINGS and (self.folder / record.file).exists():
                yield record if record.counter == COUNTER else self._counted_again(record)

    def add(
        self, cell: Cell, picture: int, weights: str, pixels: NDArray[np.uint8], seconds: float
    ) -> Record:
        """Save an image, count its objects, and write its line."""
        words = (cell.model, cell.size, cell.method, cell.steps, weights, picture)
        file = "-".join(map(str, words)).replace(" ", "_").replace(":", "to") + ".png"
        Image.fromarray(pixels).save(self.folder / file)
        record = Record(cell, picture, weights, file, count(pixels / 255), seconds)
        self._records.append(record.as_json())
        return record

    def pixels(self, record: Record) -> NDArray[np.uint8]:
        """Load an image (H, W, 3)."""
        with Image.open(self.folder / record.file) as image:
            return np.asarray(image.convert("RGB"))

    def _counted_again(self, record: Record) -> Record:
        return replace(record, count=count(self.pixels(record) / 255), counter=COUNTER)
