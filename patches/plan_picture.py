"""A drawing of a run's plan: one row per block, one column per step, the feature sizes in the cells, a colour
for each effect.

Lengths are in pixels of the image.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence

from PIL import Image, ImageDraw, ImageFont

from ..record import record
from ..scaling.size import Size
from .effect import Colour
from .run_plan import RunPlan
from .topology import BlockId, Topology

Marks = tuple[tuple[str, str], ...]
Pen = ImageDraw.ImageDraw

_WIDTH = 1280
_LABELS = 224
_MARGIN = 24
_ROW = 26
_BAR = 5
_TITLE, _TEXT, _SMALL = 26, 16, 14
_PAPER: Colour = (255, 255, 255)
_INK: Colour = (28, 30, 34)
_QUIET: Colour = (110, 114, 122)
_FULL: Colour = (238, 240, 243)  # features at their own size
_SMALLEST: Colour = (52, 84, 138)  # at a sixteenth of the area and less
_LARGER: Colour = (240, 214, 214)
_FADES_OVER = 4.0  # halvings of the area from _FULL to _SMALLEST


@record
class _Run:
    """Steps `first` to `last` (excluded) in which a block has the same size and marks."""

    first: int
    last: int
    size: Size
    marks: Marks


def draw_plan(plan: RunPlan) -> Image.Image:
    """Draw the plan of a run with at least one step."""
    described = [(plan.effects[name].colour, text) for name, text in plan.words.items()]
    described = described or [(_PAPER, "No Megapixel effect on this model.")]
    words = [(colour, line) for colour, text in described for line in _wrapped(text)]
    top = _MARGIN + _line(_TITLE) + len(words) * _line(_TEXT) + _line(_SMALL)
    rows = list(plan.plain)
    picture = Image.new("RGB", (_WIDTH, top + len(rows) * _ROW + _MARGIN), _PAPER)
    pen = ImageDraw.Draw(picture)
    height, width = plan.latent_size
    pixel = plan.latent_pixel
    title = f"{width * pixel} x {height * pixel} pixels, latent {height}x{width}, {len(plan.steps)} steps"
    _write(pen, (_MARGIN, _MARGIN), title, _TITLE)
    for number, (colour, line) in enumerate(words):
        above = _MARGIN + _line(_TITLE) + number * _line(_TEXT)
        pen.rectangle((_MARGIN, above, _MARGIN + _BAR, above + _line(_TEXT) - 1), colour)
        _write(pen, (_MARGIN + _BAR + 7, above), line, _TEXT, _QUIET)
    _draw_step_numbers(pen, len(plan.steps), top - _line(_SMALL))
    for number, block_id in enumerate(rows):
        _draw_row(pen, plan, block_id, top + number * _ROW)
    return picture


def _draw_step_numbers(pen: Pen, steps: int, top: int) -> None:
    stride = math.ceil(steps / 25)
    for step in range(0, steps, stride):
        _write(pen, (_edge(step, steps) + 2, top), str(step + 1), _SMALL, _QUIET)


def _draw_row(pen: Pen, plan: RunPlan, block_id: BlockId, top: int) -> None:
    _write(pen, (_MARGIN, top + 4), _label(plan.topology, block_id), _SMALL)
    steps = len(plan.steps)
    for run in _runs(plan, block_id):
        left, right = _edge(run.first, steps), _edge(run.last, steps) - 2
        fill = _tint(run.size, plan.plain[block_id])
        pen.rectangle((left, top + 1, right, top + _ROW - 2), fill)
        for number, (name, _) in enumerate(run.marks):
            bar = left + number * (_BAR + 1)
            pen.rectangle((bar, top + 1, bar + _BAR, top + _ROW - 2), plan.effects[name].colour)
        indent = left + len(run.marks) * (_BAR + 1) + 5
        ink = _INK if sum(fill) > 3 * 140 else _PAPER
        if text := _longest_that_fits(pen, _texts(run), right - indent):
            _write(pen, (indent, top + 4), text, _SMALL, ink)


def _runs(plan: RunPlan, block_id: BlockId) -> Iterator[_Run]:
    """Yield the ranges of steps in which the block has the same size and marks."""
    each = [(step.sizes[block_id], step.marks.get(block_id, ())) for step in plan.steps]
    first = 0
    for step in range(1, len(each) + 1):
        if step == len(each) or each[step] != each[first]:
            yield _Run(first, step, *each[first])
            first = step


def _texts(run: _Run) -> Sequence[str]:
    """Return the possible texts of a run, the longest first."""
    height, width = run.size
    size, marks = f"{height}x{width}", ", ".join(words for _, words in run.marks)
    return (f"{size}  {marks}" if marks else size, size)


def _label(topology: Topology, block_id: BlockId) -> str:
    kind, number = block_id
    block = topology.blocks[block_id]
    notes = [
        {"down": "halves", "up": "doubles", None: ""}[block.resample],
        "attention" if block.transformers else "",
    ]
    text = ", ".join(filter(None, notes))
    return f"{kind} {number}" + (f"  ({text})" if text else "")


def _tint(size: Size, plain: Size) -> Colour:
    halvings = math.log2(math.prod(plain) / math.prod(size))
    if halvings < 0:
        return _LARGER
    share = min(halvings / _FADES_OVER, 1.0)
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(_FULL, _SMALLEST, strict=True))
    return red, green, blue


def _edge(step: int, steps: int) -> int:
    return _LABELS + round((_WIDTH - _LABELS - _MARGIN) * step / steps)


def _longest_that_fits(pen: Pen, texts: Sequence[str], width: int) -> str:
    font = ImageFont.load_default(_SMALL)
    return next((text for text in texts if pen.textlength(text, font) <= width), "")


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 150, subsequent_indent="    ")


def _write(pen: Pen, place: tuple[float, float], text: str, size: int, colour: Colour = _INK) -> None:
    pen.text(place, text, colour, ImageFont.load_default(size))


def _line(size: int) -> int:
    return round(1.4 * size)
