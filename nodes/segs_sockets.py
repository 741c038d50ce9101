"""Sockets and types that several SEGS nodes share."""

from __future__ import annotations

from comfy_api.latest import io

CATEGORY = "image/upscaling/segments"
UpscalerHook = io.Custom("UPSCALER_HOOK")
SchedulerFunc = io.Custom("SCHEDULER_FUNC")
SegmentTexts = io.Custom("SEGMENT_TEXTS")


def segs_socket() -> io.SEGS.Input:
    """Return the socket of segments."""
    return io.SEGS.Input(
        "segs", tooltip="Segments from a Megapixel node, such as Tiles to SEGS, or from any detector pack."
    )
