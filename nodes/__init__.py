"""The nodes of the pack, in the order of the menu."""

from .deep_shrink import MegapixelDeepShrink

NODES = [MegapixelDeepShrink]
