"""Synthetic scenes: as latents and as the crisp image that the latents stand for.

A scene holds exactly one person or ring, or as many balls as its class says. Its latent has three colour
channels and the objects' mask, all in [-1, 1]; the image has 8 pixels per latent pixel and values in [0, 1].
Both are the same drawing: ``avg_pool2d(2 * image - 1, 8)`` is the colour part of the latent. Lengths are in
units of the frame's short side, positions are (y, x) from its upper left corner.

Dimensions: B scenes, N objects at most, H and W in latent pixels.
"""

from dataclasses import dataclass, replace
from functools import reduce

import torch
import torch.nn.functional as F

from .forms import (
    CLASS_TEXTS,
    COLOURS,
    CROWD_COUNTS,
    CROWD_TEXTS,
    FIRST_CROWD,
    PERSON_WIDTH,
    RING_EXTENT,
    Parts,
    ball_parts,
    is_crowd,
    is_person,
    person_parts,
    ring_parts,
)

PIXELS_PER_LATENT = 8
SUPERSAMPLING = 2
MARGIN = 0.03
"""Least distance between a whole object and the frame."""
HEIGHTS, BALL_HEIGHTS = (0.7, 0.92), (0.18, 0.24)
"""Heights of a person or ring, of a ball, that the trained models draw."""
BALL_CANDIDATES = 64
"""Places that each ball chooses from: the one that is farthest from those before it."""
BODY_COLOURS = torch.tensor([[1.0, -0.6, -0.6], [-0.6, 0.9, -0.6], [-0.6, -0.4, 1.0]])


@dataclass(frozen=True)
class Scenes:
    """B scenes in frames of one size.

    Shapes: ``classes`` (B,) long; ``height`` (B, 1, 1); ``centres`` (B, N, 2, 1, 1), infinity where there is
    no object; ``body`` and ``tone`` (B, 3, 1, 1), the colours of the body and of the background; ``slope``
    (B, 2, 1, 1), the background's. The frame shows ``1 / zoom`` (B, 1, 1) of the scene's sides from
    ``corner`` (B, 2, 1, 1) on.
    """

    size: tuple[int, int]
    classes: torch.Tensor
    height: torch.Tensor
    centres: torch.Tensor
    body: torch.Tensor
    tone: torch.Tensor
    slope: torch.Tensor
    zoom: torch.Tensor
    corner: torch.Tensor

    def latents(self, samples: int = PIXELS_PER_LATENT * SUPERSAMPLING) -> torch.Tensor:
        """Draw the latents, (B, 4, H, W), each pixel the mean of ``samples`` by ``samples`` points."""
        return F.avg_pool2d(_draw(self, samples), samples)

    def pictures(self) -> torch.Tensor:
        """Draw the images, (B, 3, 8H, 8W) in [0, 1]."""
        return self.pairs()[1]

    def pairs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw latents and images at once."""
        drawing = F.avg_pool2d(_draw(self, PIXELS_PER_LATENT * SUPERSAMPLING), SUPERSAMPLING)
        return F.avg_pool2d(drawing, PIXELS_PER_LATENT), _to_unit_range(drawing[:, :3])

    def cropped(self, zoom: torch.Tensor, generator: torch.Generator) -> "Scenes":
        """Return windows of scenes that are ``zoom`` (B, 1, 1) times as large as the frame,
        each at a random place.
        """
        lots = torch.rand(len(self.classes), 2, 1, 1, generator=generator)
        frame = torch.tensor(self.size)[:, None, None] / min(self.size)
        return replace(self, zoom=zoom, corner=lots * frame * (1 - 1 / zoom[:, None]))


def random_scenes(
    count: int,
    size: tuple[int, int],
    generator: torch.Generator,
    heights: tuple[float, float] = HEIGHTS,
    close_ups: float = 0.0,
    close_up_heights: tuple[float, float] = (1.1, 2.0),
) -> Scenes:
    """Draw lots for ``count`` scenes of one object;
    a share ``close_ups`` of them shows it cut by the frame.
    """
    classes = torch.randint(0, len(CLASS_TEXTS), (count,), generator=generator)
    close_up = _uniform(count, (0.0, 1.0), generator) < close_ups
    whole, cut = _uniform(count, heights, generator), _uniform(count, close_up_heights, generator)
    height = torch.where(close_up, cut, whole)
    centre = [_random_centre(axis, size, classes, height, close_up, generator) for axis in (0, 1)]
    return _scenes(size, classes, height, torch.stack(centre, dim=1)[:, None], generator)


def random_several_objects(
    count: int, size: tuple[int, int], generator: torch.Generator, heights: tuple[float, float] = BALL_HEIGHTS
) -> Scenes:
    """Draw lots for ``count`` scenes of balls of one size, well apart."""
    kinds = torch.randint(0, len(CROWD_TEXTS), (count,), generator=generator)
    height = _uniform(count, heights, generator)
    centres = _scattered(count, size, height, generator)
    number = torch.tensor(CROWD_COUNTS)[kinds // len(COLOURS)]
    absent = torch.arange(centres.shape[1]) >= number[:, None]
    centres = centres.masked_fill(absent[:, :, None, None, None], torch.inf)
    return _scenes(size, kinds + FIRST_CROWD, height, centres, generator)


def _scenes(
    size: tuple[int, int],
    classes: torch.Tensor,
    height: torch.Tensor,
    centres: torch.Tensor,
    generator: torch.Generator,
) -> Scenes:
    """Colour objects and backgrounds at random."""
    count = len(classes)

    def normal(channels: int, scale: float) -> torch.Tensor:
        return torch.randn(count, channels, 1, 1, generator=generator) * scale

    return Scenes(
        size=size,
        classes=classes,
        height=height,
        centres=centres,
        body=BODY_COLOURS[classes % len(COLOURS)][:, :, None, None] * (1 + normal(1, 0.1)),
        tone=normal(3, 0.12) + normal(1, 0.15),
        slope=normal(2, 0.3),
        zoom=torch.ones(count, 1, 1),
        corner=torch.zeros(count, 2, 1, 1),
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


def _scattered(
    count: int, size: tuple[int, int], height: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Draw centres (B, N, 2, 1, 1) that keep apart (Mitchell 1991: the best of some
    candidates, one by one).
    """
    frame = torch.tensor(size) / min(size)
    extent = height + 2 * MARGIN
    scenes = torch.arange(count)
    placed: list[torch.Tensor] = []
    for _ in range(max(CROWD_COUNTS)):
        lots = torch.rand(count, BALL_CANDIDATES, 2, generator=generator)
        candidates = extent / 2 + (frame - extent) * lots
        distances = [(candidates - other[:, None]).norm(dim=2) for other in placed]
        nearest = torch.stack(distances).amin(0) if distances else torch.zeros(count, 1)
        placed.append(candidates[scenes, nearest.argmax(1)])
    return torch.stack(placed, dim=1)[..., None, None]


def _uniform(count: int, bounds: tuple[float, float], generator: torch.Generator) -> torch.Tensor:
    low, high = bounds
    return low + (high - low) * torch.rand(count, 1, 1, generator=generator)


def _draw(scenes: Scenes, samples: int) -> torch.Tensor:
    """Draw colours and mask at ``samples`` points a latent pixel,
    (B, 4, samples * H, samples * W) in [-1, 1].
    """
    y, x = ((torch.arange(n * samples) + 0.5) / (min(scenes.size) * samples) for n in scenes.size)
    y = scenes.corner[:, 0] + y[:, None] / scenes.zoom
    x = scenes.corner[:, 1] + x / scenes.zoom
    parts = _parts(scenes, y, x)
    colour = scenes.tone + scenes.slope[:, :1] * (y - 0.5)[:, None] + scenes.slope[:, 1:] * (x - 0.5)[:, None]
    colour = colour.masked_fill(parts.dark[:, None], -1.0)
    colour = torch.where(parts.body[:, None], scenes.body, colour)
    colour = colour.masked_fill(parts.light[:, None], 1.0)
    mask = 2.0 * parts.whole[:, None] - 1.0
    return torch.cat([colour.clamp(-1, 1), mask], dim=1)


def _parts(scenes: Scenes, y: torch.Tensor, x: torch.Tensor) -> Parts:
    """Return where the objects' parts lie, (B, rows, columns) each."""
    objects = [_parts_of_one(scenes, centre, y, x) for centre in scenes.centres.unbind(1)]
    return Parts(*(reduce(torch.logical_or, part) for part in zip(*objects, strict=True)))


def _parts_of_one(scenes: Scenes, centre: torch.Tensor, y: torch.Tensor, x: torch.Tensor) -> Parts:
    v = (y - centre[:, 0]) / scenes.height
    u = (x - centre[:, 1]) / scenes.height
    classes = scenes.classes[:, None, None]
    if is_crowd(classes).all():
        return ball_parts(u, v)
    pairs = zip(person_parts(u, v), ring_parts(u, v), strict=True)
    return Parts(*(torch.where(is_person(classes), of_person, of_ring) for of_person, of_ring in pairs))


def _to_unit_range(values: torch.Tensor) -> torch.Tensor:
    return (values + 1) / 2
