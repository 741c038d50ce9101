"""Synthetic scenes with exactly one object: as latents and as the crisp picture that the latents stand for.

The latent of a scene has three colour channels and the object's mask, all in [-1, 1]; the picture has 8
pixels per latent pixel and values in [0, 1]. Both are the same drawing: ``avg_pool2d(2 * picture - 1, 8)`` is
the colour part of the latent. Lengths are in units of the frame's short side, positions are (y, x) from its
upper left corner.

Dimensions: B scenes, H and W in latent pixels.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .forms import (
    CLASS_NAMES,
    CLOSE_UP_OFFSET,
    COLOURS,
    PERSON_WIDTH,
    RING_EXTENT,
    Parts,
    is_person,
    person_parts,
    ring_parts,
)

PIXELS_PER_LATENT = 8
SUPERSAMPLING = 2
MARGIN = 0.03
"""Least distance between a whole object and the frame."""
BODY_COLOURS = torch.tensor([[1.0, -0.6, -0.6], [-0.6, 0.9, -0.6], [-0.6, -0.4, 1.0]])


@dataclass(frozen=True)
class Scenes:
    """B scenes in frames of one size.

    Shapes: ``classes`` (B,) long with close-ups offset; ``height`` (B, 1, 1); ``centre`` and ``slope``
    (B, 2, 1, 1), (y, x); ``body`` and ``tone`` (B, 3, 1, 1), the colours of the body and of the background.
    """

    size: tuple[int, int]
    classes: torch.Tensor
    height: torch.Tensor
    centre: torch.Tensor
    body: torch.Tensor
    tone: torch.Tensor
    slope: torch.Tensor

    def latents(self) -> torch.Tensor:
        """Draw the latents, (B, 4, H, W)."""
        return F.avg_pool2d(_draw(self), PIXELS_PER_LATENT)

    def pictures(self) -> torch.Tensor:
        """Draw the pictures, (B, 3, 8H, 8W) in [0, 1]."""
        return _to_unit_range(_draw(self)[:, :3])

    def pairs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw latents and pictures at once."""
        drawing = _draw(self)
        return F.avg_pool2d(drawing, PIXELS_PER_LATENT), _to_unit_range(drawing[:, :3])


def random_scenes(
    count: int,
    size: tuple[int, int],
    generator: torch.Generator,
    heights: tuple[float, float] = (0.6, 0.85),
    close_ups: float = 0.5,
    close_up_heights: tuple[float, float] = (1.1, 2.0),
) -> Scenes:
    """Draw lots for ``count`` scenes; a share ``close_ups`` of them shows an object cut by the frame."""
    classes = torch.randint(0, len(CLASS_NAMES), (count,), generator=generator)
    close_up = _uniform(count, (0.0, 1.0), generator) < close_ups
    whole, cut = _uniform(count, heights, generator), _uniform(count, close_up_heights, generator)
    height = torch.where(close_up, cut, whole)
    centre = [_random_centre(axis, size, classes, height, close_up, generator) for axis in (0, 1)]

    def normal(channels: int, scale: float) -> torch.Tensor:
        return torch.randn(count, channels, 1, 1, generator=generator) * scale

    return Scenes(
        size=size,
        classes=classes + CLOSE_UP_OFFSET * close_up.flatten().long(),
        height=height,
        centre=torch.stack(centre, dim=1),
        body=BODY_COLOURS[classes % len(COLOURS)][:, :, None, None] * (1 + normal(1, 0.1)),
        tone=normal(3, 0.12) + normal(1, 0.15),
        slope=normal(2, 0.3),
    )


def _random_centre(
    axis: int,
    size: tuple[int, int],
    classes: torch.Tensor,
    height: torch.Tensor,
    close_up: torch.Tensor,
    generator: torch.Generator,
) -> torch.Tensor:
    """Draw centres (B, 1, 1) along one axis: whole objects lie in the frame, close-ups near its middle."""
    frame = size[axis] / min(size)
    share = torch.tensor([1.0, PERSON_WIDTH][axis]).where(is_person(classes), torch.tensor(RING_EXTENT))
    extent = share[:, None, None] * height + 2 * MARGIN
    lot = _uniform(len(classes), (0.0, 1.0), generator)
    return torch.where(close_up, (0.2 + 0.6 * lot) * frame, extent / 2 + (frame - extent) * lot)


def _uniform(count: int, bounds: tuple[float, float], generator: torch.Generator) -> torch.Tensor:
    low, high = bounds
    return low + (high - low) * torch.rand(count, 1, 1, generator=generator)


def _draw(scenes: Scenes) -> torch.Tensor:
    """Draw colours and mask at picture resolution, (B, 4, 8H, 8W) in [-1, 1]."""
    y, x = _grid(scenes.size)
    parts = _parts(scenes, y, x)
    colour = scenes.tone + scenes.slope[:, :1] * (y - 0.5) + scenes.slope[:, 1:] * (x - 0.5)
    colour = colour.masked_fill(parts.dark[:, None], -1.0)
    colour = torch.where(parts.body[:, None], scenes.body, colour)
    colour = colour.masked_fill(parts.light[:, None], 1.0)
    mask = 2.0 * parts.whole[:, None] - 1.0
    return F.avg_pool2d(torch.cat([colour.clamp(-1, 1), mask], dim=1), SUPERSAMPLING)


def _parts(scenes: Scenes, y: torch.Tensor, x: torch.Tensor) -> Parts:
    v = (y - scenes.centre[:, 0]) / scenes.height
    u = (x - scenes.centre[:, 1]) / scenes.height
    person = is_person(scenes.classes)[:, None, None]
    pairs = zip(person_parts(u, v), ring_parts(u, v), strict=True)
    return Parts(*(torch.where(person, of_person, of_ring) for of_person, of_ring in pairs))


def _grid(size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sample positions (rows, 1) and (columns,) in units of the short side."""
    samples = PIXELS_PER_LATENT * SUPERSAMPLING
    y, x = ((torch.arange(n * samples) + 0.5) / (min(size) * samples) for n in size)
    return y[:, None], x


def _to_unit_range(values: torch.Tensor) -> torch.Tensor:
    return (values + 1) / 2
