"""What an effect does in one model call, in a form in which the features' sizes can be followed and drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..scaling.size import Size
from .topology import BlockId, Topology, size_at


class Plan:
    """What one effect does in one model call. Every method's default is a plan that does nothing there."""

    def downsampled(self, block: int, size: Size) -> Size | None:
        """Return the size that the Downsample of input block `block` makes of `size`; None leaves it as it is."""
        return None

    def before_skip(self, block: int, size: Size) -> Size:
        """Return the size of features of `size` after input block `block`, before its skip is taken."""
        return size

    def after_skip(self, block: int, size: Size) -> Size:
        """Return the size of features of `size` after the skip of input block `block` is taken."""
        return size

    def marks(self, sizes: Mapping[BlockId, Size]) -> Mapping[BlockId, str]:
        """Return in a word or two what the effect does at which block; `sizes` are those of all blocks."""
        return {}


def feature_sizes(topology: Topology, latent_size: Size, plans: Iterable[Plan] = ()) -> dict[BlockId, Size]:
    """Return the (height, width) of the features that each block works on, with all `plans` on.

    A block with a Downsample counts with the size that it makes.
    """
    plans = tuple(plans)
    size = latent_size
    sizes: dict[BlockId, Size] = {}
    skips: list[Size] = []
    for number, block in enumerate(topology.inputs):
        if block.resample == "down":
            size = _downsampled(plans, number, size)
        sizes["input", number] = size
        for plan in plans:
            size = plan.before_skip(number, size)
        skips.append(size)
        for plan in plans:
            size = plan.after_skip(number, size)
    sizes["middle", 0] = size
    for number in range(len(topology.outputs)):
        sizes["output", number] = skips.pop()  # whatever came before has been fitted to the skip
    return sizes


def _downsampled(plans: Iterable[Plan], block: int, size: Size) -> Size:
    for plan in plans:
        if (changed := plan.downsampled(block, size)) is not None:
            return changed
    return size_at(1, size)
