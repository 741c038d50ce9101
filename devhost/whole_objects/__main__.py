"""Sample every method at every size on several tiny models, count whole objects, and write a table.

It takes hours on a CPU. Results are saved, so the same command resumes after an interruption and adds to a
smaller run.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ..environment import ROOT
from .methods import METHODS
from .plan import MODELS, PICTURES, SIZES, STEPS, Cell, Model, tasks
from .records import Records
from .table import as_json, as_markdown, rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Sample, write the table, and return the exit status."""
    options = _parse(arguments)
    records = Records(options.out)
    models = [*options.model] or list(MODELS)
    if not options.table_only:
        try:
            for model in models:
                _sample(model, options, records)
        except KeyboardInterrupt:
            print("whole-objects: interrupted; the same command goes on from here", file=sys.stderr)
            return 130
    found = rows(records, {model.name: model.digest for model in models})
    for name, text in (
        ("table.md", as_markdown(found, [model.name for model in models])),
        ("counts.json", as_json(found)),
    ):
        (options.out / name).write_text(text, encoding="utf-8")
        print(options.out / name, flush=True)
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="dev.py whole-objects", description=__doc__)
    parser.add_argument(
        "--model", type=_model, action="append", default=[], metavar="NAME=FILE",
        help="a model file with an autoencoder vae.safetensors beside it, or a NAME alone of the default: "
        f"{', '.join(model.name for model in MODELS)}. Repeat for more.",
    )  # fmt: skip
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), metavar="SIZE")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="METHOD")
    parser.add_argument("--steps", nargs="+", type=int, default=[STEPS], metavar="N")
    parser.add_argument(
        "--pictures",
        type=int,
        default=PICTURES,
        metavar="N",
        help="images for each model, size and method (default: %(default)s)",
    )
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop each model after this time")
    parser.add_argument("--out", type=Path, default=ROOT / "output" / "whole_objects", metavar="DIR")
    parser.add_argument("--table-only", action="store_true", help="sample nothing")
    return parser.parse_args(arguments)


def _sample(model: Model, options: argparse.Namespace, records: Records) -> None:
    from .sampling import Painter

    cells = [
        Cell(model.name, size, method, steps)
        for steps in options.steps
        for size in options.sizes
        for method in options.methods
    ]
    done = {(record.cell, record.picture) for record in records if record.weights == model.digest}
    missing = [task for task in tasks(cells, options.pictures) if task not in done]
    if not missing:
        return
    painter, began = Painter(model), time.monotonic()
    for number, (cell, picture) in enumerate(missing, start=1):
        if time.monotonic() - began > 60 * options.minutes:
            return
        record = records.add(cell, picture, model.digest, *painter.paint(cell, picture))
        print(
            f"{number}/{len(missing)} {cell.model} {cell.size} {cell.method}, {painter.prompt(picture)}: "
            f"{record.count.objects} objects, {record.count.pieces} pieces, {record.seconds:.1f} CPU s",
            flush=True,
        )


def _model(text: str) -> Model:
    """Return the model that an argument names.

    Raises:
        argparse.ArgumentTypeError: when the file does not exist, or there is no such name.
    """
    name, is_file, file = text.partition("=")
    found = {model.name: model for model in MODELS}
    if is_file and Path(file).is_file():
        return Model(name, Path(file))
    if not is_file and name in found:
        return found[name]
    raise argparse.ArgumentTypeError(
        f"expected NAME=FILE with a file that exists, or one of {', '.join(found)}; got {text}"
    )


if __name__ == "__main__":
    sys.exit(main())
