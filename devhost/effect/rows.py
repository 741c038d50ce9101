"""The results: rows of a table, computed from the cached samples.

A method is compared with plain sampling, and with scenes drawn at the same size. Drawn scenes have a row too,
which shows the counts and distances of images without faults.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from ..tiny.counting import PictureCount, summarise, wilson_interval
from .features import FEWEST, Reference, border_patches, composition, residual_noise
from .kept import Kept, Sample
from .methods import CURVES, DRAWN, METHODS, PLAIN, curve_point
from .plan import SIZES, Cell
from .statistics import Change, Floats, change, mean_interval

REFERENCE = range(1_000_000, 1_001_024)
"""Pictures of drawn scenes that others are compared with; those below it have rows."""

Interval = tuple[float, float]


@dataclass(frozen=True)
class ObjectRow:
    """Images of one object in a cell. Shares have 95 % intervals; changes are beside plain, with the same
    noise and prompts.

    edge: sharpness, mean gradient of the steepest pixels; `edge_ratio` to drawn scenes of the trained size.
    residual_noise: noise that is left in the background; it makes edges seem sharper.
    composition, patches: Fréchet distances from drawn scenes, of the trained size and of this one; smaller is
    nearer.
    """

    model: str
    size: str
    method: str
    n: int
    one: float
    one_interval: Interval
    whole: float
    whole_interval: Interval
    mean_count: float
    edge: float
    edge_ratio: float | None
    residual_noise: float
    composition: float | None
    patches: float | None
    cpu_seconds: float
    cpu_ratio: float | None
    one_change: Change | None
    whole_change: Change | None


@dataclass(frozen=True)
class CrowdRow:
    """Images of several objects in a cell: how many of the requested objects were counted.

    ratio: mean of counted / asked; fewer, more: shares of pictures that have fewer and more than asked.
    """

    model: str
    size: str
    method: str
    n: int
    ratio: float
    ratio_interval: Interval
    exact: float
    exact_interval: Interval
    fewer: float
    more: float
    exact_change: Change | None


@dataclass(frozen=True)
class CurvePoint:
    """A method that ends at a share `end` of the sampling, and its row."""

    curve: str
    end: float
    row: ObjectRow


@dataclass(frozen=True)
class Figures:
    """All rows, in the order of the table, and the number of drawn scenes of the trained size that distances
    refer to.
    """

    objects: tuple[ObjectRow, ...]
    several_objects: tuple[CrowdRow, ...]
    curves: tuple[CurvePoint, ...]
    reference: int


def figures(kept: Kept, samples: Mapping[Cell, Sample]) -> Figures:
    """Return all rows that can be computed from the cached samples."""
    yardstick = _Yardstick(kept, samples)
    objects, several_objects, curves = [], [], []
    for cell in sorted(samples, key=_place):
        sample = _below_reference(samples[cell])
        if not sample.counts:
            continue
        other = Cell(cell.model, cell.subject, cell.size, PLAIN)
        plain = samples.get(other) if cell != other else None
        if cell.subject == "many":
            several_objects.append(crowd_row(cell, sample, plain))
        elif point := curve_point(cell.method):
            curves.append(CurvePoint(*point, yardstick.object_row(cell, sample, plain)))
        else:
            objects.append(yardstick.object_row(cell, sample, plain))
    return Figures(tuple(objects), tuple(several_objects), tuple(curves), yardstick.pictures)


class _Yardstick:
    """Drawn scenes, and rows of what is measured by them."""

    def __init__(self, kept: Kept, samples: Mapping[Cell, Sample]) -> None:
        self._kept = kept
        self._samples = samples
        self._patches: dict[str, Reference | None] = {}

    @property
    def pictures(self) -> int:
        """Return how many drawn scenes of the trained size there are."""
        real = self._real("1x")
        return len(real.counts) if real else 0

    def object_row(self, cell: Cell, sample: Sample, plain: Sample | None) -> ObjectRow:
        """Return the row of a cell."""
        summary = summarise(list(sample.counts.values()))
        latents = sample.latents(self._kept)
        height, width = SIZES[cell.size]
        enough = summary.n >= FEWEST
        of_composition = self._composition if enough and height == width else None
        of_patches = self._patch_reference(cell.size) if enough else None
        return ObjectRow(
            cell.model, cell.size, cell.method,
            n=summary.n,
            one=summary.share_one, one_interval=summary.share_one_interval,
            whole=summary.share_whole, whole_interval=summary.share_whole_interval,
            mean_count=summary.mean_count,
            edge=summary.edge,
            edge_ratio=summary.edge / self._edge if self._edge else None,
            residual_noise=residual_noise(latents),
            composition=of_composition.distance(composition(latents)) if of_composition else None,
            patches=of_patches.distance(border_patches(latents)) if of_patches else None,
            cpu_seconds=sample.seconds_per_picture,
            cpu_ratio=sample.seconds_per_picture / plain.seconds_per_picture if plain else None,
            one_change=paired(plain, sample, lambda count: count.exactly_one),
            whole_change=paired(plain, sample, lambda count: count.whole),
        )  # fmt: skip

    @cached_property
    def _composition(self) -> Reference | None:
        return self._reference("1x", composition)

    @cached_property
    def _edge(self) -> float | None:
        real = self._real("1x")
        return summarise(list(real.counts.values())).edge if real else None

    def _patch_reference(self, size: str) -> Reference | None:
        if size not in self._patches:
            self._patches[size] = self._reference(size, border_patches)
        return self._patches[size]

    def _reference(self, size: str, features: Callable[[Floats], Floats]) -> Reference | None:
        real = self._real(size)
        return Reference(features(real.latents(self._kept))) if real else None

    def _real(self, size: str) -> Sample | None:
        sample = self._samples.get(Cell(DRAWN, "one", size, DRAWN))
        real = sample.only(lambda number: number in REFERENCE) if sample else None
        return real if real and real.counts else None


def crowd_row(cell: Cell, sample: Sample, plain: Sample | None) -> CrowdRow:
    """Return the row of a cell with several objects in each image."""
    counts = sample.counts.values()
    ratios = [count.objects / count.asked for count in counts]
    n, exact = len(ratios), sum(count.exact for count in counts)
    return CrowdRow(
        cell.model, cell.size, cell.method,
        n=n,
        ratio=sum(ratios) / n, ratio_interval=mean_interval(ratios),
        exact=exact / n, exact_interval=wilson_interval(exact, n),
        fewer=sum(ratio < 1 for ratio in ratios) / n,
        more=sum(ratio > 1 for ratio in ratios) / n,
        exact_change=paired(plain, sample, lambda count: count.exact),
    )  # fmt: skip


def paired(plain: Sample | None, sample: Sample, right: Callable[[PictureCount], bool]) -> Change | None:
    """Compare by `right(count)` the images that both have."""
    if plain is None:
        return None
    both = [number for number in sample.counts if number in plain.counts]
    before, after = ([right(of.counts[number]) for number in both] for of in (plain, sample))
    return change(before, after)


def _below_reference(sample: Sample) -> Sample:
    return sample.only(lambda number: number not in REFERENCE)


def _place(cell: Cell) -> tuple[str, int, int, float]:
    """Return what orders cells: by model, drawn scenes first, then by size and method, curves last."""
    curve, end = curve_point(cell.method) or ("", 0.0)
    names = [DRAWN, *METHODS]
    method = names.index(cell.method) if not curve else len(names) + list(CURVES).index(curve)
    return cell.model, list(SIZES).index(cell.size), method, end
