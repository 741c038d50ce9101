"""A sheet of images: blocks to compare, side by side, with the count below each image.

Lengths are in pixels of the sheet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Pen = ImageDraw.ImageDraw

_BLOCK_WIDTH = 936  # six columns of 146
_LARGEST = 448
_MARGIN = 40
_GAP = 12
_PAPER: Colour = (255, 255, 255)
_INK: Colour = (28, 30, 34)
_QUIET: Colour = (96, 100, 108)
_GOOD: Colour = (20, 122, 62)
_BAD: Colour = (184, 42, 42)
_TITLE, _ROW, _LABEL = 44, 32, 19
_FRAME = 4


@dataclass(frozen=True)
class Cell:
    """An image, and the verdict on it in two or three words if it was counted."""

    picture: Path
    verdict: str = ""
    good: bool = True


@dataclass(frozen=True)
class Block:
    """Rows of images under one title; `finding` is the result for all images that they are examples of."""

    title: str
    finding: str
    lines: Sequence[Sequence[Cell]]


def draw_sheet(
    title: str, subtitle: str, labels: Sequence[str], blocks: Sequence[Block], stacked: bool = False
) -> Image.Image:
    """Draw the blocks side by side, or `stacked`; column i of each has the label `labels[i]`. Every row has
    one cell for each label. Images are only resized, to a common square; a verdict colours the frame.
    """
    side = min(_LARGEST, (_BLOCK_WIDTH + _GAP) // len(labels) - _GAP)
    block_width = len(labels) * (side + _GAP) - _GAP
    heights = [_block_height(block, side) for block in blocks]
    width = (1 if stacked else len(blocks)) * (block_width + _MARGIN) + _MARGIN
    top = _MARGIN + _line(_TITLE) + _line(_LABEL) + _GAP
    height = top + (sum(heights) + _MARGIN * (len(blocks) - 1) if stacked else max(heights)) + _MARGIN
    sheet = Image.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(sheet)
    _write(pen, (_MARGIN, _MARGIN), title, _TITLE, _INK)
    _write(pen, (_MARGIN, _MARGIN + _line(_TITLE)), subtitle, _LABEL, _QUIET)
    for number, block in enumerate(blocks):
        left = _MARGIN + (0 if stacked else number * (block_width + _MARGIN))
        lefts = [left + column * (side + _GAP) for column in range(len(labels))]
        _draw_block(sheet, block, labels, top, lefts, side)
        top += heights[number] + _MARGIN if stacked else 0
    return sheet


def _block_height(block: Block, side: int) -> int:
    return 2 * _line(_ROW) + _line(_LABEL) + len(block.lines) * _cell_height(block, side)


def _cell_height(block: Block, side: int) -> int:
    judged = any(cell.verdict for line in block.lines for cell in line)
    return side + (_line(_LABEL) if judged else 0) + _GAP


def _draw_block(
    sheet: Image.Image, block: Block, labels: Sequence[str], top: int, lefts: Sequence[int], side: int
) -> None:
    """Draw the block's title at `top`, below it the labels and the lines, and under them the finding."""
    pen = ImageDraw.Draw(sheet)
    _write(pen, (lefts[0], top), block.title, _ROW, _INK)
    top += _line(_ROW)
    for left, label in zip(lefts, labels, strict=True):
        _write_centred(pen, left, side, top, label, _LABEL, _INK)
    top += _line(_LABEL)
    for line in block.lines:
        for left, cell in zip(lefts, line, strict=True):
            _draw_cell(sheet, cell, left, top, side)
        top += _cell_height(block, side)
    _write(pen, (lefts[0], top), block.finding, _ROW, _INK)


def _draw_cell(sheet: Image.Image, cell: Cell, left: int, top: int, side: int) -> None:
    with Image.open(cell.picture) as picture:
        sheet.paste(picture.convert("RGB").resize((side, side), Image.Resampling.LANCZOS), (left, top))
    if cell.verdict:
        pen = ImageDraw.Draw(sheet)
        colour = _GOOD if cell.good else _BAD
        pen.rectangle((left, top, left + side - 1, top + side - 1), outline=colour, width=_FRAME)
        _write_centred(pen, left, side, top + side + 4, cell.verdict, _LABEL, colour)


def _write(pen: Pen, place: tuple[float, float], text: str, size: int, colour: Colour) -> None:
    """Write a line with its upper left corner at (x, y)."""
    pen.text(place, text, colour, ImageFont.load_default(size))


def _write_centred(pen: Pen, left: int, width: int, top: int, text: str, size: int, colour: Colour) -> None:
    spare = width - pen.textlength(text, ImageFont.load_default(size))
    _write(pen, (left + spare / 2, top), text, size, colour)


def _line(size: int) -> int:
    """Return the height of a line of text of this size."""
    return round(1.4 * size)
