"""What measuring a network may cost in one run.

The unit is a pixel of the picture through the whole network in float32. A run may spend twice the picture's own pixels on
measuring, so that a person's first use takes at most three plain passes; what does not fit is measured on a later run.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

PASSES = 2  # over the picture
SMALLEST = 128 * 128  # pixels; a smaller picture may cost as much as this one


class BudgetSpent(Exception):
    """A measurement would cost more than is left for it."""


class Budget:
    """The pixels that are left to spend on measuring.

    Args:
        picture: pixels of the picture.
        report: called before every call of a network with its size in passes over the picture; what it raises ends
            the measurement.
    """

    def __init__(self, picture: float = 0, report: Callable[[float], None] = lambda passes: None) -> None:
        self._picture, self._report = max(picture, SMALLEST), report
        self.left = PASSES * self._picture

    def spend(self, pixels: float, must: bool = False) -> None:
        """Note that so many pixels go through the network now.

        Raises:
            BudgetSpent: when that is more than is left, unless it `must` be measured in this run.
        """
        if pixels > self.left and not must:
            raise BudgetSpent
        self.left -= pixels
        self._report(pixels / self._picture)

    def counting(
        self, run: Callable[[Tensor], Tensor], worth: float = 1.0, must: bool = False
    ) -> Callable[[Tensor], Tensor]:
        """Return `run` such that every call is spent before; a pixel of (B, C, H, W) costs `worth`."""

        def counted(tiles: Tensor) -> Tensor:
            self.spend(worth * tiles[:, 0].numel(), must)
            return run(tiles)

        return counted
