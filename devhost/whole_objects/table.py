"""The counts as rows, as Markdown and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..effect.statistics import Floats, fit, frechet_distance, mean_interval, principal_axes
from ..tiny.counting import wilson_interval
from .methods import METHODS, PLAIN
from .plan import SIZES, Cell
from .records import SETTINGS, Record, Records

COMPOSITION_SIDE, AXES, FEWEST = 16, 16, 33
"""A composition has 16 x 16 colours, compared along 16 axes; a distance needs at least 33 images."""
Interval = tuple[float, float]


@dataclass(frozen=True)
class Row:
    """The images of a cell. Intervals are 95 %.

    Attributes:
        equal_to: the method whose pictures these are, bit for bit, where it is another.
        n: pictures.
        one_whole: share with exactly one large object and no piece.
        several: share with two and more large objects.
        pieces: small pieces a picture.
        texture: share of the background that is not smooth.
        distance: Fréchet distance of the compositions from those of the model's own pictures at its trained
            size.
        sharpness: relative to plain pictures of this size.
        seconds: CPU time a picture, without the autoencoder; `seconds_ratio` to plain.
    """

    cell: Cell
    equal_to: str | None
    n: int
    one_whole: float
    one_whole_interval: Interval
    several: float
    pieces: float
    texture: float
    texture_interval: Interval
    distance: float | None
    sharpness: float | None
    seconds: float
    seconds_ratio: float | None


class Gathered:
    """The records of some weights by cell, sorted by the number of the image."""

    def __init__(self, records: Records, weights: Mapping[str, str]) -> None:
        self.records = records
        self.cells: dict[Cell, dict[int, Record]] = {}
        for record in records:
            if weights.get(record.cell.model) == record.weights:
                self.cells.setdefault(record.cell, {})[record.picture] = record
        self.compositions = cache(self._compositions)

    def of(self, cell: Cell) -> list[Record]:
        """Return the records of a cell, or of the cell that is sampled instead."""
        found = self.cells.get(cell.sampled, {})
        return [found[picture] for picture in sorted(found)]

    def _compositions(self, cell: Cell) -> Floats:
        return np.stack([composition(self.records.pixels(record)) for record in self.of(cell)])


def rows(records: Records, weights: Mapping[str, str]) -> list[Row]:
    """Return the rows of the models in `weights`, model name to digest, in the order of the table."""
    gathered = Gathered(records, weights)
    steps = sorted({cell.steps for cell in gathered.cells}, reverse=True)
    cells = [
        Cell(model, size, method, number)
        for number in steps
        for model in weights
        for size in sorted(SIZES, key=lambda size: np.prod(SIZES[size]))
        for method in METHODS
    ]
    return [_row(gathered, cell) for cell in cells if gathered.of(cell)]


def _row(gathered: Gathered, cell: Cell) -> Row:
    found = gathered.of(cell)
    counts, n = [record.count for record in found], len(found)
    whole = sum(count.one_whole for count in counts)
    plain = gathered.of(Cell(cell.model, cell.size, PLAIN, cell.steps))
    textures = [count.texture for count in counts]
    return Row(
        cell=cell,
        equal_to=cell.sampled.method if cell.sampled != cell else None,
        n=n,
        one_whole=whole / n, one_whole_interval=wilson_interval(whole, n),
        several=sum(count.objects > 1 for count in counts) / n,
        pieces=_mean(count.pieces for count in counts),
        texture=_mean(textures), texture_interval=mean_interval(textures) if n > 1 else (0.0, 1.0),
        distance=_distance(gathered, cell),
        sharpness=_ratio(found, plain, lambda record: record.count.sharpness),
        seconds=_mean(record.seconds for record in found),
        seconds_ratio=_ratio(found, plain, lambda record: record.seconds),
    )  # fmt: skip


def composition(pixels: NDArray[np.uint8]) -> Floats:
    """Return (16 * 16 * 3,): an image (H, W, 3) without its background, averaged to a smaller size."""
    side = (COMPOSITION_SIDE, COMPOSITION_SIDE)
    small = np.asarray(Image.fromarray(pixels).resize(side, Image.Resampling.BOX), dtype=np.float64) / 255
    return (small - np.median(small, axis=(0, 1))).ravel()


def _distance(gathered: Gathered, cell: Cell) -> float | None:
    """Return None also for the reference itself, and for sizes of another shape."""
    reference = Cell(cell.model, "1x", PLAIN)
    height, width = SIZES[cell.size]
    is_reference = cell.sampled == reference
    if height != width or is_reference or min(len(gathered.of(c)) for c in (cell, reference)) < FEWEST:
        return None
    return distance(gathered.compositions(reference), gathered.compositions(cell.sampled))


def distance(real: Floats, others: Floats) -> float:
    """Return the Fréchet distance of compositions (N, 768) from real ones (M, 768),
    along the axes of all together.
    """
    axes = principal_axes(np.concatenate([real, others]), AXES)
    return frechet_distance(fit(axes.project(real)), fit(axes.project(others)))


def _ratio(found: Sequence[Record], plain: Sequence[Record], of: Callable[[Record], float]) -> float | None:
    """Return the mean of what a picture has divided by that of the same pictures sampled plain."""
    others = {record.picture: of(record) for record in plain}
    both = [(of(record), others[record.picture]) for record in found if record.picture in others]
    return sum(mine for mine, _ in both) / sum(its for _, its in both) if both else None


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


COLUMNS: dict[str, Callable[[Row], str]] = {
    "model": lambda row: row.cell.model,
    "size": lambda row: row.cell.size,
    "method": lambda row: row.cell.method,
    "n": lambda row: str(row.n),
    "one whole object": lambda row: f"{row.one_whole:.2f} ({_interval(row.one_whole_interval)})",
    "two or more": lambda row: f"{row.several:.2f}",
    "pieces": lambda row: f"{row.pieces:.1f}",
    "texture": lambda row: f"{row.texture:.3f} ({_interval(row.texture_interval, 3)})",
    "distance": lambda row: _number(row.distance),
    "sharpness": lambda row: _number(row.sharpness),
    "CPU s (to plain)": lambda row: f"{row.seconds:.1f} ({_number(row.seconds_ratio)})",
}


def as_markdown(found: Sequence[Row], models: Sequence[str]) -> str:
    """Return a summary of the shares of whole objects, then one table for each number of steps."""
    parts = [f"Sampled with {SETTINGS}.", _overview({row.cell: row for row in found}, models)]
    for steps in dict.fromkeys(row.cell.steps for row in found):
        lines = [list(COLUMNS), ["---"] * len(COLUMNS)]
        lines += [_cells(row) for row in found if row.cell.steps == steps]
        parts += [f"### {steps} steps", "\n".join(f"| {' | '.join(line)} |" for line in lines)]
    return "\n\n".join(parts) + "\n"


def _overview(found: Mapping[Cell, Row], models: Sequence[str]) -> str:
    """Return a table of the shares with one whole object: a line a model and method, a column a size."""
    sizes = sorted(SIZES, key=lambda size: np.prod(SIZES[size]))
    lines = [["model", "method", *sizes], ["---"] * (2 + len(sizes))]
    for model in models:
        for method in METHODS:
            shown = [_share(found.get(Cell(model, size, method))) for size in sizes]
            lines.append([model, method, *shown])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _share(row: Row | None) -> str:
    if row is None:
        return "not measured"
    return f"{row.one_whole:.2f} ({_interval(row.one_whole_interval)}; n {row.n})"


def _cells(row: Row) -> list[str]:
    if row.equal_to is None:
        return [show(row) for show in COLUMNS.values()]
    place = [show(row) for show in list(COLUMNS.values())[:3]]
    return [*place, "", f"the same bits as {row.equal_to}", *[""] * (len(COLUMNS) - 5)]


def as_json(found: Sequence[Row]) -> str:
    """Return all rows, and the settings of the sampler."""
    return json.dumps({"settings": SETTINGS, "rows": [asdict(row) for row in found]}, indent=1) + "\n"


def _interval(interval: Interval, digits: int = 2) -> str:
    low, high = interval
    return f"{max(0.0, low):.{digits}f} to {high:.{digits}f}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
