"""RAU-Net with the user's settings: pairs of blocks are checked against the UNet,
and missing ones are filled in.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from comfy.model_patcher import ModelPatcher

from ..errors import bad_input
from .rau_net_effect import RAUNets
from .rau_net_published import Published, ca_partners, method_blocks, pairs_of
from .rau_net_settings import Fixed, RAUNet, Recipe
from .topology import Topology, listed, topology_in
from .wrapper import add_effect


def apply_rau_net(model: ModelPatcher, recipe: RAUNet | Recipe) -> ModelPatcher:
    """Return a clone of `model` with the rescalings of `recipe`.

    Applied again, it adds further ones; at the same block the earlier one counts.

    Raises:
        ValueError: when `model` is not a UNet, or blocks are missing or do not match.
    """
    topology = topology_in(model)
    if isinstance(recipe, Published):
        method_blocks(topology)  # fail here rather than inside the sampler
    if isinstance(recipe, RAUNet):
        recipe = Fixed(_completed(recipe, topology))
    return add_effect(model, RAUNets((recipe,)))


def _completed(settings: RAUNet, topology: Topology) -> RAUNet:
    """Return `settings` with each pair checked and its output blocks filled in."""
    _check_dilated(settings, topology)
    _check_pooled(settings, topology)
    after_skip = settings.ca_input_after_skip_mode
    return replace(
        settings, **pairs_of(topology, settings.input_blocks, settings.ca_input_blocks, after_skip)
    )


def _check_dilated(settings: RAUNet, topology: Topology) -> None:
    hint = _pairs_hint((block, topology.skip_partner(block)) for block in topology.downsamplers)
    for block in settings.input_blocks:
        if block not in topology.downsamplers:
            raise bad_input("input_blocks", "blocks with a Downsample", block, hint)
    partners = {topology.skip_partner(block) for block in settings.input_blocks}
    if partners and settings.output_blocks and set(settings.output_blocks) != partners:
        expected = f"{listed(partners)} for input_blocks {listed(settings.input_blocks)}"
        raise bad_input("output_blocks", expected, listed(settings.output_blocks), hint)


def _check_pooled(settings: RAUNet, topology: Topology) -> None:
    after_skip = settings.ca_input_after_skip_mode
    for block in settings.ca_input_blocks:
        topology.check_input_block(block, "ca_input_blocks")
    found = [ca_partners(topology, block, after_skip) for block in settings.ca_input_blocks]
    chosen, allowed = set(settings.ca_output_blocks), {block for partners in found for block in partners}
    if not chosen or not found or (chosen <= allowed and all(chosen & set(partners) for partners in found)):
        return
    usual = listed(partners[0] for partners in found)
    expected = f"{usual} for ca_input_blocks {listed(settings.ca_input_blocks)}"
    blocks = range(1, len(topology.inputs))
    hint = _pairs_hint((block, ca_partners(topology, block, after_skip)[0]) for block in blocks)
    raise bad_input("ca_output_blocks", expected, listed(chosen), hint)


def _pairs_hint(pairs: Iterable[tuple[int, int]]) -> str:
    listed_pairs = ", ".join(f"{block}-{partner}" for block, partner in pairs)
    return f"The pairs (input-output) of this UNet are {listed_pairs}."
