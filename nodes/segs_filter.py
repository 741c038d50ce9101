"""The node that chooses among segments and orders them."""

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
    """Which segments, and in which order."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MegapixelSEGSFilter",
            display_name="Filter and Order SEGS (Megapixel)",
            category=CATEGORY,
            description=(
                "Keeps the segments that fit and puts them in order: by label, confidence, size, or place in the picture; the first few, or all. "
                "Gives back those left out as well, and can join two lists."
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
                    tooltip="Only segments with one of these labels, with commas between. Empty takes all.",
                ),
                io.Combo.Input(
                    "order",
                    options=["as found", *MEASURES],
                    tooltip="The greatest, the leftmost or the uppermost first. The order counts the seeds, and says who goes first where segments overlap.",
                ),
                io.Boolean.Input(
                    "reverse",
                    default=False,
                    tooltip="Turns the order round: the smallest, the rightmost first.",
                ),
                io.Float.Input(
                    "min_confidence",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Least confidence of the detector. 0 takes all.",
                ),
                io.Int.Input(
                    "min_size",
                    default=0,
                    min=0,
                    max=16384,
                    tooltip="Least shorter side of the found box in pixels. 0 takes all.",
                ),
                io.Int.Input("max_size", default=0, min=0, max=16384, tooltip="Most of it. 0 is no limit."),
                io.Int.Input(
                    "first",
                    default=0,
                    min=0,
                    max=10000,
                    tooltip="After ordering, leave out so many at the beginning. 0 leaves out none.",
                ),
                io.Int.Input("count", default=0, min=0, max=10000, tooltip="Then take so many. 0 takes all."),
                io.SEGS.Input(
                    "more_segs",
                    optional=True,
                    tooltip="Segments of the same picture, added after segs before anything is chosen.",
                ),
            ],
            outputs=[
                io.SEGS.Output(display_name="segs", tooltip="The chosen ones."),
                io.SEGS.Output(display_name="others", tooltip="Those left out."),
                io.Int.Output(display_name="count", tooltip="How many are chosen."),
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
        why = "no condition is set" if chosen else f"none of {len(everything)} segments is chosen"
        return nothing_to_do(f"segs: nothing to do, {why}.", *result)


def _with_more(size: Size, segments: list[SEG], more: Any) -> tuple[Size, list[SEG]]:
    """Return segments and more of them; an empty list fits a picture of any size."""
    if more is None:
        return size, segments
    other, further = read_shape(more)
    if other != size and whole_of(segments) and whole_of(further):
        expected = f"segments of a picture of {size[1]}x{size[0]} like segs"
        got = f"{other[1]}x{other[0]}"
        raise bad_input("more_segs", expected, got, "Find both in the same picture.")
    return size if whole_of(segments) else other, join_segments(segments, further)
