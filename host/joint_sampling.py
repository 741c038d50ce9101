"""Joint sampling of tiles: one latent for all of them, so they advance step by step and agree in their overlaps.

The host's sampler sees one latent and one model. Inside, where the host evaluates the conditionings of a
step, each batch of tiles is cropped from the latent and evaluated with its own conditionings and patches. The
estimates are fused (segs/fuse.py), separately for each conditioning: guidance, functions after it and
samplers that read both estimates work on the whole latent, as without tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from logging import WARNING
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.samplers
import torch
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from torch import Tensor

from ..record import record
from ..segs.fuse import Fusion, cut
from .crop_conditioning import Conditioning
from .log import log_once
from .tiled_guider import TiledGuider

WRAPPER_KEY = "megapixel_joint"
NAMES = ("positive", "negative")
PATCHES = ("patches", "patches_replace")


@record(eq=False)
class TileBatch:
    """Tiles that go through the model together.

    Attributes:
        tiles: their numbers in the fusion.
        texts: positive and negative, cropped to these tiles.
        cut_options: crops the patches in the model's options to these tiles.
        patches: patches inside the network for these tiles only; they replace the model's.
    """

    tiles: Sequence[int]
    texts: Sequence[Conditioning]
    cut_options: Callable[[Any], Any] = lambda options: options
    patches: Mapping[str, Any] | None = None

    def options(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return a model's options for these tiles."""
        own = self.cut_options(options)
        if self.patches is None:
            return own
        return own | {"transformer_options": own["transformer_options"] | self.patches}


class JointGuider(TiledGuider):
    """The host's guider on one latent, of which each batch of tiles is evaluated separately."""

    def __init__(self, model: Any, cfg: float, batches: Sequence[TileBatch], fusion: Fusion) -> None:
        super().__init__(model)
        self.model_options = comfy.model_patcher.create_model_options_clone(model.model_options)
        self._wrap(WrappersMP.PREPARE_SAMPLING, self._prepare)
        self._batches, self._fusion = batches, fusion
        self.tile_size = max(fusion.boxes, key=lambda box: box.area).size
        self._fitted: list[dict[str, Any]] = []  # conditionings of each batch, as the host evaluates them
        self._whole: dict[str, Any] = {}  # stand for those of the whole latent
        self.set_cfg(cfg)
        # All of them, so that the host loads and frees their models, and effects on the model mark them.
        self.inner_set_conds(
            {
                _key(name, number): text
                for number, batch in enumerate(batches)
                for name, text in zip(NAMES, batch.texts, strict=True)
            }
        )

    def inner_sample(
        self, noise: Tensor, latent_image: Tensor, device: Any, sampler: Any, sigmas: Tensor, denoise_mask: Tensor | None,
        callback: Any, disable_pbar: bool, seed: int | None, **shapes: Any,
    ) -> Tensor:  # fmt: skip
        """Sample after the conditionings of each batch are fitted to its tiles."""
        latent = latent_image
        if torch.count_nonzero(latent_image) > 0:
            latent = self.inner_model.process_latent_in(latent_image)
        fit = partial(self._fit, noise, latent, denoise_mask, device, seed, with_shapes=bool(shapes))
        self._fitted = [fit(number) for number in range(len(self._batches))]
        self._whole = {name: list(text) for name, text in self._fitted[0].items()}
        # Last, so inside those of the model: they see the whole.
        self._wrap(WrappersMP.CALC_COND_BATCH, self._evaluate)
        texts, self.conds = self.conds, {}  # the host would fit them to the whole
        try:
            return super().inner_sample(
                noise,
                latent_image,
                device,
                sampler,
                sigmas,
                denoise_mask,
                callback,
                disable_pbar,
                seed,
                **shapes,
            )
        finally:
            self.conds, self._fitted, self._whole = texts, [], {}

    def predict_noise(
        self, x: Tensor, timestep: Tensor, model_options: Any = None, seed: int | None = None
    ) -> Tensor:
        """Return the estimate of the whole with guidance."""
        positive, negative = (self._whole[name] for name in NAMES)
        return comfy.samplers.sampling_function(
            self.inner_model,
            x,
            timestep,
            negative,
            positive,
            self.cfg,
            model_options=model_options or {},
            seed=seed,
        )

    def _wrap(self, kind: str, function: Callable[..., Any]) -> None:
        add_wrapper_with_key(kind, WRAPPER_KEY, function, self.model_options, is_model_options=True)

    def _fit(
        self, noise: Tensor, latent: Tensor, mask: Tensor | None, device: Any, seed: int | None, number: int, *, with_shapes: bool
    ) -> dict[str, Any]:  # fmt: skip
        """Return positive and negative of a batch as the host evaluates them."""
        own = {name: self.conds[_key(name, number)] for name in NAMES}
        tiles = self._batches[number].tiles
        noise, latent = self._tiles(noise, tiles), self._tiles(latent, tiles)
        shapes = {"latent_shapes": [noise.shape]} if with_shapes else {}
        masks = None if mask is None else self._tiles(mask, tiles)
        return comfy.samplers.process_conds(
            self.inner_model, noise, own, device, latent, masks, seed, **shapes
        )

    def _tiles(self, field: Tensor, tiles: Sequence[int]) -> Tensor:
        """Return tiles (n, C, …, h, w) of a field (1, C, …, H, W)."""
        return torch.cat([cut(field, self._fusion.boxes[tile]) for tile in tiles])

    def _prepare(
        self, executor: Any, model: Any, noise_shape: Sequence[int], conds: Any, **named: Any
    ) -> Any:
        """Let the host free memory for the largest batch, not for the whole latent (its PREPARE_SAMPLING)."""
        boxes = self._fusion.boxes
        shapes = [(len(batch.tiles), *boxes[batch.tiles[0]].size) for batch in self._batches]
        count, *size = max(shapes, key=lambda shape: shape[0] * shape[1] * shape[2])
        return executor(model, [count, *noise_shape[1:-2], *size], conds, **named)

    def _evaluate(
        self, executor: Any, model: Any, conds: Sequence[Any], x: Tensor, timestep: Tensor, model_options: dict[str, Any]
    ) -> list[Tensor]:  # fmt: skip
        """Return the estimates of the whole (1, C, …, H, W),
        one for each conditioning (the host's CALC_COND_BATCH).
        """
        names = [self._name_of(cond) for cond in conds]
        if "" in names:
            log_once(
                "overlaps: another node evaluates the model with its own conditioning, on the whole latent "
                "instead of on the segments.",
                level=WARNING,
            )
            return executor(model, conds, x, timestep, model_options)
        tiles: list[list[Tensor]] = [[x] * len(self._fusion.boxes) for _ in conds]
        for batch, fitted in zip(self._batches, self._fitted, strict=True):
            comfy.model_management.throw_exception_if_processing_interrupted()
            own = [None if name is None else fitted[name] for name in names]
            levels = timestep[:1].repeat(len(batch.tiles))
            parts = executor(model, own, self._tiles(x, batch.tiles), levels, batch.options(model_options))
            for found, part in zip(tiles, parts, strict=True):
                for tile, estimate in zip(batch.tiles, part.split(1), strict=True):
                    found[tile] = estimate
        shares = self._fusion.shares(timestep[0])
        return [self._fusion.fuse(found, shares) for found in tiles]

    def _name_of(self, cond: Any) -> str | None:
        """Return which conditioning it is; None where there is none, and nothing for an unknown one."""
        if cond is None:
            return None
        return next((name for name, whole in self._whole.items() if cond is whole), "")


def _key(name: str, number: int) -> str:
    return f"{name} {number}"
