"""How far the borders of tiles stand out in a picture, beside all its other lines.

A picture that was drawn has edges too, and one of them may lie on a border. So a line counts with its lower
quartile along its length: the edge of an object covers a part of a line, a seam follows all of it. And a border
counts beside the median of all other lines of the same picture and direction, which have the same noise and the
same grid of the VAE.

H W C a picture. Line x is between the columns x - 1 and x, or the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

REACH = 4  # steps to each side of a line that count as the line: together a pixel of the latent
QUARTILE = 0.25
UNSEEN = 0.25 / 255  # steps below this are equal, so that a flat picture has a contrast of 1


@dataclass(frozen=True)
class Seams:
    """How the borders of tiles compare with the other lines of a picture.

    Attributes:
        contrast: mean strength of the borders divided by the median of the other lines'. 1 says that a border is
            no more visible than any other line of the picture.
        rank: mean share of the other lines that are weaker than a border: a half by chance, 1 where each
            border is the strongest line.
        mean_jump: mean step near a border divided by the mean step elsewhere, objects included.
    """

    contrast: float
    rank: float
    mean_jump: float


def seams(picture: Tensor, rows: Sequence[int], columns: Sequence[int]) -> Seams:
    """Compare the borders of tiles, lines at these rows and columns, with all other lines of (H, W, C)."""
    axes = [_Axis.of(picture.transpose(0, 1), rows), _Axis.of(picture, columns)]
    at = sum(axis.strength[axis.border].mean() for axis in axes)
    beside = sum(axis.strength[axis.other].quantile(0.5) for axis in axes)
    near = torch.cat([axis.step[axis.border] for axis in axes]).mean()
    far = torch.cat([axis.step[axis.other] for axis in axes]).mean()
    return Seams(
        contrast=float((at / 2 + UNSEEN) / (beside / 2 + UNSEEN)),
        rank=float(torch.cat([axis.ranks for axis in axes]).mean()),
        mean_jump=float(near / far),
    )


@dataclass(frozen=True, eq=False)
class _Axis:
    """The lines of one direction, from `REACH` on.

    Attributes:
        strength: of each line: its largest step within `REACH`, as the lower quartile along its length.
        step: mean step within `REACH` of each line.
        border: whether a line is a border.
        other: whether its steps are none of a border.
    """

    strength: Tensor
    step: Tensor
    border: Tensor
    other: Tensor

    @classmethod
    def of(cls, picture: Tensor, borders: Sequence[int]) -> _Axis:
        """Return the lines between the columns of (H, W, C)."""
        steps = picture.double().diff(dim=1).abs().mean(-1)  # (H, W - 1); step x - 1 is at line x
        largest = F.max_pool1d(steps, 2 * REACH, 1)  # the first is of line REACH
        line = torch.arange(largest.shape[1]) + REACH
        distance = (line[:, None] - torch.tensor(borders)).abs().amin(dim=1)
        return cls(
            largest.quantile(QUARTILE, dim=0),
            F.avg_pool1d(steps, 2 * REACH, 1).mean(dim=0),
            distance == 0,
            distance >= 2 * REACH,
        )

    @property
    def ranks(self) -> Tensor:
        """The share of the other lines that are weaker, of each border; equal ones count half."""
        borders, others = self.strength[self.border][:, None], self.strength[self.other]
        return ((others < borders).double() + (others == borders).double() / 2).mean(dim=1)
