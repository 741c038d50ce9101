"""Upscaling an image and refining its segments with the host's models and memory."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from ..errors import bad_input
from ..record import record
from ..scaling.resized import resize_pictures
from ..scaling.size import Size
from ..segs.refine import Fit, Piece, cut_pieces, refine_in_order, refine_independently
from ..segs.segment import Segment, read_segments
from ..segs.target import sampled_size
from ..upscale.channels import Channels
from ..upscale.random_state import seeded
from .canvas import Canvas
from .compat import intermediate_dtype, patch_side
from .crop_patches import patch_notices
from .log import log
from .reference_latents import reference_notices
from .segment_hook import PasteHook
from .segment_progress import SegmentProgress
from .segment_sampler import IN_ORDER, Sampling, SegmentSampler
from .typed_sizes import typed_size_notices
from .unfinished import sampled_segments
from .upscale import ALL_GPUS, check_memory, fallbacks, pictures_of, upscale_images, without_nan

OWN_SIZE = "Use resampling_method lanczos: it needs no image of the model's own size."
BORDERS_STAY = "shift_borders: nothing to do, overlaps is not joint. Set overlaps to joint."


@record
class Enlargement:
    """How the image is enlarged: the node's inputs of these names, some with _opt."""

    rescale_factor: float = 2.0
    resampling_method: str = "lanczos"
    supersample: bool = True
    rounding_modulus: int = 8
    upscale_model: Any = None
    gpus: str = ALL_GPUS


@record
class Pasting:
    """How segments are cropped and pasted: the node's inputs of these names; `hook` is its upscaler_hook_opt."""

    feather: int = 5
    match_colours: float = 0.0
    smallest_crop: int = 256
    keep_on_interrupt: bool = True
    hook: Any = None


def upscale_segments(
    image: Tensor, segs: Any, enlargement: Enlargement, sampling: Sampling, pasting: Pasting
) -> tuple[Tensor, list[str]]:
    """Return IMAGE (F, H, W, C) enlarged, with each segment sampled again and pasted;
    and a text for each failure.

    Raises:
        ValueError, MemoryError: when an input is wrong, or memory is missing.
    """
    canvas = canvas_of(image, enlargement, sampling)
    pieces = _pieces(segs, len(image), canvas, sampling, pasting)
    plain = enlarge_image(image, enlargement, canvas.size)
    frames = plain.to("cpu", torch.float32)
    texts = [] if enlargement.upscale_model is None else fallbacks(enlargement.upscale_model)
    if pieces:
        colours = frames[..., : Channels(frames.shape[-1], 3).colours]
        texts += _refine(colours, pieces, sampling, pasting, canvas, frames)
    return frames.to(plain.device, plain.dtype), texts


def spatial_notices(image: Tensor, enlargement: Enlargement, sampling: Sampling) -> list[str]:
    """Return a text for each reference latent, for each unsupported patch on the model,
    and for settings that need joint sampling.
    """
    canvas = canvas_of(image, enlargement, sampling)
    texts = sampling.positive, sampling.negative
    return [
        *reference_notices(texts, canvas, sampling.reference_latents),
        *patch_notices(sampling.model, canvas),
        *([BORDERS_STAY] if sampling.shift_borders and not sampling.joint else []),
    ]


def size_notices(
    image: Tensor, segs: Any, enlargement: Enlargement, sampling: Sampling, pasting: Pasting
) -> list[str]:
    """Return a text for each node before this one in which a size was entered that
    differs from the sampled one.
    """

    def sizes() -> Iterator[Size]:
        canvas = canvas_of(image, enlargement, sampling)
        for piece in _pieces(segs, len(image), canvas, sampling, pasting):
            if piece.cut.segment.wanted:
                yield sampled_size(piece.cut.box.size, sampling.target, piece.cut.fit.multiple)

    return typed_size_notices(sizes())


def _pieces(segs: Any, frames: int, canvas: Canvas, sampling: Sampling, pasting: Pasting) -> list[Piece]:
    found_in, segments = read_segments(segs, frames)
    if sampling.joint:
        _refuse_slices(segments)
    # Whole tokens: the host would pad what is left of one.
    multiple = canvas.cell * patch_side(sampling.model)
    grid = canvas.cell if sampling.joint else 1
    fit = Fit(canvas.size, multiple, pasting.smallest_crop, pasting.feather, grid)
    return cut_pieces(segments, found_in, frames, fit)


def canvas_of(image: Tensor, enlargement: Enlargement, sampling: Sampling) -> Canvas:
    """Return the canvas of conditioning and patches, for IMAGE (F, H, W, C) that is enlarged."""
    given = image.shape[1], image.shape[2]
    size = rounded_size(given, enlargement.rescale_factor, enlargement.rounding_modulus)
    return Canvas(size, given, sampling.vae.spacial_compression_encode())


def enlarge_image(image: Tensor, enlargement: Enlargement, size: Size) -> Tensor:
    """Return IMAGE (F, H, W, C) at a (height, width); memory of its own."""
    pictures = pictures_of(image)
    device, dtype = comfy.model_management.intermediate_device(), intermediate_dtype()
    channels = Channels(pictures.shape[1], 3)
    check_memory(len(pictures), channels.result, size, device, dtype)
    if (model := enlargement.upscale_model) is not None:
        upscaled = partial(upscale_images, model, image, gpus=enlargement.gpus, socket="upscale_model_opt")
        if enlargement.resampling_method == "lanczos":
            return upscaled(height=size[0], width=size[1])
        pictures = upscaled(hint=OWN_SIZE).movedim(-1, 1)
    method, antialias = enlargement.resampling_method, enlargement.supersample
    resized = resize_pictures(without_nan(pictures), size, method, antialias=antialias)
    return resized.movedim(1, -1).to(device, dtype)


def rounded_size(size: Size, factor: float, modulus: int) -> Size:
    """Return the size times the factor, rounded to the nearest multiple of the modulus, at least one
    multiple; at factor 1 the size itself.
    """
    if factor == 1.0:
        return size
    height, width = (max(modulus, round(side * factor / modulus) * modulus) for side in size)
    return height, width


def _refine(
    colours: Tensor, pieces: list[Piece], sampling: Sampling, pasting: Pasting, canvas: Canvas, frames: Tensor
) -> list[str]:
    """Refine the pieces in place, and return a text for each failure."""
    progress = SegmentProgress(colours, pieces, sampling.steps, sampling.model)
    already = sampled_segments(sampling, canvas, [piece.cut.segment.control for piece in pieces])
    if already.latents:
        log.info("SEGS: %d segments were already sampled by the interrupted run.", len(already.latents))
    sampler = SegmentSampler(sampling, canvas, progress, already, keep_finished=pasting.keep_on_interrupt)
    finished = _Finished(PasteHook(frames, pasting.hook))
    wanted = sum(piece.cut.segment.wanted for piece in pieces)
    texts: list[str] = []
    try:
        with seeded(sampling.seed):  # some samplers and decoders draw from the global generators
            settings: dict[str, Any] = {"colours": pasting.match_colours, "pasted": finished}
            if sampling.overlaps == IN_ORDER:
                one_by_one = finished.hook.may_change
                refine_in_order(colours, _own(pieces), sampler, **settings, one_by_one=one_by_one)
            else:
                refine_independently(colours, pieces, sampler, **settings, agree=sampling.joint)
        already.end(complete=finished.count == wanted and not finished.hook.failures)
    except comfy.model_management.InterruptProcessingException:
        already.end(complete=False)
        if not (finished.count and pasting.keep_on_interrupt):
            raise
        counted = ", counted in every frame" if len(frames) > 1 else ""
        texts.append(f"SEGS: interrupted; {finished.count} of {wanted} segments are refined{counted}.")
        log.warning(texts[0])
    hook = finished.hook.texts()
    for text in hook:
        log.warning(text)
    return [*sampler.texts, *texts, *hook]


def _refuse_slices(segments: list[Segment]) -> None:
    """Check that one worker has all segments.

    Raises:
        ValueError: when other workers have some of them: joint sampling needs all in each step.
    """
    if any(not segment.wanted for segment in segments):
        hint = "Remove Slice SEGS, or set overlaps to independent."
        raise bad_input("segs", "all segments where overlaps is joint", "one worker's slice of them", hint)


def _own(pieces: list[Piece]) -> list[Piece]:
    """Return the wanted pieces.

    Raises:
        ValueError: when one of them touches another worker's segment and would have to wait for it.
    """
    own = [piece for piece in pieces if piece.cut.segment.wanted]
    others = [piece for piece in pieces if not piece.cut.segment.wanted]
    if any(piece.touches(other) for piece in own for other in others):
        hint = (
            "Turn keep_together on in Slice SEGS, use a lower smallest_crop, or set overlaps to independent."
        )
        expected = "touching segments in one slice, because overlaps is in order"
        raise bad_input("segs", expected, "them in several slices", hint)
    return own


class _Finished:
    """Called after each paste: counts, and calls the hook."""

    def __init__(self, hook: PasteHook) -> None:
        self.hook, self.count = hook, 0

    def __call__(self, piece: Piece) -> None:
        self.count += 1
        self.hook()
