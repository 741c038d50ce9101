"""The cache of samples: an interrupted run can be resumed, and results can be computed again.

A folder with `units.jsonl`, one line for each finished unit (see `Record`), and for each unit an `.npz` file
whose `latents` are (B, 4, H, W) float16. Counts are those of the saved latents. A line is written after its
latents and ends with a line break, so after an interruption each record is either complete or ignored.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..record_lines import RecordLines, digest
from ..tiny import counting, forms
from ..tiny.counting import PictureCount, count_objects
from .plan import SETTINGS, Cell, Unit
from .statistics import Floats

LINES = "units.jsonl"


COUNTER = digest(Path(counting.__file__), Path(forms.__file__))


@dataclass(frozen=True)
class Record:
    """A finished unit: the class and the count of each picture, and the CPU seconds that sampling them took.

    `counter` identifies the version of the counter, `settings` those of the sampler.
    """

    unit: Unit
    classes: tuple[int, ...]
    counts: tuple[PictureCount, ...]
    cpu_seconds: float
    latents: str
    counter: str = COUNTER
    settings: str = SETTINGS

    def as_json(self) -> str:
        """Return the line."""
        return json.dumps(asdict(self))


def record_of(line: str) -> Record:
    """Return the record in a line from `as_json`.

    Raises:
        ValueError: when the line is not a record, or is incomplete.
    """
    try:
        values: dict[str, Any] = json.loads(line)
        unit = values.pop("unit")
        return Record(
            unit=Unit(Cell(**unit.pop("cell")), tuple(unit.pop("pictures")), **unit),
            classes=tuple(values.pop("classes")),
            counts=tuple(PictureCount(**count) for count in values.pop("counts")),
            **values,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a unit: {error}") from error


class Kept:
    """A folder of finished units. One process writes the lines; every process may write latents."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lines = folder / LINES
        self._records = RecordLines(self.lines)

    def records(self) -> Iterator[Record]:
        """Yield all whole records of the current settings, counted by the current rules."""
        for line in self._records:
            try:
                record = record_of(line)
            except ValueError:
                continue  # an interruption cut it off
            if record.settings == SETTINGS and (self.folder / record.latents).exists():
                yield record if record.counter == COUNTER else self._counted_again(record)

    def append(self, record: Record) -> None:
        """Append a record whose latents are saved."""
        self._records.append(record.as_json())

    def save_latents(self, unit: Unit, latents: Floats) -> str:
        """Save latents (B, 4, H, W) and return the name of their file, which is complete as soon as it
        exists.
        """
        name = f"{_slug(unit)}.npz"
        part = self.folder / f"{name}.{os.getpid()}.part"
        with part.open("wb") as file:
            np.savez_compressed(file, latents=latents)
        part.replace(self.folder / name)
        return name

    def latents(self, name: str) -> Floats:
        """Load what `save_latents` saved, as float32."""
        with np.load(self.folder / name) as file:
            return file["latents"].astype(np.float32)

    def _counted_again(self, record: Record) -> Record:
        counts = tuple(count_objects(self.latents(record.latents), record.classes))
        return replace(record, counts=counts, counter=COUNTER)


@dataclass(frozen=True)
class Sample:
    """The cached samples of a cell: the count of each image by its number, ascending, and the files of its
    latents.
    """

    counts: dict[int, PictureCount]
    places: dict[int, tuple[str, int]]
    seconds_per_picture: float

    def only(self, wanted: Callable[[int], bool]) -> Sample:
        """Return the part with these numbers."""
        counts = {number: count for number, count in self.counts.items() if wanted(number)}
        places = {number: self.places[number] for number in counts}
        return replace(self, counts=counts, places=places)

    def latents(self, kept: Kept) -> Floats:
        """Load the latents (B, 4, H, W) of all pictures, in the order of `counts`."""
        files = {name: kept.latents(name) for name in {name for name, _ in self.places.values()}}
        return np.stack([files[name][index] for name, index in self.places.values()])


def samples(records: Iterable[Record], seed: int, sources: Mapping[str, str]) -> dict[Cell, Sample]:
    """Gather by cell the records with this seed and of models that did not change."""
    groups: dict[Cell, list[Record]] = {}
    for record in records:
        if record.unit.seed == seed and sources.get(record.unit.cell.model) == record.unit.source:
            groups.setdefault(record.unit.cell, []).append(record)
    return {cell: _sample(group) for cell, group in groups.items()}


def _sample(records: Sequence[Record]) -> Sample:
    found = {
        number: (record.counts[index], (record.latents, index))
        for record in records
        for index, number in enumerate(record.unit.pictures)
    }
    numbers = sorted(found)
    pictures = sum(len(record.unit.pictures) for record in records)
    return Sample(
        counts={number: found[number][0] for number in numbers},
        places={number: found[number][1] for number in numbers},
        seconds_per_picture=sum(record.cpu_seconds for record in records) / pictures,
    )


def _slug(unit: Unit) -> str:
    cell = unit.cell
    words = (
        cell.model,
        cell.subject,
        cell.size,
        cell.method,
        unit.source,
        unit.seed,
        unit.pictures[0],
        unit.pictures[-1],
    )
    return re.sub(r"[^a-z0-9.]+", "_", "-".join(map(str, words)).lower().replace("-", "_"))
