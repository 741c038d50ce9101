"""InstantID on an SDXL UNet: every cross-attention also attends to the tokens of a face.

Each person is a separate effect: its replacement of the cross-attention calls the previous one (the host's
attention, another person, another pack's replacement) and adds its face to the result. So people and packs
combine in any order, and each person has a weight, a schedule and a mask.

Source: InstantID (arXiv 2401.07519) and the settings of the original node (`ApplyInstantID`). We depart where
those are slow or fail: the node computes keys and values, so nothing is projected or read back while
sampling; positive and negative are identified by the conditionings themselves; the middle block is patched
too; masks are resized to the current tokens.

C conditionings in one batch, B images of each, N = H * W tokens of the image, T tokens of a face, D the width
of a layer and S the sum of the widths of all layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, replace
from functools import lru_cache, partial
from logging import WARNING
from typing import Any
from weakref import WeakKeyDictionary

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP
from torch import Tensor, nn

from ..attention.instant_id import FaceKeys, attend_to_face
from ..attention.resampler import Attend
from ..attention.token_mask import for_window, mask_view
from ..errors import bad_input
from ..host.compat import chosen_attention, pictures_in, repeated_conditionings
from ..host.instant_id import InstantIDModel, as_instant_id
from ..host.instant_id_faces import Tokens, as_masks
from ..host.layers import attend, compute_dtype
from ..host.log import log_once
from ..host.models import check_model
from ..record import record
from ..scaling.size import Size
from .conditions import Condition, conditions_of, mark_conditions
from .effect import Effect, Effects, Run, Stacked, stand_beside
from .face_idle import why_idle
from .model_call import ModelCall
from .plan import Plan
from .schedule import Schedule
from .token_grid import token_grid
from .topology import BlockId, LayerId, Topology, cross_attention, topology_of
from .wrapper import add_effect, planned

CLONE_KEY = "megapixel.instant_id"
IN_EVERY_TILE = (
    "InstantID: a pack samples in tiles without publishing their positions, so every tile gets the whole "
    "mask."
)
WATERMARK_SIZE = (128, 128)  # 1024 x 1024 pixels


@record(eq=False)
class Person:
    """One person: the keys and values of the face, and how strongly, when and where it is added.

    `mask` is (M, H, W), one for each image of a batch, the last one for the rest; None is everywhere.
    """

    face: FaceKeys
    weight: float = 1.0
    start_at: float = 0.0
    end_at: float = 1.0
    mask: Tensor | None = None
    middle_block: bool = True

    @property
    def schedule(self) -> Schedule:
        """When the face is added."""
        return Schedule(self.start_at, self.end_at)

    @property
    def idle(self) -> str | None:
        """Why it never adds anything, or None."""
        return why_idle(self.weight, self.mask, self.start_at, self.end_at)


def cross_attentions(unet: nn.Module) -> dict[LayerId, int]:
    """Return the width of every cross-attention of a UNet, in the order in which InstantID numbers them."""
    order = ("input", "output", "middle")
    return dict(sorted(topology_of(unet).layers.items(), key=lambda layer: order.index(layer[0][0])))


def check_base_model(model: ModelPatcher, widths: tuple[int, ...], context: int) -> None:
    """Raise unless a file's projections fit the UNet.

    Args:
        widths: output width of each projection.
        context: the width of the face's tokens; it is that of the text's.

    Raises:
        ValueError: when they do not fit, or it is not a MODEL.
    """
    check_model(model)
    own_widths = tuple(cross_attentions(model.get_model_object("diffusion_model")).values())
    own_context = model.model.model_config.unet_config.get("context_dim")
    if (own_widths, own_context) != (widths, context):
        expected = (
            f"an SDXL model ({len(widths)} cross-attention layers for tokens of {context} values, as in this "
            "InstantID model)"
        )
        family = type(model.model.model_config).__name__
        got = f"{family} with {len(own_widths)} for tokens of {own_context} values"
        hint = (
            "Load an SDXL checkpoint. The refiner, the smaller models made from SDXL (KOALA, SSD-1B, "
            "Vega) and SD 1.5 do not fit."
        )
        raise bad_input("model", expected, got, hint)


def instant_id_for(value: Any, model: Any) -> InstantIDModel:
    """Return the model on an INSTANTID socket, if it fits a UNet.

    Raises:
        ValueError: when it does not fit or is not an InstantID model.
    """
    instantid = as_instant_id(value)
    check_base_model(model, instantid.network.widths, instantid.network.context)
    return instantid


def person_in(
    instantid: InstantIDModel, model: Any, tokens: Tokens, mask: Tensor | None, **settings: Any
) -> Person:
    """Return a person for `model`: the keys and values of the tokens, in the dtype of its layers.

    The tokens of several references are concatenated: every layer attends to all of them.
    """
    packed = instantid.project(torch.stack([each.flatten(0, 1) for each in tokens]))
    keys = packed.to(comfy.model_management.intermediate_device(), compute_dtype(model.model))
    return Person(FaceKeys(keys, instantid.network.widths), mask=as_masks(mask), **settings)


def apply_instant_id(model: ModelPatcher, person: Person) -> ModelPatcher:
    """Return a clone of `model` that also attends to the face of `person`, in addition to existing faces.

    An idle person leaves the model unchanged. Check first that the face fits this UNet.
    """
    if person.idle:
        return model
    return add_effect(model, FaceEffect(person))


def _lies_anywhere(condition: Condition, size: Size) -> bool:
    """Return whether a call is for an unknown part of the latent."""
    return condition.part is None and condition.whole not in (None, size)


Replacement = Callable[[Tensor, Tensor, Tensor, dict[str, Any]], Tensor]


def _present(model: ModelPatcher, layer: LayerId, kernel: Mapping[str, Any]) -> Replacement:
    """Return a layer's current cross-attention, as a replacement of it."""
    patches = model.model_options["transformer_options"].get("patches_replace", {}).get("attn2", {})
    return patches.get(layer, patches.get(layer[:2], _HostAttention(kernel)))


def _kernel(model: ModelPatcher, layer: LayerId) -> Mapping[str, Any]:
    """Return the kernel that a layer requests: the host passes only the inputs to a replacement."""
    return chosen_attention(cross_attention(model.get_model_object("diffusion_model"), layer))


@record
class _HostAttention:
    """The replacement of a cross-attention by itself."""

    kernel: Mapping[str, Any]

    def __call__(self, queries: Tensor, keys: Tensor, values: Tensor, options: dict[str, Any]) -> Tensor:
        return attend(queries, keys, values, options["n_heads"], options, self.kernel)


@record(eq=False)
class _FaceAttention:
    """The replacement of one cross-attention: the previous one, and a face.

    Other packs for faces append theirs with `add`, as to each other's (IPAdapter, PuLID, the original
    InstantID pack). Clones of a model get their own replacements, so appending to one does not change
    another.
    """

    effect: str
    span: slice
    kernel: Mapping[str, Any]
    before: Replacement
    appended: list[tuple[Callable[..., Tensor], dict[str, Any]]] = field(default_factory=list)

    def add(self, callback: Callable[..., Tensor], **settings: Any) -> None:
        """Append `callback(result, queries, keys, values, options, **settings)`, whose result is added.

        `sigma_start` and `sigma_end` in the settings limit it to a range of noise levels.
        """
        self.appended.append((callback, settings))

    def __call__(self, queries: Tensor, keys: Tensor, values: Tensor, options: dict[str, Any]) -> Tensor:
        result = self.before(queries, keys, values, options)
        plan = planned(self.effect, queries, options)
        if isinstance(plan, FacePlan):
            attention = partial(attend, options=options, kernel=self.kernel)
            result = plan.add_face(result, queries, self.span, options, attention)
        for callback, settings in self.appended:
            if _is_on(settings, options):
                result = result + callback(result, queries, keys, values, options, **settings)
        return result.to(queries.dtype)


def _is_on(settings: Mapping[str, Any], options: Mapping[str, Any]) -> bool:
    """Return whether an appended callback is within its noise levels; as in the original,
    each layer reads the noise level.
    """
    sigma = float(options["sigmas"][0])
    return settings.get("sigma_end", 0.0) <= sigma <= settings.get("sigma_start", float("inf"))


def _own_replacements(model: ModelPatcher, clone: ModelPatcher) -> None:
    """Give a clone its own replacements (the host's ON_CLONE)."""
    patches = clone.model_options["transformer_options"].get("patches_replace", {}).get("attn2", {})
    for layer, patch in patches.items():
        if isinstance(patch, _FaceAttention):
            patches[layer] = replace(patch, appended=list(patch.appended))


@record(eq=False)
class FacePlan(Plan):
    """One person in one call: `keys_values` (C, 2, T, S) of the call's conditionings,
    and the mask, if there is one.
    """

    keys_values: Tensor
    blocks: tuple[BlockId, ...]
    mask: TokenMask | None = None

    def add_face(
        self, result: Tensor, queries: Tensor, span: slice, options: dict[str, Any], attention: Attend
    ) -> Tensor:
        """Return a layer's result (C * B, N, D) with the face added."""
        if len(queries) != options["activations_shape"][0]:
            repeated = self._repeated(options)
            return result if repeated is None else repeated._add(result, queries, span, options, attention)
        return self._add(result, queries, span, options, attention)

    def _repeated(self, options: dict[str, Any]) -> FacePlan | None:
        """Return the plan for a layer in which another pack uses several texts for one conditioning,
        or None and a log line.
        """
        places = repeated_conditionings(options)
        if places is None or len(options["cond_or_uncond"]) != len(self.keys_values):
            log_once(
                "%s: skipped %s block %s, because another patch changed its batch",
                FaceEffect.label,
                *options["block"],
            )
            return None
        keys_values = torch.stack([self.keys_values[place] for place in places])
        return replace(self, keys_values=keys_values, mask=self.mask and self.mask.repeated(places))

    def _add(
        self, result: Tensor, queries: Tensor, span: slice, options: dict[str, Any], attention: Attend
    ) -> Tensor:
        keys, values = self.keys_values[..., span].unbind(1)
        if self.mask is None:
            return result + attend_to_face(queries, keys, values, options["n_heads"], attention)
        grid = token_grid(FaceEffect.label, options, queries)
        if grid is None:  # the mask cannot fit
            return result
        added = attend_to_face(queries, keys, values, options["n_heads"], attention)
        pictures = len(queries) // len(self.keys_values)
        return result + added * self.mask.on(grid, pictures, pictures_in(options)).to(added.dtype)

    def marks(self, sizes: Mapping[BlockId, Size]) -> Mapping[BlockId, str]:
        return dict.fromkeys(self.blocks, "face")


@record(eq=False)
class TokenMask:
    """A mask (M, H, W) in one call, where each conditioning may be for a part of the image."""

    mask: Tensor
    conditions: tuple[Condition, ...]
    fitted: dict[tuple[Size, int], Tensor] = field(default_factory=dict)

    def on(self, grid: Size, pictures: int, window: Sequence[int] | None = None) -> Tensor:
        """Return the factors (C * B, N, 1) on the tokens of a layer; layers of one size share them.

        `window` has the numbers of the images in this call; None is all of them.
        """
        if (grid, pictures) not in self.fitted:
            mask = self.mask if window is None else for_window(self.mask, window)
            parts = [mask_view(mask, each.view, each.part, grid, pictures) for each in self.conditions]
            self.fitted[grid, pictures] = torch.cat(parts)
        return self.fitted[grid, pictures]

    def repeated(self, places: Sequence[int]) -> TokenMask:
        """Return the same for a batch of the conditionings at `places`."""
        return TokenMask(self.mask, tuple(self.conditions[place] for place in places))


@record(eq=False)
class FaceEffect(Effect):
    """One person on a model."""

    person: Person

    name = "instant_id"
    label = "InstantID"
    colour = (200, 30, 45)
    resizes = False

    def stacked(self, effects: Effects) -> Stacked:
        return stand_beside(self, effects)

    def install(self, model: ModelPatcher, name: str, earlier: Effect | None) -> None:
        for number, layer in enumerate(cross_attentions(model.get_model_object("diffusion_model"))):
            if layer[0] != "middle" or self.person.middle_block:
                span = self.person.face.span(number)
                kernel = _kernel(model, layer)
                own = _FaceAttention(name, span, kernel, _present(model, layer, kernel))
                model.set_model_attn2_replace(own, *layer)
        model.remove_callbacks_with_key(CallbacksMP.ON_CLONE, CLONE_KEY)
        model.add_callback_with_key(CallbacksMP.ON_CLONE, CLONE_KEY, _own_replacements)

    def begin(self, run: Run) -> None:
        mark_conditions(run.conditions, run.latent_size)

    def idle(self, call: ModelCall) -> str | None:
        return None  # a person that adds nothing is never put on a model

    def describe(self, call: ModelCall) -> str:
        person = self.person
        where = "everywhere" if person.mask is None else "in the mask"
        text = (
            f"weight {person.weight:g}, start_at {person.start_at:g}, end_at {person.end_at:g}, {where}, "
            f"{len(person.face.widths)} layers"
        )
        if call.latent_size == WATERMARK_SIZE:
            text += "; exactly 1024x1024 often gives watermarks, 1016x1016 avoids them"
        return text

    def plan(self, call: ModelCall) -> FacePlan | None:
        if not call.strength(self.person.schedule):
            return None
        faces, mask = _on_device(self.person, call.device, compute_dtype(call.model))
        conditions = conditions_of(call.marks, call.cond_or_uncond)
        if mask is not None and any(_lies_anywhere(each, call.latent_size) for each in conditions):
            log_once(IN_EVERY_TILE, level=WARNING)
        return FacePlan(
            keys_values=torch.stack([faces[int(condition.is_negative)] for condition in conditions]),
            blocks=_blocks(call.topology, self.person.middle_block),
            mask=None if mask is None else TokenMask(mask, conditions),
        )


@lru_cache(maxsize=16)
def _blocks(topology: Topology, middle_block: bool) -> tuple[BlockId, ...]:
    """Return the blocks whose attention sees a face."""
    found = [block_id for block_id, block in topology.blocks.items() if block.transformers]
    return tuple(block_id for block_id in found if middle_block or block_id[0] != "middle")


Placed = tuple[Tensor, Tensor | None]

# A face on the devices where it is used: a few megabytes, copied once and kept as long as the face itself.
_PLACED: WeakKeyDictionary[Person, dict[tuple[torch.device | None, torch.dtype], Placed]] = (
    WeakKeyDictionary()
)


def _on_device(person: Person, device: torch.device | None, dtype: torch.dtype) -> Placed:
    """Return the weighted keys and values (2, 2, T, S) and the mask (M, H, W) where the UNet works."""
    placed = _PLACED.setdefault(person, {})
    if (device, dtype) not in placed:
        with torch.inference_mode(False):  # they outlive this run, and may serve one that keeps gradients
            faces = person.face.weighted(person.weight).to(device, dtype)
            mask = None if person.mask is None else person.mask.to(device)
        placed[device, dtype] = faces, mask
    return placed[device, dtype]
