"""Handling of segments whose workers' results are missing."""

from __future__ import annotations

from logging import WARNING
from typing import Any

from ..errors import bad_input
from ..record import record
from ..segs.merge import Missing
from ..segs.segment import SEGS, Slice, read_shape, whole_of
from .log import log

NOTHING: SEGS = ((0, 0), [])
REFINE, STOP, LEAVE = POLICIES = ("refine", "stop", "leave")


@record
class MissingSegs:
    """SEGS that no worker refined, and the logged texts about them for the node."""

    segs: SEGS
    texts: list[str]


def missing_segs(missing: Missing, segs: Any, policy: str) -> MissingSegs:
    """Return the missing ones of `segs`, all segments of all workers; `policy` is one of POLICIES.

    Raises:
        ValueError: when some are missing and the run should stop; when a slice is missing and `segs` is not
            connected; when `segs` are other segments.
    """
    found: SEGS = NOTHING
    if segs is not None:
        size, segments = read_shape(segs)
        whole = whole_of(segments)
        if len(whole) != missing.total:
            hint = "Connect the segments that go to Slice SEGS."
            raise bad_input("segs", f"the {missing.total} segments of the workers", len(whole), hint)
        found = size, Slice(whole, missing.numbers)
    if not missing.numbers:
        return MissingSegs(found, [])
    slices = ", ".join(map(str, missing.slices))
    lost = f"slice {slices} of 0 to {missing.count - 1} is missing"
    why = lost if missing.slices else "a worker was cancelled or had NaN"
    what = f"{why}: {len(missing.numbers)} of {missing.total} segments are not refined"
    if policy == STOP or (policy == REFINE and segs is None and missing.slices):
        hint = (
            "Check the log of that worker and whether it is enabled. To continue: connect segs and "
            "refine the output missing, or set on_missing to leave."
        )
        raise bad_input("results", f"all {missing.count} slices", f"fewer: {what}", hint)
    text = f"results: {what}. " + (
        "They are in the output missing." if policy == REFINE and segs is not None else "They stay unrefined."
    )
    log.log(WARNING, text)
    return MissingSegs(found, [text])
