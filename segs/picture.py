"""Pictures of segments: all of them drawn over their image, in their own colours with their numbers,
and the region of each.
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..scaling.box import Box
from ..scaling.colours import rgb
from ..scaling.size import Size
from .confidence import confidence_of
from .segment import SEG, box_of, read_mask
from .weight import place_mask

LEAST = 512  # pixels of the longer side
TINT = 0.45  # of a mask's colour over the image
GOLDEN = 0.618034  # neighbouring numbers get colours far apart
BACKDROP = 0.25  # grey where there is no image

Colour = tuple[int, int, int]


def draw_segments(
    picture: Tensor, found_in: Size, segments: Mapping[int, SEG], frame: int = 0, frames: int = 1
) -> Tensor:
    """Return (H, W, 3) of an image (H, W, C) with masks tinted,
    crops and found boxes outlined, and their numbers.

    The image is one of `frames` frames.

    Small images are enlarged by a whole factor, so that the text fits.
    """
    factor = -(-LEAST // max(picture.shape[:2]))
    pixels = rgb(picture, -1).float().cpu().repeat_interleave(factor, dim=0).repeat_interleave(factor, dim=1)
    size = pixels.shape[0], pixels.shape[1]
    for number, segment in segments.items():
        crop = box_of(segment.crop_region, "crop_region", number).scaled(found_in, size)
        inside = crop.clamped(size)
        if inside.area:
            own = read_mask(segment.cropped_mask, number, frame, frames)
            mask = place_mask(own, crop, inside)[..., None]
            part = pixels[inside.rows, inside.columns]
            part.lerp_(torch.tensor(_colour(number)) / 255.0, mask * TINT)
    image = Image.fromarray((pixels.clamp(0, 1) * 255).round().to(torch.uint8).numpy())
    pen = ImageDraw.Draw(image)
    line = max(1, min(size) // 300)
    for number, segment in segments.items():
        _outline(
            pen,
            box_of(segment.crop_region, "crop_region", number).scaled(found_in, size),
            _colour(number),
            line,
        )
        found = box_of(segment.bbox, "bbox", number).scaled(found_in, size)
        _outline(pen, found, _colour(number), 3 * line)
        _write(pen, found, _title(number, segment), _colour(number), size)
    return torch.as_tensor(np.asarray(image, dtype=np.float32) / 255.0)


def crop_pictures_of(frames: Tensor, found_in: Size, segments: list[SEG]) -> list[Tensor]:
    """Return the region of each segment (1, h, w, C) in frames (F, H, W, C);
    of one that belongs to all frames, in the first.

    Regions are clipped to the image; one outside it is a grey pixel, so that the order stays.
    """
    size = frames.shape[1], frames.shape[2]
    pictures: list[Tensor] = []
    for number, segment in enumerate(segments):
        region = box_of(segment.crop_region, "crop_region", number).scaled(found_in, size).clamped(size)
        frame = frames[min(getattr(segment, "frame", 0), len(frames) - 1)]
        inside = (
            frame[region.rows, region.columns] if region.area else torch.full_like(frame[:1, :1], BACKDROP)
        )
        pictures.append(inside[None].clone())
    return pictures


def _title(number: int, segment: SEG) -> str:
    """Return the text at a segment, with its confidence if a detector gave one."""
    confidence = confidence_of(segment, number)
    return f"{number} {segment.label}" + (f" {confidence:.2f}" if confidence < 1 else "")


def _outline(pen: ImageDraw.ImageDraw, box: Box, colour: Colour, width: int) -> None:
    pen.rectangle((box.left, box.top, box.right - 1, box.bottom - 1), outline=colour, width=width)


def _write(pen: ImageDraw.ImageDraw, box: Box, text: str, colour: Colour, size: Size) -> None:
    font = ImageFont.load_default(max(12, min(size) // 40))
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    x = max(0, min(box.left, size[1] - int(right) - 2))
    y = max(0, min(box.top, size[0] - int(bottom) - 2))
    pen.rectangle((x + left - 2, y + top - 2, x + right + 2, y + bottom + 2), fill=(0, 0, 0))
    pen.text((x, y), text, fill=colour, font=font)


def _colour(number: int) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(number * GOLDEN % 1.0, 0.65, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)
