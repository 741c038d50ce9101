"""Proof of effect: sample every method at every size on the tiny trained models, count,
and write table, plot and sheets.

Samples are cached in the folder of the results, so an interrupted run can be resumed, and a larger run adds
to a smaller one.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from ..environment import ROOT
from .contact import draw_sheets
from .draw import sources
from .kept import Kept, Sample, samples
from .methods import CURVES, DRAWN, MAIN, METHODS, PLAIN, curve_method
from .plan import CURVE_SIZE, MODELS, SIZES, SUBJECTS, Cell, cut
from .plot import draw_plot
from .rows import REFERENCE, figures
from .run import run
from .table import as_json, as_markdown

PARTS = ("one", "many", "curves")
SEED = 50_000
PICTURES, QUICK_PICTURES = 512, 32
FEWER, QUICK_FEWER = 252, 12  # as many of each of the twelve prompts of several objects
ENDS, QUICK_ENDS = (0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.8), (0.35, 0.65)
QUICK_MODEL, QUICK_SIZES = "sd15", ("1x", "2x")
QUICK_REFERENCE = 256
LEAST_PICTURES = 4


@dataclass(frozen=True)
class Wish:
    """The images that a run must have at the end; cells outside the main table have `fewer`."""

    models: Sequence[str]
    sizes: Sequence[str]
    methods: Sequence[str]
    parts: Sequence[str]
    ends: Sequence[float]
    pictures: int
    fewer: int
    reference: int

    def cells(self) -> dict[Cell, Iterable[int]]:
        """Return the numbers of the images that each cell must have."""
        drawn = [*range(self.pictures), *REFERENCE[: self.reference]]
        cells: dict[Cell, Iterable[int]] = {}
        of_curves = [CURVE_SIZE] if "curves" in self.parts else []
        for size in {"1x", *self.sizes, *of_curves}:
            cells[Cell(DRAWN, "one", size, DRAWN)] = drawn
        for model in self.models:
            cells |= self._of_model(model)
        return cells

    def _of_model(self, model: str) -> dict[Cell, Iterable[int]]:
        cells: dict[Cell, Iterable[int]] = {}
        fewer = range(self.fewer)
        for size in self.sizes:
            for method in dict.fromkeys([PLAIN, *self.methods]):
                if "one" in self.parts:
                    cells[Cell(model, "one", size, method)] = range(self.pictures)
                if "many" in self.parts:
                    cells[Cell(model, "many", size, method)] = fewer
                    cells[Cell(DRAWN, "many", size, DRAWN)] = fewer
        if "curves" in self.parts:
            names = [curve_method(curve, end) for curve in CURVES for end in self.ends]
            for subject in SUBJECTS:
                cells |= {Cell(model, subject, CURVE_SIZE, name): fewer for name in names}
                cells.setdefault(Cell(model, subject, CURVE_SIZE, PLAIN), fewer)
        return cells


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, write the results and return the exit status."""
    options = _parse(arguments)
    kept, known = Kept(options.out / "kept"), sources()
    if missing := [model for model in options.model if model not in known]:
        print(f"effect: no weights of {', '.join(missing)} in assets/tiny", file=sys.stderr)
        return 1
    try:
        if not options.render_only:
            wanted = {cell: list(numbers) for cell, numbers in _wish(options).cells().items()}
            units = cut(wanted, _numbers(_samples(kept, options.seed, known)), options.seed, known)
            run(units, kept, options.jobs)
        return _render(kept, options.seed, known, options.out)
    except KeyboardInterrupt:
        print("effect: interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="dev.py effect",
        description="Sample every method at every size on tiny trained models, count the objects, and write table, plot and sheets.",
    )
    parser.add_argument("--quick", action="store_true", help="few images at two sizes (minutes)")
    parser.add_argument("--model", choices=[*MODELS, "all"], help="default: all, with --quick sd15")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, metavar="SIZE", help=f"of {', '.join(SIZES)}")
    parser.add_argument(
        "--methods", nargs="+", choices=[*METHODS, "main", "all"], default=["main"], metavar="METHOD",
        help=f"main, all, or of: {', '.join(METHODS)} (default: main, which is {', '.join(MAIN)})",
    )  # fmt: skip
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=PARTS,
        default=PARTS,
        help="one object, many objects, curves of both over the end",
    )
    parser.add_argument(
        "--pictures", type=_pictures, metavar="N",
        help=f"images for each model, size and method (default: {PICTURES}, outside the main table at most {FEWER}; with --quick {QUICK_PICTURES} and {QUICK_FEWER})",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=int, default=SEED, help="image i gets its noise from seed + i (default: %(default)s)"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=os.cpu_count() or 1,
        help="number of processes (default: one for each core)",
    )
    parser.add_argument("--out", type=Path, default=ROOT / "output" / "effect", metavar="DIR")
    parser.add_argument(
        "--render-only", action="store_true", help="sample nothing; write the results of the cached images"
    )
    options = parser.parse_args(arguments)
    chosen = options.model or (QUICK_MODEL if options.quick else "all")
    options.model = [model for model in MODELS if model in sources()] if chosen == "all" else [chosen]
    return options


def _wish(options: argparse.Namespace) -> Wish:
    groups = {"main": list(MAIN), "all": list(METHODS)}
    return Wish(
        models=options.model,
        sizes=options.sizes or (QUICK_SIZES if options.quick else tuple(SIZES)),
        methods=[name for chosen in options.methods for name in groups.get(chosen, [chosen])],
        parts=options.parts,
        ends=QUICK_ENDS if options.quick else ENDS,
        fewer=min(options.pictures or FEWER, QUICK_FEWER if options.quick else FEWER),
        pictures=options.pictures or (QUICK_PICTURES if options.quick else PICTURES),
        reference=QUICK_REFERENCE if options.quick else len(REFERENCE),
    )


def _samples(kept: Kept, seed: int, known: Mapping[str, str]) -> dict[Cell, Sample]:
    return samples(kept.records(), seed, known)


def _numbers(found: Mapping[Cell, Sample]) -> dict[Cell, set[int]]:
    return {cell: set(sample.counts) for cell, sample in found.items()}


def _render(kept: Kept, seed: int, known: Mapping[str, str], out: Path) -> int:
    found = _samples(kept, seed, known)
    rows = figures(kept, found)
    if not rows.objects:
        print(f"effect: nothing is kept in {kept.folder} for seed {seed} and these models", file=sys.stderr)
        return 1
    (out / "effect.md").write_text(as_markdown(rows, "Proof of effect"), encoding="utf-8")
    (out / "effect.json").write_text(as_json(rows, {"seed": seed, "weights": known}), encoding="utf-8")
    draw_plot(rows, out / "effect.png")
    for file in [out / "effect.md", out / "effect.json", out / "effect.png", *draw_sheets(kept, found, out)]:
        print(file, flush=True)
    return 0


def _pictures(text: str) -> int:
    if (number := int(text)) < LEAST_PICTURES:
        raise argparse.ArgumentTypeError(f"expected at least {LEAST_PICTURES}")
    return number


def _leave(signal_number: int, frame: FrameType | None) -> None:
    sys.exit(128 + signal_number)  # unlike the default, this ends the processes as well


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _leave)
    sys.exit(main())
