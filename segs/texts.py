"""A text for each segment: which one a segment has, by its number or by its label.

What a text is, the host knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any

from ..errors import bad_input
from ..record import record
from .segment import Segment


@record(eq=False)
class SegmentTexts:
    """Texts of segments; a segment without one has the general prompt.

    Attributes:
        by_number: one for each segment in their order, None for the general prompt; empty where texts go by
            label.
        by_label: one for all segments of a label.
    """

    by_number: Sequence[Any] = ()
    by_label: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def of(self, segment: Segment) -> Any | None:
        """Return the text of a segment, or None for the general prompt."""
        if segment.number < len(self.by_number):
            return self.by_number[segment.number]
        return self.by_label.get(segment.label)


def check_count(socket: str, captions: int, segments: int) -> None:
    """Check that there is a caption for each segment.

    Raises:
        ValueError: when there are more captions, or fewer.
    """
    if captions != segments:
        expected = f"a caption for each of {segments} segments"
        hint = "Caption each segment once, in their order; an empty caption takes the general prompt."
        raise bad_input(socket, expected, f"{captions} captions", hint)


def unused_labels(texts: SegmentTexts, labels: Sequence[str]) -> list[str]:
    """Return the labels of texts that are none of the segments' labels."""
    return [label for label in texts.by_label if label not in labels]
