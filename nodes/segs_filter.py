"""The node that selects and sorts segments."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..errors import bad_input
from ..host.compat import SHOWN_AGAIN
from ..host.notice import nothing_to_do
from ..scaling.size import Size
from ..segs.choose import MEASURES, Choice, choose_segments, join_segments
from ..segs.segment import SEG, read_shape, whole_of
from .segs_sockets import CATEGORY, segs_socket


class MegapixelSEGSFilter(io.ComfyNode):
    """Selects segments and sorts them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MegapixelSEGSFilter",
            display_name="Filter and Order SEGS (Megapixel)",
            category=CATEGORY,
            description=(
                "Selects segments by label, confidence and size, and sorts them by size, confidence or "
                "position; all of them or only a range. The second output has the segments that were not "
                "selected. It can also join two lists."
            ),
            search_aliases=[
                "SEGSFilter",
                "SEGSOrderedFilter",
                "SEGSRangeFilter",
                "SEGSConcat",
                "sort segments",
            ],
            inputs=[
                segs_socket(),
                io.String.Input(
                    "labels",
                    default="",
                    tooltip="Keep only segments with one of these labels, separated by commas. Empty keeps "
                    "all.",
                ),
                io.Combo.Input(
                    "order",
                    options=["as found", *MEASURES],
                    tooltip="Sort order: the largest value, the leftmost or the topmost first. The order "
                    "decides which seed each segment gets and which one comes first where segments overlap.",
                ),
                io.Boolean.Input(
                    "reverse",
                    default=False,
                    tooltip="On: reverses the order, so that the smallest or the rightmost comes first. Off "
                    "changes nothing.",
                ),
                io.Float.Input(
                    "min_confidence",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Minimum confidence of the detector. 0 keeps all.",
                ),
                io.Int.Input(
                    "min_size",
                    default=0,
                    min=0,
                    max=16384,
                    tooltip="Minimum length of the shorter side of the detected box, in pixels. 0 keeps all.",
                ),
                io.Int.Input(
                    "max_size",
                    default=0,
                    min=0,
                    max=16384,
                    tooltip="Maximum length of the "
                    "shorter side of the detected box, in pixels. 0 is no limit.",
                ),
                io.Int.Input(
                    "first",
                    default=0,
                    min=0,
                    max=10000,
                    tooltip="Number of segments to skip at the start of the sorted list. 0 skips none.",
                ),
                io.Int.Input(
                    "count",
                    default=0,
                    min=0,
                    max=10000,
                    tooltip="Number of segments to keep after the skipped ones. 0 keeps all.",
                ),
                io.SEGS.Input(
                    "more_segs",
                    optional=True,
                    tooltip="Segments of the same image, added after segs before the selection.",
                ),
            ],
            outputs=[
                io.SEGS.Output(display_name="segs", tooltip="The selected segments."),
                io.SEGS.Output(display_name="others", tooltip="The segments that were not selected."),
                io.Int.Output(display_name="count", tooltip="Number of selected segments."),
            ],
            **SHOWN_AGAIN,
        )

    @classmethod
    def execute(
        cls, segs, labels, order, reverse, min_confidence, min_size, max_size, first, count, more_segs=None
    ) -> io.NodeOutput:
        size, segments = read_shape(segs)
        names = frozenset(name.strip() for name in labels.split(",") if name.strip())
        choice = Choice(names, order, reverse, min_confidence, min_size, max_size, first, count)
        size, everything = _with_more(size, segments, more_segs)
        chosen, others = choose_segments(everything, choice)
        result = (size, chosen), (size, others), len(chosen)
        if chosen and (choice != Choice() or more_segs is not None):
            return io.NodeOutput(*result)
        why = "no condition is set" if chosen else f"none of {len(everything)} segments is selected"
        return nothing_to_do(f"segs: nothing to do, {why}.", *result)


def _with_more(size: Size, segments: list[SEG], more: Any) -> tuple[Size, list[SEG]]:
    """Return both lists of segments joined; an empty list fits an image of any size."""
    if more is None:
        return size, segments
    other, further = read_shape(more)
    if other != size and whole_of(segments) and whole_of(further):
        expected = f"segments of an image of {size[1]}x{size[0]}, as in segs"
        got = f"{other[1]}x{other[0]}"
        raise bad_input("more_segs", expected, got, "Detect both in the same image.")
    return size if whole_of(segments) else other, join_segments(segments, further)
