"""The plan of an effect for one model call, from which the features' sizes can be computed and drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..scaling.size import Size
from .topology import BlockId, Topology, size_at


class Plan:
    """The plan of one effect for one model call. By default, every method describes no change."""

    def downsampled(self, block: int, size: Size) -> Size | None:
        """Return the size of the Downsample's result in input block `block` for
        features of `size`; None is unchanged.
        """
        return None

    def before_skip(self, block: int, size: Size) -> Size:
        """Return the size of features of `size` after input block `block`, before its skip is taken."""
        return size

    def after_skip(self, block: int, size: Size) -> Size:
        """Return the size of features of `size` after the skip of input block `block` is taken."""
        return size

    def marks(self, sizes: Mapping[BlockId, Size]) -> Mapping[BlockId, str]:
        """Return a short text for each block at which the effect does something;
        `sizes` are those of all blocks.
        """
        return {}


def feature_sizes(topology: Topology, latent_size: Size, plans: Iterable[Plan] = ()) -> dict[BlockId, Size]:
    """Return the (height, width) of the features that each block works on, with all `plans` on.

    For a block with a Downsample it is the size after it.
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
