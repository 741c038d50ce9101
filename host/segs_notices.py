"""The notices of a SEGS node if it refines no segments, or fewer than given."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..segs.segment import Segment, read_segments

ASPECT_TOLERANCE = 0.02  # relative; rounding to multiples of 8 stays below it
CHECK = "Check them with Preview SEGS."


def segs_notices(image: Tensor, segs: Any) -> list[str]:
    """Return a text for each reason why segments of `segs` are not refined in IMAGE (F,
    H, W, C), or are stretched.

    Raises:
        ValueError: when `segs` has no single meaning.
    """
    found_in, segments = read_segments(segs, len(image))
    wanted = [segment for segment in segments if segment.wanted]
    if not wanted:
        why = f"other workers refine all {_count(segments)} segments" if segments else "there is no segment"
        return [f"segs: nothing to do, {why}: the image is only enlarged."]
    left_out = {
        "their masks are black": [segment for segment in wanted if segment.empty],
        f"they belong to frames that image does not have (it has {len(image)})": [
            segment for segment in wanted if not segment.empty and not _has_frame(segment, len(image))
        ],
        "they are outside the image": [
            segment
            for segment in wanted
            if not segment.empty
            and _has_frame(segment, len(image))
            and not segment.region.clamped(found_in).area
        ],
    }
    all_left_out = sum(map(_count, left_out.values())) == _count(wanted)
    start = "segs: nothing to do, " if all_left_out else "segs: "
    texts = [
        f"{start}{_count(those)} of {_count(wanted)} segments are skipped: {why}. {CHECK}"
        for why, those in left_out.items()
        if those
    ]
    texts += _other_frames(
        [segment for segment in wanted if segment.masks not in (1, len(image))], len(image)
    )
    height, width = image.shape[1:3]
    if abs(found_in[0] * width / (found_in[1] * height) - 1) > ASPECT_TOLERANCE:
        texts.append(
            f"segs: detected in an image of {found_in[1]}x{found_in[0]}, but image has {width}x{height}: the "
            "segments are stretched. Detect them in this image."
        )
    return texts


def _other_frames(segments: list[Segment], frames: int) -> list[str]:
    """Return the text for segments with masks for another number of frames."""
    if not segments:
        return []
    given = ", ".join(str(masks) for masks in sorted({segment.masks for segment in segments}))
    return [
        f"segs: {_count(segments)} segments have masks for {given} frames, but image has {frames}: every "
        "frame gets all their masks together. Detect them in these frames."
    ]


def _count(segments: list[Segment]) -> int:
    """Return how many segments these are; one with a mask for each frame counts once."""
    return len({segment.number for segment in segments})


def _has_frame(segment: Segment, frames: int) -> bool:
    return segment.frame is None or segment.frame < frames
