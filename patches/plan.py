"""What an effect does in one model call, in a form in which the features' sizes can be followed and drawn."""

from __future__ import annotations

from collections.abc import Mapping

from ..scaling.size import Size
from .topology import BlockId


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
