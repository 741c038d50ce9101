"""Patches of other packs in the same UNet: adapts their inputs when features are downscaled, and raises an
error if one cannot work.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from torch import Tensor

from ..errors import bad_input
from ..host.compat import is_supir
from .effect import Effect
from .topology import Topology, size_at

# In a layer's extra_options: the latent's shape, where `original_shape` was fitted.
TRUE_SHAPE = "megapixel_shape"

Patches = dict[str, list[Any]]


def prepare_neighbours(patches: Patches, topology: Topology, acting: Iterable[Effect]) -> None:
    """Fit the patches of other packs to the effects that act in a run; `patches` are this run's own lists.

    Raises:
        ValueError: when one of them cannot work with an effect.
    """
    resizing = [effect.label for effect in acting if effect.resizes]
    if not resizing:
        return
    if any(is_supir(patch) for patch in patches.get("middle_block_after_patch", ())):
        expected = f"a model without SUPIR for {' and '.join(resizing)}"
        hint = "SUPIR needs features of full size. Remove one of the two."
        raise bad_input("model", expected, "one with SUPIR", hint)
    if "attn1_patch" in patches:
        patches["attn1_patch"].insert(0, partial(_fit_original_shape, topology))


def _fit_original_shape(
    topology: Topology, tokens: Tensor, context: Tensor, value: Tensor, options: dict[str, Any]
) -> tuple[Tensor, Tensor, Tensor]:
    """Give a layer with resized features the `original_shape` of a latent that has such features.

    Other packs (ToMe, HyperTile) divide it by the number of tokens to find the layer's grid.
    """
    shape = options["original_shape"]
    level = topology.blocks[options["block"]].level
    height, width = options["activations_shape"][-2:]
    if (height, width) != size_at(level, (shape[-2], shape[-1])):
        options[TRUE_SHAPE] = shape
        options["original_shape"] = [*shape[:-2], height << level, width << level]
    return tokens, context, value
