"""One latent, denoised in overlapping tiles.

Source: MultiDiffusion (Bar-Tal et al. 2023, arXiv 2302.08113); no code from it.

In each evaluation of the model, every tile estimates the clean latent. The estimate of the whole is

    sum of w_i estimate_i / sum of w_j

in each latent pixel, where w is the tile's paste weight, its mask with the feather, times the distance to its
nearest edge inside the whole: an estimate is worst at its tile's edge, and shares that change over all of an
overlap leave no line. In a pixel of a single tile it is that tile's, bit for bit.

With moving borders, every pixel of an overlap comes mostly from one tile, and the border between two tiles is
at another position of their overlap in each step. SpotDiffusion (Frolov et al. 2024, arXiv 2407.15507) shifts
the tiles themselves; here the tiles stay, because masks, hints and texts are cropped to them. The position
depends on the seed and the noise level alone, so a run that is split over two samplers has the same borders.

T tiles, B C … H W a latent, h w of a tile.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Sequence
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from ..record import record
from ..scaling.box import Box
from ..scaling.size import Size

FLOOR = 1e-3  # weight where a mask is 0: an estimate is there, and does not count beside another tile
SHARPNESS = 6  # of moving borders: most of the change lies in a fifth of the overlap
REACH = 1.0  # of moving borders, as logarithm of the gain: from an eighth to seven eighths of the overlap


@record(eq=False)
class Fusion:
    """How the estimates of tiles become one.

    Attributes:
        size: (H, W) of the whole.
        boxes: of the tiles in it, in latent pixels.
        weights: (h, w) of each, above 0.
        seed: of moving borders; None for borders that stay.
    """

    size: Size
    boxes: Sequence[Box]
    weights: Sequence[Tensor]
    seed: int | None = None

    def shares(self, sigma: float | Tensor) -> list[Tensor]:
        """Return the share (h, w) of each tile in each of its pixels at a noise level:
        all of them add up to 1.
        """
        if self.seed is None:
            return self.constant
        gains = border_gains(self.seed, float(sigma), len(self.boxes))
        pairs = zip(self.weights, self._depths, gains, strict=True)
        return self._shared([weight * (depth * gain) ** SHARPNESS for weight, depth, gain in pairs])

    def fuse(self, tiles: Sequence[Tensor], shares: Sequence[Tensor]) -> Tensor:
        """Return the whole (B, C, …, H, W) of tiles (B, C, …, h, w); 0 where none is."""
        whole = tiles[0].new_zeros((*tiles[0].shape[:-2], *self.size))
        for tile, box, share in zip(tiles, self.boxes, shares, strict=True):
            cut(whole, box).add_(tile * share.to(tile))
        return whole

    @cached_property
    def constant(self) -> list[Tensor]:
        """The shares where no border moves."""
        pairs = zip(self.weights, self._depths, strict=True)
        return self._shared([weight * depth for weight, depth in pairs])

    @cached_property
    def _depths(self) -> list[Tensor]:
        return [
            _depth(box, self.size).to(weight) for box, weight in zip(self.boxes, self.weights, strict=True)
        ]

    def _shared(self, weights: Sequence[Tensor]) -> list[Tensor]:
        total = weights[0].new_zeros(self.size)
        for box, weight in zip(self.boxes, weights, strict=True):
            cut(total, box).add_(weight)
        pairs = zip(self.boxes, weights, strict=True)
        return [weight / cut(total, box) for box, weight in pairs]  # exactly 1 where a tile is alone


def cut(field: Tensor, box: Box) -> Tensor:
    """Return the part of a field (…, H, W) in a box, a view."""
    return field[..., box.rows, box.columns]


def tile_weight(weight: Tensor, size: Size) -> Tensor:
    """Return a paste weight (H, W) at a tile's latent size, in float64 and at least `FLOOR`."""
    return F.adaptive_avg_pool2d(weight[None].double(), size)[0].clamp(min=FLOOR)


def border_gains(seed: int, sigma: float, count: int) -> list[float]:
    """Return a factor for each of so many tiles, drawn from seed and noise level alone:
    a larger one gives the tile more of its overlaps.
    """
    digest = hashlib.blake2b(struct.pack("<Qd", seed % 2**64, sigma), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
    drawn = torch.rand(count, generator=generator, dtype=torch.float64)
    return [math.exp(REACH * (2 * float(value) - 1)) for value in drawn]


def _depth(box: Box, size: Size) -> Tensor:
    """Return how far (h, w) pixels of a tile lie from its nearest edge inside the whole,
    at most 1: its longer side.
    """
    rows, columns = (_axis_depth(span, length) for span, length in zip(box.spans, size, strict=True))
    return torch.minimum(rows[:, None], columns).div(max(box.size)).clamp(max=1)


def _axis_depth(span: tuple[int, int], length: int) -> Tensor:
    low, high = span
    steps = torch.arange(high - low, dtype=torch.float64) + 0.5
    far = torch.full_like(steps, float("inf"))
    start = steps if low > 0 else far
    end = steps.flip(0) if high < length else far
    return torch.minimum(start, end)
