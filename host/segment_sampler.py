"""Refining segments with the host's models: all are encoded, then all sampled, then all decoded, so that each
model loads once.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.utils
import torch
from torch import Tensor

from ..errors import bad_input
from ..record import record
from ..scaling.box import Box
from ..scaling.colours import rgb
from ..scaling.resized import resize_pictures
from ..scaling.size import Size
from ..segs.blur import blur_mask
from ..segs.crop import Crop, crop_resized
from ..segs.fuse import Fusion, cut
from ..segs.joint_tiles import JointTiles
from ..segs.refine import Piece, touching
from ..segs.target import AS_IT_IS, Target, enlarge_canvas, sampled_size
from ..segs.texts import SegmentTexts
from ..upscale.memory import is_out_of_memory
from .canvas import Canvas
from .compat import intermediate_dtype
from .crop_conditioning import Conditioning, controls_take_batches, crop_conditioning, effect_in
from .crop_patches import crop_cfg_functions, crop_patches, patch_cutter, takes_batches
from .joint_sampling import PATCHES, JointGuider, TileBatch
from .log import log
from .models import check_conditioning, check_model
from .reference_latents import AUTO
from .segment_control import placed_control
from .segment_noise import can_batch, segment_sampler, start_noise
from .segment_progress import AROUND, SegmentProgress
from .segment_texts import batch_key, with_texts
from .sigmas import SchedulerFunction, noise_levels
from .unfinished import Key, SampledSegments
from .upscale import free_memory

OVERLAPS = INDEPENDENT, IN_ORDER, JOINT = "independent", "in order", "joint"
MEMORY_SHARE = 0.8  # of the free memory that a batch may take
AGAINST_NAN = "Start ComfyUI with --fp32-vae or --force-fp32, or use another VAE."


@record
class Sampling:
    """How a segment is sampled: the node's inputs of the same names.

    Attributes:
        batch_size: maximum number of equal-sized segments sampled together; 0 follows the free memory.
        target: the size at which segments are sampled.
        reference_latents: which of them are cropped, one of `reference_latents.CHOICES`.
        segment_texts: texts that replace the general prompt in their segments.
        overlaps: how segments that overlap are sampled, one of OVERLAPS.
        shift_borders: whether the borders between these shift from step to step.

    Raises:
        ValueError: when there is no VAE, the model lacks a part of the host's ModelPatcher, or a text is not a
            CONDITIONING.
    """

    model: Any
    vae: Any
    positive: Conditioning
    negative: Conditioning
    seed: int
    steps: int
    cfg: float
    sampler_name: str
    scheduler: str
    denoise: float
    noise_mask_feather: int = 20
    inpaint_model: bool = False
    scheduler_function: SchedulerFunction | None = None
    batch_size: int = 0
    target: Target = AS_IT_IS
    reference_latents: str = AUTO
    segment_texts: SegmentTexts | None = None
    overlaps: str = INDEPENDENT
    shift_borders: bool = False

    def __post_init__(self) -> None:
        check_model(self.model)
        check_conditioning(self.positive, "positive")
        check_conditioning(self.negative, "negative")
        if self.vae is None:
            raise bad_input("vae", "a VAE", "none: the checkpoint has none", "Connect Load VAE.")

    @property
    def joint(self) -> bool:
        """Whether segments that overlap are sampled in one latent."""
        return self.overlaps == JOINT


@record(eq=False)
class _Encoded:
    """An encoded piece, ready for sampling."""

    number: int
    piece: Piece
    crop: Crop  # of the canvas, at the size that is sampled
    canvas: Canvas
    pixels: Tensor  # (1, h, w, 3), at that size
    latent: Tensor  # (1, C, …)
    mask: Tensor  # (h, w)
    hidden: Tensor | None  # latent of what an inpainting model may see
    text: Conditioning | None  # in the place of the general prompt

    @property
    def control(self) -> Any:
        return self.piece.cut.segment.control


class SegmentSampler:
    """Refines pieces; called with their pixels, as `segs.refine` wants it."""

    def __init__(
        self,
        sampling: Sampling,
        canvas: Canvas,
        progress: SegmentProgress,
        already: SampledSegments,
        *,
        keep_finished: bool = True,
    ) -> None:
        self._settings, self._canvas, self._progress, self._already = sampling, canvas, progress, already
        self._keep_finished = keep_finished
        self.texts: list[str] = []  # of segments that failed, to show at the node
        self._joined: dict[Piece, Box] = {}  # that share a latent with others: each in what is decoded for it
        self._most = sys.maxsize  # segments that fit the memory together, once that is known

    def __call__(
        self, pieces: Sequence[Piece], cuts: Sequence[Tensor]
    ) -> Iterator[tuple[int, Tensor | None]]:
        """Yield the number and the refined pixels (h, w, C) of each piece, None for one that is not finite.

        Latents of an earlier run are only decoded. An interrupt while sampling first yields the finished
        pieces and is then raised.
        """
        numbers = {piece: number for number, piece in enumerate(pieces)}
        groups = self._groups(pieces)
        self._joined = {
            piece: inside for group in groups if len(group) > 1 for piece, inside in self._insides(group)
        }
        keys: dict[Piece, Key] = {}
        for group in groups:
            own = self._already.keys_of(group, [cuts[numbers[piece]] for piece in group])
            keys |= zip(group, own, strict=True)
        sampled, missing = self._found(groups, keys)
        waiting = [
            [self._encode(numbers[piece], piece, cuts[numbers[piece]]) for piece in group]
            for group in missing
        ]
        self._notice_of_own_sizes()
        stopped = False
        try:
            for run in self._runs(waiting):
                for entry, latent in run:  # keeps what came before an interrupt
                    sampled.append((entry.piece, latent))
                    self._already.put(keys[entry.piece], latent)
        except comfy.model_management.InterruptProcessingException:
            if not (sampled and self._keep_finished):
                raise
            stopped = True  # not the exception itself: it would hold on to the models
        for piece, latent in sampled:
            number = numbers[piece]
            refined = self._decode(piece, latent, cuts[number])
            if refined is None:
                self._already.forget(keys[piece])
            yield number, refined
        if stopped:
            raise comfy.model_management.InterruptProcessingException()

    def _found(
        self, groups: Sequence[list[Piece]], keys: Mapping[Piece, Key]
    ) -> tuple[list[tuple[Piece, Tensor]], list[list[Piece]]]:
        """Return pieces with their latents of an earlier run, and the groups that lack some."""
        found: list[tuple[Piece, Tensor]] = []
        missing: list[list[Piece]] = []
        for group in groups:
            latents = [(piece, self._already.get(keys[piece])) for piece in group]
            whole = [(piece, latent) for piece, latent in latents if latent is not None]
            if len(whole) < len(group):
                missing.append(group)
            else:
                found += whole
                self._progress.advance((self._settings.steps + AROUND - 1) * len(group))
        return found, missing

    def _groups(self, pieces: Sequence[Piece]) -> list[list[Piece]]:
        """Return pieces in groups that are sampled in one latent."""
        return touching(pieces) if self._settings.joint else [[piece] for piece in pieces]

    def _insides(self, group: Sequence[Piece]) -> Iterator[tuple[Piece, Box]]:
        """Yield pieces of one latent, and where each lies in what is decoded for it, in latent pixels."""
        yield from zip(group, self._tiles(group).insides, strict=True)

    def _tiles(self, pieces: Sequence[Piece]) -> JointTiles:
        return JointTiles.of(pieces, self._canvas.size, self._canvas.cell)

    def _runs(self, groups: Sequence[list[_Encoded]]) -> Iterator[Iterator[tuple[_Encoded, Tensor]]]:
        """Yield what samples some of the groups: those of one segment in batches, each other one jointly."""
        for batch in self._batches([group[0] for group in groups if len(group) == 1]):
            yield self._sample_within_memory(batch)
        for group in groups:
            if len(group) > 1:
                yield self._sample_jointly(group)

    def _notice_of_own_sizes(self) -> None:
        """Report segments that are not enlarged to `target`, since they share pixels with others."""
        target = self._settings.target
        small = [
            piece
            for piece in self._joined
            if sampled_size(piece.cut.box.size, target, piece.cut.fit.multiple) != piece.cut.box.size
        ]
        if small:
            text = f"target_size: {len(small)} segments overlap others and are sampled jointly, so they are not enlarged to it."
            log.info(text)
            self.texts.append(text)

    @cached_property
    def _model(self) -> Any:
        model = self._settings.model
        return with_soft_masks(model) if self._settings.noise_mask_feather > 0 else model

    @cached_property
    def _go_together(self) -> bool:
        """Whether the model's patches and the ControlNets take several segments at once."""
        settings = self._settings
        texts = settings.positive, settings.negative
        return takes_batches(settings.model) and all(map(controls_take_batches, texts))

    @cached_property
    def _sigmas(self) -> Tensor:
        settings = self._settings
        return noise_levels(
            settings.model,
            settings.sampler_name,
            settings.scheduler,
            settings.steps,
            settings.denoise,
            settings.scheduler_function,
        ).to(settings.model.load_device)

    def _encode(self, number: int, piece: Piece, cut: Tensor) -> _Encoded:
        comfy.model_management.throw_exception_if_processing_interrupted()
        settings, sampled = self._settings, self._sampled_size(piece)
        size, crop = enlarge_canvas(self._canvas.size, piece.cut.box, sampled)
        pixels = _resized(rgb(cut, -1), sampled)[None]
        mask = blur_mask(piece.cut.mask, settings.noise_mask_feather)
        mask = crop_resized(mask, sampled, Box(0, 0, *sampled))
        latent = settings.vae.encode(pixels)
        self._check_latent(latent)
        hidden = settings.vae.encode(_without_masked(pixels, mask)) if settings.inpaint_model else None
        self._progress.advance(AROUND - 1)
        canvas = replace(self._canvas, size=size, before_target=self._canvas.size)
        text = settings.segment_texts and settings.segment_texts.of(piece.cut.segment)
        return _Encoded(number, piece, Crop(crop, piece.frame), canvas, pixels, latent, mask, hidden, text)

    def _sampled_size(self, piece: Piece) -> Size:
        target = AS_IT_IS if piece in self._joined else self._settings.target
        return sampled_size(piece.cut.box.size, target, piece.cut.fit.multiple)

    def _check_latent(self, latent: Tensor) -> None:
        wanted = self._settings.model.get_model_object("latent_format").latent_channels
        if latent.shape[1] != wanted:
            expected = f"one with {wanted} latent channels for this model"
            hint = "Connect the VAE of this model."
            raise bad_input("vae", expected, f"one with {latent.shape[1]}", hint)

    def _batches(self, encoded: Sequence[_Encoded]) -> Iterator[list[_Encoded]]:
        """Yield batches that can be sampled together: equal shapes and equal effects of the conditioning."""
        groups: dict[tuple[Any, ...], list[_Encoded]] = {}
        for entry in encoded:
            texts = self._settings.positive, self._settings.negative
            effects = tuple(effect_in(text, entry.crop, entry.canvas) for text in texts)
            own = entry.number if entry.control is not None or not self._go_together else None
            key = entry.latent.shape, entry.canvas, effects, own, batch_key(entry.text)
            groups.setdefault(key, []).append(entry)
        for group in groups.values():
            size = self._batch_size(group)
            while group:
                count = min(size, self._most)
                yield group[:count]
                group = group[count:]

    def _batch_size(self, group: Sequence[_Encoded]) -> int:
        settings, model = self._settings, self._settings.model
        if group[0].piece not in self._joined and not can_batch(settings.sampler_name):
            return 1
        if settings.batch_size:
            return settings.batch_size
        if model.load_device.type == "cpu":
            return 1  # nothing is gained there
        free = free_memory(model.load_device) - max(0, model.model_size() - model.loaded_size())
        shape = group[0].latent.shape
        estimate = model.memory_required([2 * shape[0], *shape[1:]])  # with and without the prompt
        return max(1, min(len(group), int(MEMORY_SHARE * free / estimate)))

    def _sample_within_memory(self, batch: list[_Encoded]) -> Iterator[tuple[_Encoded, Tensor]]:
        latents = None
        try:
            latents = self._sample(batch)
        except Exception as error:
            if len(batch) == 1 or not is_out_of_memory(error):
                raise
        if latents is not None:
            yield from zip(batch, latents.split(1), strict=True)
            return
        half = self._halve(len(batch))
        yield from self._sample_within_memory(batch[:half])
        yield from self._sample_within_memory(batch[half:])

    def _sample_jointly(self, group: Sequence[_Encoded]) -> Iterator[tuple[_Encoded, Tensor]]:
        """Yield segments that overlap with their latents: cuts of one."""
        while True:
            batches = list(self._batches(group))
            largest = max(map(len, batches))
            try:
                yield from self._sample_whole(batches)
                return
            except Exception as error:
                if largest == 1 or not is_out_of_memory(error):
                    raise
            self._halve(largest)

    def _halve(self, count: int) -> int:
        """Let half as many segments go through the model together as did not fit, and return how many."""
        comfy.model_management.soft_empty_cache()
        self._most = half = count // 2
        log.info("SEGS: out of memory with %d segments at once; continuing with %d.", count, half)
        return half

    def _sample_whole(self, batches: Sequence[Sequence[_Encoded]]) -> list[tuple[_Encoded, Tensor]]:
        """Return segments that overlap with what is decoded for them: cuts of the latent that they share.

        They go through the model in these batches.
        """
        comfy.model_management.throw_exception_if_processing_interrupted()
        settings, seed = self._settings, self._settings.seed
        entries = [entry for batch in batches for entry in batch]
        pieces = [entry.piece for entry in entries]
        tiles = self._tiles(pieces)
        fusion = Fusion(
            tiles.size, tiles.boxes, tiles.weights(pieces), seed if settings.shift_borders else None
        )
        latent = fusion.fuse([entry.latent for entry in entries], fusion.constant)
        everywhere = latent.new_empty((*latent.shape[:-2], *tiles.picture))
        noise = cut(start_noise([everywhere], [seed]), tiles.place)
        model = crop_cfg_functions(self._model, tiles.crop, self._canvas)
        guider = JointGuider(model, settings.cfg, list(self._tile_batches(batches)), fusion)
        sampled = guider.sample(
            noise,
            latent,
            segment_sampler(settings.sampler_name, [seed], self._sigmas, noise.shape, model.load_device),
            self._sigmas,
            tiles.union([latent_mask(entry.mask, entry.latent.shape) for entry in entries]),
            lambda step, x0, x, total: self._progress.step(pieces, [cut(x0[0], box) for box in tiles.boxes]),
            True,  # one bar for all segments, not a line in the console for each
            seed,
        )
        sampled = sampled.to(comfy.model_management.intermediate_device(), intermediate_dtype())
        return [(entry, cut(sampled, box)) for entry, box in zip(entries, tiles.decoded, strict=True)]

    def _tile_batches(self, batches: Sequence[Sequence[_Encoded]]) -> Iterator[TileBatch]:
        first = 0
        for batch in batches:
            model, texts = self._conditioned(batch)
            own = batch[0].control is not None
            options = model.model_options["transformer_options"]
            yield TileBatch(
                range(first, first + len(batch)),
                texts,
                patch_cutter(self._model, [entry.crop for entry in batch], batch[0].canvas),
                {name: options[name] for name in PATCHES if name in options} if own else None,
            )
            first += len(batch)

    def _sample(self, batch: Sequence[_Encoded]) -> Tensor:
        """Return the refined latents of a batch (B, C, …)."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        settings = self._settings
        seeds = [(settings.seed + entry.piece.cut.segment.number) % 2**64 for entry in batch]
        latents = [entry.latent for entry in batch]
        noise = start_noise(latents, seeds)
        model, (positive, negative) = self._conditioned(batch)
        alone = len(batch) == 1 and not can_batch(settings.sampler_name)
        return comfy.sample.sample_custom(
            model,
            noise,
            settings.cfg,
            segment_sampler(settings.sampler_name, seeds, self._sigmas, noise.shape, model.load_device),
            self._sigmas,
            positive,
            negative,
            torch.cat(latents),
            noise_mask=stack_masks([entry.mask for entry in batch], noise.dim()),
            callback=lambda step, x0, x, total: self._progress.step([entry.piece for entry in batch], x0),
            disable_pbar=True,  # one bar for all segments, not a line in the console for each
            # effects on the model go by it, so it must not depend on the batch
            seed=seeds[0] if alone else settings.seed,
        )

    def _conditioned(self, batch: Sequence[_Encoded]) -> tuple[Any, list[Conditioning]]:
        """Return the model, and positive and negative, for these segments."""
        settings, first = self._settings, batch[0]
        crops = [entry.crop for entry in batch]
        canvas = replace(first.canvas, has_time=first.latent.dim() == 5)
        model = crop_patches(self._model, crops, canvas)
        texts = [with_texts(settings.positive, [entry.text for entry in batch]), settings.negative]
        texts = crop_conditioning(texts, crops, canvas, settings.reference_latents)
        if first.control is not None:  # such a segment is alone in its batch
            control = placed_control(first.control, first.piece)
            texts = list(control.apply(*texts, first.pixels, first.mask[None])[:2])
            if hasattr(control, "doit_ipadapter"):
                model = control.doit_ipadapter(model)[0]
        hidden = [entry.hidden for entry in batch if entry.hidden is not None]
        if hidden:
            masks = torch.stack([entry.mask for entry in batch])[:, None]
            seen = {"concat_latent_image": torch.cat(hidden), "concat_mask": masks}
            texts = [[[text, {**options, **seen}] for text, options in entries] for entries in texts]
        return model, texts

    def _decode(self, piece: Piece, latent: Tensor, cut: Tensor) -> Tensor | None:
        """Return (h, w, C) with the channels of `cut`, or None where it is not finite."""
        refined = self._settings.vae.decode(latent)
        refined = refined.reshape(-1, *refined.shape[-3:])[0]  # videos have a time
        height, width = self._sampled_size(piece)
        inside = self._joined.get(piece, Box(0, 0, 0, 0))
        top, left = inside.top * self._canvas.cell, inside.left * self._canvas.cell
        refined = refined[top : top + height, left : left + width, :3].to(cut.device, torch.float32)
        if not bool(refined.sum().isfinite()) and not bool(refined.isfinite().all()):
            number = piece.cut.segment.number
            text = f"SEGS: segment {number} contains NaN and was left unchanged. {AGAINST_NAN}"
            log.warning(text)
            self.texts.append(text)
            return None
        refined = _resized(refined, piece.cut.box.size)
        self._progress.finish(piece, refined)
        return refined.mean(dim=-1, keepdim=True) if cut.shape[-1] == 1 else refined


def stack_masks(masks: Sequence[Tensor], dimensions: int) -> Tensor:
    """Return masks (h, w) as (B, 1, h, w), or (B, 1, 1, h, w) for latents with a time."""
    return torch.stack(list(masks))[(slice(None), *(None,) * (dimensions - 3))]


def latent_mask(mask: Tensor, shape: Sequence[int]) -> Tensor:
    """Return a mask (h, w) as the host fits it to a latent of that shape (1, C, …)."""
    return comfy.utils.reshape_mask(stack_masks([mask], len(shape)), shape)


def with_soft_masks(model: Any) -> Any:
    """Return a copy of the model that takes soft masks as strengths; the model itself if it already does."""
    from comfy_extras.nodes_differential_diffusion import DifferentialDiffusion

    if "denoise_mask_function" in model.model_options:
        return model
    return DifferentialDiffusion.execute(model).args[0]


def _resized(pixels: Tensor, size: Size) -> Tensor:
    """Return (h, w, C) in another size; those of that size are returned unchanged."""
    if pixels.shape[:2] == size:
        return pixels
    return resize_pictures(pixels.movedim(-1, 0)[None], size, "lanczos")[0].movedim(0, -1)


def _without_masked(pixels: Tensor, mask: Tensor) -> Tensor:
    """Return (1, h, w, 3) with grey where the mask is above one half, as an inpainting model expects it."""
    return torch.where((mask > 0.5)[..., None], 0.5, pixels)
