"""The loop over segments: crop, refine, paste.

They are refined by a callable that gets many at once, so that it can load each of its models once.

F frames, H and W pixels, C channels, h and w pixels of a segment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor

from ..record import record
from ..scaling.box import Box
from ..scaling.grow import grow_box
from ..scaling.size import Size
from .colour import match_colours
from .crop import Crop, crop_picture
from .paste import add_segment, paste_segment
from .segment import Segment
from .weight import fade_inwards, feather_mask, place_mask


@record
class Fit:
    """How segments are cropped.

    Attributes:
        size: height and width of the image.
        multiple: width and height of crops are multiples of it.
        least: shorter sides are extended to it.
        feather: width of the blend, in pixels.
        grid: crops begin and end at multiples of it; it divides `multiple`.
    """

    size: Size
    multiple: int = 8
    least: int = 1
    feather: int = 5
    grid: int = 1


@record(eq=False)
class Cut:
    """A segment fitted to the image.

    Attributes:
        region: its own box, which may extend beyond the image.
        box: the crop; extends beyond the image only if the image is smaller than the multiple.
    """

    segment: Segment
    region: Box
    box: Box
    fit: Fit

    @cached_property
    def mask(self) -> Tensor:
        """(h, w) float32: how much of each pixel belongs to it, sharp."""
        return place_mask(self.segment.mask, self.region, self.box)

    @cached_property
    def weight(self) -> Tensor:
        """(h, w) float32: the weight for pasting."""
        return feather_mask(self.mask, self.box, self.fit.size, self.fit.feather)


@record(eq=False)
class Piece:
    """A segment in one frame."""

    cut: Cut
    frame: int

    @property
    def crop(self) -> Crop:
        """The crop of this piece."""
        return Crop(self.cut.box, self.frame)

    def touches(self, other: Piece) -> bool:
        """Return whether both share pixels."""
        return self.frame == other.frame and self.cut.box.overlaps(other.cut.box)


Refine = Callable[[Sequence[Piece], Sequence[Tensor]], Iterable[tuple[int, Tensor | None]]]


def cut_pieces(segments: Iterable[Segment], found_in: Size, frames: int, fit: Fit) -> list[Piece]:
    """Return the pieces to crop from `frames` frames;
    segments without a pixel or outside the image are skipped.
    """
    pieces: list[Piece] = []
    for segment in segments:
        region = segment.region.scaled(found_in, fit.size)
        inside = region.clamped(fit.size)
        if segment.empty or not inside.area:
            continue
        cut = Cut(segment, region, grow_box(inside, fit.size, fit.multiple, fit.least, fit.grid), fit)
        numbers = range(frames) if segment.frame is None else [segment.frame]
        pieces += [Piece(cut, number) for number in numbers if 0 <= number < frames]
    return pieces


def refine_independently(
    frames: Tensor,
    pieces: Sequence[Piece],
    refine: Refine,
    *,
    colours: float = 0.0,
    pasted: Callable[[Piece], None] | None = None,
    agree: bool = False,
) -> None:
    """Refine all wanted pieces of `frames` (F, H, W, C), each cropped from the original frames,
    and paste them in place.

    `refine` gets (h, w, C) of each and yields the refined ones in any order, None for one that failed.
    Overlaps are averaged by their weights. Pieces that `agree`, since they show one picture, fade only towards
    what none of them fills. `pasted` is called after each.
    """
    wanted = [piece for piece in pieces if piece.cut.segment.wanted]
    by_frame = _by_frame(pieces)
    for piece, base, refined in _refined(frames, wanted, refine, colours):
        frame, box, weight = frames[piece.frame], piece.cut.box, piece.cut.weight
        others = _others(piece, by_frame[piece.frame])
        if others:
            total = _total(piece, others)
            if agree:
                weight, total = _agreed(piece, total, by_frame[piece.frame])
            add_segment(frame, box, refined, base, weight, total)
        else:
            paste_segment(frame, box, refined, weight)
        if pasted:
            pasted(piece)


def refine_in_order(
    frames: Tensor,
    pieces: Sequence[Piece],
    refine: Refine,
    *,
    colours: float = 0.0,
    pasted: Callable[[Piece], None] | None = None,
    one_by_one: bool = False,
) -> None:
    """The same, but each piece is cropped after earlier ones were pasted, and is pasted over them.

    Only pieces that touch wait for each other, unless `one_by_one`: for a `pasted` that changes other parts
    of the image.
    """
    for wave in [[piece] for piece in pieces] if one_by_one else waves(pieces):
        for piece, _, refined in _refined(frames, wave, refine, colours):
            paste_segment(frames[piece.frame], piece.cut.box, refined, piece.cut.weight)
            if pasted:
                pasted(piece)


def _refined(
    frames: Tensor, pieces: Sequence[Piece], refine: Refine, colours: float
) -> Iterator[tuple[Piece, Tensor, Tensor]]:
    """Yield pieces with their crops, all at once, and with their results, one after another."""
    cut = [crop_picture(frames[piece.frame], piece.cut.box) for piece in pieces]
    for number, refined in refine(pieces, cut):
        if refined is not None:
            yield pieces[number], cut[number], match_colours(refined, cut[number], colours)


def waves(pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
    """Yield groups of pieces that do not touch, so that the result is as if they were
    processed one after another.
    """
    turns: dict[Piece, int] = {}
    for others in _by_frame(pieces).values():
        for number, piece in enumerate(others):
            earlier = (turns[other] + 1 for other in others[:number] if piece.touches(other))
            turns[piece] = max(earlier, default=0)
    for turn in range(max(turns.values(), default=-1) + 1):
        yield [piece for piece in pieces if turns[piece] == turn]


def touching(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """Return pieces in groups, each in their order: those that touch, directly or over others, are in one."""
    groups: list[list[Piece]] = []
    for piece in pieces:
        near = [group for group in groups if any(piece.touches(other) for other in group)]
        joined = [other for group in near for other in group]
        groups = [group for group in groups if group not in near] + [[*joined, piece]]
    order = {piece: number for number, piece in enumerate(pieces)}
    return sorted(
        (sorted(group, key=order.__getitem__) for group in groups), key=lambda group: order[group[0]]
    )


def _by_frame(pieces: Sequence[Piece]) -> dict[int, list[Piece]]:
    frames: dict[int, list[Piece]] = {}
    for piece in pieces:
        frames.setdefault(piece.frame, []).append(piece)
    return frames


def _others(piece: Piece, pieces: Sequence[Piece]) -> list[Piece]:
    """Return those of the pieces that touch one."""
    return [other for other in pieces if other is not piece and piece.touches(other)]


def _total(piece: Piece, others: Sequence[Piece]) -> Tensor:
    """Return the sum of all weights (h, w) over a piece."""
    total = piece.cut.weight.clone()
    for other in others:
        here, there = _shared(piece.cut.box, other)
        total[here.rows, here.columns] += other.cut.weight[there.rows, there.columns]
    return total


def _agreed(piece: Piece, total: Tensor, pieces: Sequence[Piece]) -> tuple[Tensor, Tensor]:
    """Return the share (h, w) of a piece of one picture in the result, and the sum of all shares there.

    Where crops overlap by less than their fades, the weights add up to less than 1 (`total`), and the image
    under them would show. Here they add up to the weight of all that the pieces fill together, with its own
    fade.
    """
    box, fit = piece.cut.box, piece.cut.fit
    around = box.grown(2 * fit.feather)
    filled = fade_inwards(_filled(around, pieces, fit.size), fit.feather)
    inside = box.within(around)
    wanted = torch.maximum(total.clamp(max=1), filled[inside.rows, inside.columns])
    return torch.where(total > 0, piece.cut.weight * wanted / total, 0), wanted


def _filled(region: Box, pieces: Sequence[Piece], size: Size) -> Tensor:
    """Return which pixels (h, w) of a region the masks of pieces fill, or are outside the image."""
    filled = torch.ones(region.size, dtype=torch.bool)
    inside = region.clamped(size).within(region)
    filled[inside.rows, inside.columns] = False
    for piece in pieces:
        if region.overlaps(piece.cut.box):
            here, there = _shared(region, piece)
            filled[here.rows, here.columns] |= piece.cut.mask[there.rows, there.columns] >= 1
    return filled


def _shared(box: Box, piece: Piece) -> tuple[Box, Box]:
    """Return what a piece shares with a box, in the box and in the piece's crop."""
    shared = box.shared(piece.cut.box)
    return shared.within(box), shared.within(piece.cut.box)
