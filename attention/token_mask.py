"""A mask on the token grid of a layer, at any grid size.

M masks, H and W in pixels of the mask; B images; h and w of the token grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..scaling.box import Box, Span
from ..scaling.size import Size
from .view import Part, View


def crop_mask(mask: Tensor, part: Part | None) -> Tensor:
    """Return the part of `mask` (M, H, W) over a part of the image, at least one pixel;
    None is the whole image.
    """
    if part is None:
        return mask
    box = nearest_box(part.box, part.whole, (mask.shape[-2], mask.shape[-1]))
    return mask[:, box.rows, box.columns]


def nearest_box(box: Box, source: Size, target: Size) -> Box:
    """Return a box in an image of `source` size with edges rounded to the nearest pixel
    of one of `target` size.

    The result has at least one pixel.
    """
    axes = zip(box.spans, source, target, strict=True)
    return Box.of_spans(*(_nearest(low, high, old, new) for (low, high), old, new in axes))


def _nearest(low: int, high: int, old: int, new: int) -> Span:
    first = min(round(low * new / old), new - 1)
    return first, max(first + 1, round(high * new / old))


def mask_view(mask: Tensor, view: View | None, part: Part | None, grid: Size, pictures: int) -> Tensor:
    """Return `mask` (M, H, W) as factors (B, h * w, 1) on the tokens of a part of B images."""
    if view is None:
        return mask_tokens(crop_mask(mask, part), grid, pictures)
    own = [
        crop_mask(mask[min(frame, len(mask) - 1)].unsqueeze(0), seen)
        for seen, frame in zip(view.parts, view.frames, strict=True)
    ]
    return torch.cat([mask_tokens(crop_mask(each, part), grid, 1) for each in own])


def mask_tokens(mask: Tensor, grid: Size, pictures: int) -> Tensor:
    """Return `mask` (M, H, W) as factors (B, h * w, 1) on the tokens of B images; see `for_pictures`.

    Each token gets the mean of the pixels that it covers.
    """
    masks = mask[:pictures]
    shrinks = grid[0] <= mask.shape[-2] and grid[1] <= mask.shape[-1]
    resized = F.interpolate(masks.unsqueeze(1), size=grid, mode="area" if shrinks else "bilinear")
    return for_pictures(resized.flatten(1).unsqueeze(-1), pictures)  # (M, 1, h, w) -> (B, h * w, 1)


def for_pictures(masks: Tensor, pictures: int) -> Tensor:
    """Return (B, …) of `masks` (M, …) for B images: the last mask is repeated, surplus masks are dropped."""
    following = max(0, pictures - len(masks))
    return torch.cat([masks[:pictures], masks[-1:].expand(following, *masks.shape[1:])])


def for_window(masks: Tensor, window: Sequence[int]) -> Tensor:
    """Return the same for the images with these numbers, for a long batch that is sampled in windows."""
    return for_pictures(masks, max(window) + 1)[list(window)]
