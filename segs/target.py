"""The size at which a segment is sampled: a small crop is enlarged to it,
and its result is reduced when it is pasted.
"""

from __future__ import annotations

from ..record import record
from ..scaling.box import Box, Span
from ..scaling.size import Size


@record
class Target:
    """The size at which crops are sampled.

    Attributes:
        shorter: their shorter side is enlarged to it, in pixels; 0 keeps the crop's size.
        longer: maximum of the longer side after that; crops are never reduced to it.
    """

    shorter: int = 0
    longer: int = 0


AS_IT_IS = Target()


def sampled_size(crop: Size, target: Target, multiple: int) -> Size:
    """Return (height, width) for sampling a crop whose sides are multiples of `multiple`:
    the same aspect ratio, to the nearest multiple.

    The crop's own size if it is large enough.
    """
    factor = target.shorter / min(crop)
    if target.longer:
        factor = min(factor, target.longer / max(crop))
    if factor <= 1:
        return crop
    height, width = (max(side, round(side * factor / multiple) * multiple) for side in crop)
    return height, width


def enlarge_canvas(size: Size, crop: Box, sampled: Size) -> tuple[Size, Box]:
    """Return the size of an image, and a crop of it, where the crop has `sampled` size;
    the same ones if it already has it.
    """
    axes = zip(size, crop.spans, sampled, strict=True)
    sides, spans = zip(*(_enlarge(length, span, side) for length, span, side in axes), strict=True)
    return (sides[0], sides[1]), Box.of_spans(*spans)


def _enlarge(length: int, span: Span, side: int) -> tuple[int, Span]:
    factor = side / (span[1] - span[0])
    start = round(span[0] * factor)
    return round(length * factor), (start, start + side)
