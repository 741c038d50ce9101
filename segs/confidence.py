"""The detector's confidence in a segment."""

from __future__ import annotations

import torch

from .segment import SEG, in_one_line, wrong_segment


def confidence_of(segment: SEG, number: int) -> float:
    """Return the confidence as a number: the first of an array, 1 if there is none.

    Raises:
        ValueError: when it is not a number.
    """
    value = segment.confidence
    if value is None:
        return 1.0
    try:
        return float(torch.as_tensor(value).flatten()[0])
    except (TypeError, ValueError, IndexError, RuntimeError):
        raise wrong_segment("a number as the confidence", number, in_one_line(value)) from None
