"""Reference latents: images that an edit model sees in addition to the sampled one
(Kontext, Flux.2, Qwen-Image-Edit).

A reference that is the image itself is cropped with the segment, like a hint. One of another image, a person
or a style, stays whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from ..segs.crop import Crop, fit_aspect
from .canvas import Canvas, crop_fields, crop_pictures

AUTO, CUT, WHOLE = "auto", "cut", "whole"
CHOICES = (AUTO, CUT, WHOLE)

# Of lists of (B, C, h, w), (B, C, T, h, w), or of images (B, H, W, C).
NAMES = ("reference_latents", "context_latents")

_MOST_COLOURS = 4


def crop_references(references: Any, crops: Sequence[Crop], canvas: Canvas, choice: str) -> Any:
    """Return a list of references, cropped ones as (crops, …, h, w); anything else unchanged."""
    if not isinstance(references, (list, tuple)):
        return references
    return [
        _cut(reference, crops, canvas) if is_cut(reference, canvas, choice) else reference
        for reference in references
    ]


def is_cut(reference: Any, canvas: Canvas, choice: str) -> bool:
    """Return whether a reference is cropped: `auto` crops those with the size of the image,
    now or before upscaling.
    """
    if not isinstance(reference, Tensor) or reference.dim() < 4 or choice == WHOLE:
        return False
    if choice == CUT:
        return True
    if _is_picture(reference):
        return (reference.shape[1], reference.shape[2]) in canvas.sizes
    return (reference.shape[-2], reference.shape[-1]) in canvas.latent_sizes()


def reference_notices(conditionings: Sequence[Any], canvas: Canvas, choice: str) -> list[str]:
    """Return a text for each reference of positive and negative: whether it is cropped, and why."""
    texts: dict[str, None] = {}  # positive and negative mostly share theirs
    for conditioning in conditionings:
        for number, reference in enumerate(_references(conditioning), start=1):
            texts[_notice(number, reference, canvas, choice)] = None
    return list(texts)


def _references(conditioning: Any) -> Iterator[Tensor]:
    """Yield the references of the first entry that has some; the others repeat them."""
    for _, options in conditioning or []:
        found = [each for name in NAMES for each in options.get(name) or () if isinstance(each, Tensor)]
        if found:
            yield from found
            return


def _notice(number: int, reference: Tensor, canvas: Canvas, choice: str) -> str:
    height, width = _pixels(reference, canvas)
    start = f"reference_latents: reference {number} ({width}x{height} pixels)"
    if is_cut(reference, canvas, choice):
        why = "reference_latents is set to cut" if choice == CUT else "it has the size of the image"
        return f"{start} is cropped to each segment: {why}."
    if choice == WHOLE:
        return f"{start} is given whole to each segment: reference_latents is set to whole."
    return (
        f"{start} is given whole to each segment: the image has another size. Set reference_latents to "
        "cut if it shows the same image."
    )


def _pixels(reference: Tensor, canvas: Canvas) -> tuple[int, int]:
    if _is_picture(reference):
        return reference.shape[1], reference.shape[2]
    return reference.shape[-2] * canvas.cell, reference.shape[-1] * canvas.cell


def _is_picture(reference: Tensor) -> bool:
    """Return whether a reference has its channels last, like IMAGE; no latent is that narrow."""
    return reference.dim() == 4 and reference.shape[-1] <= _MOST_COLOURS < reference.shape[1]


def _cut(reference: Tensor, crops: Sequence[Crop], canvas: Canvas) -> Tensor:
    if _is_picture(reference):
        return crop_pictures(reference, crops, canvas)
    return crop_fields(fit_aspect(reference, canvas.size), crops, canvas, canvas.cell)
