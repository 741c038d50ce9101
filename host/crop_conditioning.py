"""Conditioning that belongs to its crop: what lies somewhere in the picture is cut out with the segment.

Masks, ControlNet hints and the host's inpainting entries cover the picture at any resolution. Areas and GLIGEN boxes count latent pixels of
the picture that came in. Entries that have no place pass unchanged. The crop itself is passed on, for effects on the model that have masks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from logging import WARNING
from typing import Any

import torch
from torch import Tensor

from ..attention.view import VIEW, Part, View
from ..scaling.box import Box
from ..scaling.size import Size
from ..segs.crop import Crop, crop_resized, fit_aspect
from .log import log_once

Conditioning = list[list[Any]]
Area = tuple[int, int, int, int]  # a box as the host writes it: height, width, top and left in latent pixels

_LATENTS = ("concat_latent_image",)  # (B, C, h, w) over the whole picture, in latent pixels
_COVERS = ("concat_mask",)  # the same in pixels
_ROWS = {"pooled_output"}  # (B, …), a row for each frame, as the text itself
_PLACELESS = {"mask", *_ROWS, "conditioning_llama3", "unclip_conditioning", *_COVERS, *_LATENTS}


@dataclass(frozen=True)
class Canvas:
    """The picture that the conditioning was made for.

    Attributes:
        size: height and width as it is now.
        given: as it came in: absolute areas count in it.
        cell: picture pixels to a latent pixel.
    """

    size: Size
    given: Size
    cell: int = 8


def effect_in(conditioning: Conditioning, crop: Crop, canvas: Canvas) -> tuple[Any, ...]:
    """Return what differs between crops and cannot be put in one batch: equal values can."""
    return tuple(_effect(options, crop, canvas) for _, options in conditioning)


def crop_conditioning(
    conditionings: Sequence[Conditioning], crops: Sequence[Crop], canvas: Canvas
) -> list[Conditioning]:
    """Return each list (positive, negative, …) for a batch of crops with the same `effect_in`.

    Entries without effect there are left out. Where none has any, all are kept without their places: a segment outside of
    all regions still needs a text.
    """
    cropper = _Cropper(crops, canvas)
    return [cropper.crop(conditioning) for conditioning in conditionings]


@dataclass(frozen=True)
class _Effect:
    """What an entry's areas and boxes are in a crop."""

    present: bool
    area: Area | None
    bounds: Box | None  # of a crop whose mask the host makes an area of
    boxes: tuple[tuple[int, Area], ...]  # number and place of each GLIGEN box that is left


def _effect(options: Mapping[str, Any], crop: Crop, canvas: Canvas) -> _Effect:
    area, present = _crop_area(options.get("area"), crop.box, canvas)
    if present and options.get("mask") is not None:
        present = bool(_crop_field(options["mask"], crop, canvas).any())
    bounds = crop.box if options.get("set_area_to_bounds") else None
    return _Effect(present, area, bounds, tuple(_crop_gligen(options.get("gligen"), crop.box, canvas)))


class _Cropper:
    def __init__(self, crops: Sequence[Crop], canvas: Canvas) -> None:
        self._crops, self._canvas = crops, canvas
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
        for name in _ROWS & cut.keys():
            cut[name] = self._rows(cut[name])
        if "area" in cut:
            cut = _without(cut, {"area"}) if effect.area is None else cut | {"area": effect.area}
        if cut.get("mask") is not None:
            cut["mask"] = self._stack(cut["mask"])
        for name in (*_COVERS, *_LATENTS):
            if isinstance(cut.get(name), Tensor) and cut[name].dim() == 4:
                cut[name] = self._stack(cut[name], self._canvas.cell if name in _LATENTS else 1)
        if cut.get("control") is not None:
            cut["control"] = self._control(cut["control"])
        if "gligen" in cut:
            kind, model, given = cut["gligen"]
            boxes = [(given[number][0], *area) for number, area in effect.boxes]
            cut = cut | {"gligen": (kind, model, boxes)} if boxes else _without(cut, {"gligen"})
        _warn_of_unknown(cut)
        return cut

    def _rows(self, text: Any) -> Any:
        """Return the rows of a text (B, …) for these frames; one with a single row is for all."""
        if not isinstance(text, Tensor) or len(text) < 2:
            return text
        return torch.stack([text[min(crop.frame, len(text) - 1)] for crop in self._crops])

    def _stack(self, field: Tensor, cell: int = 1) -> Tensor:
        return torch.cat([_crop_field(field, crop, self._canvas, cell) for crop in self._crops])

    def _control(self, control: Any) -> Any:
        """Return a copy of a ControlNet and those before it with their hints cut."""
        if control is None:
            return None
        if id(control) not in self._controls:
            copy = control.copy()
            copy.cond_hint_original = self._hint(control.cond_hint_original)
            extras = getattr(control, "extra_concat_orig", [])
            copy.extra_concat_orig = [
                each if each.shape[-1:] == (1,) else self._hint(each) for each in extras
            ]
            if isinstance(
                mask := getattr(control, "mask", None), Tensor
            ):  # of InstantID: where a face may go
                copy.mask = self._stack(mask)
            copy.set_previous_controlnet(self._control(control.previous_controlnet))
            self._controls[id(control)] = copy
        return self._controls[id(control)]

    def _hint(self, hint: Any) -> Any:
        if not isinstance(hint, Tensor) or hint.dim() != 4:
            return hint
        return self._stack(fit_aspect(hint, self._canvas.size))


def _crop_field(field: Tensor, crop: Crop, canvas: Canvas, cell: int = 1) -> Tensor:
    """Return (1, …, h, w) of (h', w') or (B, …, h', w'): of the crop's frame where there are several."""
    if field.dim() == 2:
        field = field[None]
    frame = min(crop.frame, len(field) - 1)
    return crop_resized(field[frame : frame + 1], canvas.size, crop.box, cell)


def _crop_area(area: Any, box: Box, canvas: Canvas) -> tuple[Area | None, bool]:
    """Return an area in a crop's latent pixels, None where it is all of it; and whether there is any."""
    if area is None or len(area) > 5:  # video areas have a time as well
        return area, True
    if area[0] == "percentage":
        sides = zip(area[1:], (*canvas.size, *canvas.size), strict=True)
        height, width, top, left = (share * side for share, side in sides)
        whole = Box(round(top), round(left), round(top + height), round(left + width))
    else:
        whole = _in_picture(area, canvas)
    inside = whole.shared(box)
    partial = inside != box and inside.area
    return _in_latent(inside.within(box), canvas.cell) if partial else None, inside.area > 0


def _crop_gligen(gligen: Any, box: Box, canvas: Canvas) -> list[tuple[int, Area]]:
    if gligen is None:
        return []
    inside = [_in_picture(entry[1:], canvas).shared(box) for entry in gligen[2]]
    return [
        (number, _in_latent(part.within(box), canvas.cell)) for number, part in enumerate(inside) if part.area
    ]


def _in_picture(area: Sequence[int], canvas: Canvas) -> Box:
    """Return an area in latent pixels of the picture that came in as a box in the picture as it is now."""
    height, width, top, left = (int(side) * canvas.cell for side in area)
    return Box(top, left, top + height, left + width).scaled(canvas.given, canvas.size)


def _in_latent(box: Box, cell: int) -> Area:
    """Return the area in latent pixels that holds a box."""
    latent = box.scaled((cell, cell), (1, 1))
    return (*latent.size, latent.top, latent.left)


def _without(options: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in names}


def _warn_of_unknown(options: Mapping[str, Any]) -> None:
    for name, value in options.items():
        if isinstance(value, Tensor) and value.dim() >= 4 and name not in _PLACELESS:
            text = "positive, negative: %s passes to every segment as it is; it is not cut to them."
            log_once(text, name, level=WARNING)
