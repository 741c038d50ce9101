"""Conditioning for a crop: everything with a position in the image is cropped with the segment.

Masks, ControlNet hints and the entries of spatial_entries.py cover the image at any resolution. Areas and
GLIGEN boxes count latent pixels of the image before upscaling. Entries without a position pass unchanged. The
crop itself is passed on, for effects on the model that have masks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..attention.view import VIEW, Part, View
from ..record import record
from ..scaling.box import Box
from ..segs.crop import Crop
from .canvas import Canvas, Grid, crop_field, crop_fields, crop_hints
from .compat import takes_batch_as_time
from .reference_latents import AUTO, NAMES, crop_references
from .spatial_entries import ROWS, SPATIAL, warn_of_unknown

Conditioning = list[list[Any]]
Area = tuple[int, int, int, int]  # a box as the host writes it: height, width, top and left in latent pixels
# The same, or of a video: length, height, width, first, top, left; or "percentage" and shares.
AnyArea = tuple[Any, ...]


class PerCrop(tuple[Tensor, ...]):
    """One tensor (1, …) for each crop of a batch, instead of one for all."""


def effect_in(conditioning: Conditioning, crop: Crop, canvas: Canvas) -> tuple[Any, ...]:
    """Return the data that must be equal for crops in one batch."""
    return tuple(_effect(options, crop, canvas) for _, options in conditioning)


def crop_conditioning(
    conditionings: Sequence[Conditioning], crops: Sequence[Crop], canvas: Canvas, references: str = AUTO
) -> list[Conditioning]:
    """Return each list (positive, negative, …) for a batch of crops with the same `effect_in`.

    Entries without effect there are left out. If none has any, all are kept without their positions: a
    segment outside all regions still needs a text. `references` selects the reference latents to crop: see
    reference_latents.py.
    """
    cropper = _Cropper(crops, canvas, references)
    return [cropper.crop(conditioning) for conditioning in conditionings]


def controls_take_batches(conditioning: Conditioning) -> bool:
    """Return whether no ControlNet encodes its hints with a VAE that treats several of them as one video."""
    controls = [options.get("control") for _, options in conditioning]
    while controls := [control for control in controls if control is not None]:
        if any(takes_batch_as_time(control.vae) for control in controls):
            return False
        controls = [control.previous_controlnet for control in controls]
    return True


@record
class _Effect:
    """The areas and boxes of an entry in a crop."""

    present: bool
    area: AnyArea | None
    bounds: Box | None  # of a crop whose mask the host makes an area of
    boxes: tuple[tuple[int, Area], ...]  # number and place of each GLIGEN box that is left


def _effect(options: Mapping[str, Any], crop: Crop, canvas: Canvas) -> _Effect:
    area, present = _crop_area(options.get("area"), crop.box, canvas)
    if present and options.get("mask") is not None:
        present = bool(crop_field(options["mask"], crop, canvas).any())
    bounds = crop.box if options.get("set_area_to_bounds") else None
    return _Effect(present, area, bounds, tuple(_crop_gligen(options.get("gligen"), crop.box, canvas)))


class _Cropper:
    def __init__(self, crops: Sequence[Crop], canvas: Canvas, references: str) -> None:
        self._crops, self._canvas, self._references = crops, canvas, references
        parts = tuple(Part(crop.box, canvas.size) for crop in crops)
        self._view = View(parts, tuple(crop.frame for crop in crops))
        self._controls: dict[int, Any] = {}  # one that both lists share is cut once and stays shared

    def crop(self, conditioning: Conditioning) -> Conditioning:
        pairs = list(zip(conditioning, effect_in(conditioning, self._crops[0], self._canvas), strict=True))
        kept = [(entry, effect) for entry, effect in pairs if effect.present]
        if not kept:
            placeless = {"area", "mask", "mask_strength", "set_area_to_bounds"}
            kept = [([text, _without(options, placeless)], effect) for (text, options), effect in pairs]
        return [[self._rows(text), self._options(options, effect)] for (text, options), effect in kept]

    def _options(self, options: Mapping[str, Any], effect: _Effect) -> dict[str, Any]:
        cut = dict(options) | {VIEW: self._view}
        for name in ROWS & cut.keys():
            cut[name] = self._rows(cut[name])
        if "area" in cut:
            cut = _without(cut, {"area"}) if effect.area is None else cut | {"area": effect.area}
        if cut.get("mask") is not None:
            mask = crop_fields(cut["mask"], self._crops, self._canvas)
            # The host takes (B, h, w) for (T, h, w).
            cut["mask"] = mask[:, None] if self._canvas.has_time else mask
        for name in SPATIAL.keys() & cut.keys():
            cut[name] = self._fields(cut[name], SPATIAL[name])
        for name in cut.keys() & set(NAMES):
            cut[name] = crop_references(cut[name], self._crops, self._canvas, self._references)
        if cut.get("control") is not None:
            cut["control"] = self._control(cut["control"])
        if "gligen" in cut:
            kind, model, given = cut["gligen"]
            boxes = [(given[number][0], *area) for number, area in effect.boxes]
            cut = cut | {"gligen": (kind, model, boxes)} if boxes else _without(cut, {"gligen"})
        warn_of_unknown(cut)
        return cut

    def _rows(self, text: Any) -> Any:
        """Return the rows of a text (B, …) for these frames; a single row is used for all,
        `PerCrop` has one for each crop.
        """
        if isinstance(text, PerCrop):
            return torch.cat(text)
        if not isinstance(text, Tensor) or len(text) < 2:
            return text
        return torch.stack([text[min(crop.frame, len(text) - 1)] for crop in self._crops])

    def _fields(self, value: Any, grid: Grid) -> Any:
        """Return a tensor, or each of a list, for these crops; anything else is returned unchanged."""
        if isinstance(value, (list, tuple)):
            return [self._fields(each, grid) for each in value]
        if not isinstance(value, Tensor) or value.dim() < 4:
            return value
        return crop_fields(value, self._crops, self._canvas, self._canvas.cell_of(value, grid))

    def _control(self, control: Any) -> Any:
        """Return a copy of a ControlNet and those before it with cropped hints."""
        if control is None:
            return None
        if id(control) not in self._controls:
            copy = control.copy()
            copy.cond_hint_original = self._hint(control.cond_hint_original)
            extras = getattr(control, "extra_concat_orig", [])
            copy.extra_concat_orig = [
                each if each.shape[-1:] == (1,) else self._hint(each) for each in extras
            ]
            mask = getattr(control, "mask", None)  # of InstantID: where a face may go
            if isinstance(mask, Tensor):
                copy.mask = crop_fields(mask, self._crops, self._canvas)
            copy.set_previous_controlnet(self._control(control.previous_controlnet))
            self._controls[id(control)] = copy
        return self._controls[id(control)]

    def _hint(self, hint: Any) -> Any:
        if not isinstance(hint, Tensor) or hint.dim() != 4:
            return hint
        return crop_hints(hint, self._crops, self._canvas)


def _crop_area(area: Any, box: Box, canvas: Canvas) -> tuple[AnyArea | None, bool]:
    """Return an area in a crop's latent pixels, None if it is the whole crop; and whether there is any.

    A time stays.
    """
    if area is None:
        return area, True
    shares = area[0] == "percentage"
    numbers = area[1:] if shares else area
    axes = len(numbers) // 2
    space = (*numbers[axes - 2 : axes], *numbers[-2:])
    if shares:
        sides = zip(space, (*canvas.size, *canvas.size), strict=True)
        height, width, top, left = (share * side for share, side in sides)
        whole = Box(round(top), round(left), round(top + height), round(left + width))
    else:
        whole = _in_picture(space, canvas)
    inside = whole.shared(box)
    if not inside.area or (inside == box and axes == 2):
        return None, inside.area > 0
    cut = _in_latent(inside.within(box), canvas.cell)
    return cut if axes == 2 else _with_time(numbers, cut, box, canvas.cell, shares), True


def _with_time(numbers: Sequence[Any], cut: Area, box: Box, cell: int, shares: bool) -> AnyArea:
    """Return an area of a video with the times of `numbers`, and the space of `cut`;
    as shares of the crop if it had shares.
    """
    sides = [side // cell for side in box.size] if shares else [1, 1]
    height, width, top, left = (number / side for number, side in zip(cut, sides * 2, strict=True))
    if shares:
        return "percentage", numbers[0], height, width, numbers[3], top, left
    return numbers[0], *cut[:2], numbers[3], *cut[2:]


def _crop_gligen(gligen: Any, box: Box, canvas: Canvas) -> list[tuple[int, Area]]:
    if gligen is None:
        return []
    inside = [_in_picture(entry[1:], canvas).shared(box) for entry in gligen[2]]
    return [
        (number, _in_latent(part.within(box), canvas.cell)) for number, part in enumerate(inside) if part.area
    ]


def _in_picture(area: Sequence[int], canvas: Canvas) -> Box:
    """Convert an area in latent pixels of the image before upscaling to a box in the current image."""
    height, width, top, left = (int(side) * canvas.cell for side in area)
    return Box(top, left, top + height, left + width).scaled(canvas.given, canvas.size)


def _in_latent(box: Box, cell: int) -> Area:
    """Return the area in latent pixels that contains a box."""
    latent = box.scaled((cell, cell), (1, 1))
    return (*latent.size, latent.top, latent.left)


def _without(options: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in names}
