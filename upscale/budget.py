"""The budget for measuring a network in one run.

The unit is a pixel of the image through the whole network in float32. A run may spend twice the image's own
pixels on measuring, so that the first use takes at most as long as three plain passes; the rest is measured
in a later run.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

PASSES = 2  # over the image
SMALLEST = 128 * 128  # pixels; a smaller image may cost as much as this one


class BudgetSpent(Exception):
    """A measurement would cost more than the rest of the budget."""


class Budget:
    """The remaining pixels for measuring.

    Args:
        picture: pixels of the image.
        report: called before every call of a network with its size in passes over the image; what it raises
            ends the measurement.
    """

    def __init__(self, picture: float = 0, report: Callable[[float], None] = lambda passes: None) -> None:
        self._picture, self._report = max(picture, SMALLEST), report
        self.left = PASSES * self._picture

    def spend(self, pixels: float, must: bool = False) -> None:
        """Subtract the pixels of a call.

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
        """Return `run` with each call subtracted before; a pixel of (B, C, H, W) costs `worth`."""

        def counted(tiles: Tensor) -> Tensor:
            self.spend(worth * tiles[:, 0].numel(), must)
            return run(tiles)

        return counted
