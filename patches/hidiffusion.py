"""HiDiffusion in one piece: small features and windowed attention, chosen for the model at hand and for the size that is sampled.

Source: HiDiffusion (arXiv 2311.17528v2). Its schedules go by classes of absolute sizes and are on at every size, also where
they harm; here the size is measured against the trained one, and at that nothing is done.

"published" has the paper's RAU-Net and its four windows. "auto" has what counted best on the tiny models
(bench/results/effect.md): Deep Shrink with its automatic settings in the place of RAU-Net, and windows as large as the trained picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..host.compat import ModelPatcher
from ..scaling.deep_shrink import automatic_factor
from .deep_shrink import DeepShrink, apply_deep_shrink
from .model_call import ModelCall
from .msw_msa import Windows, apply_msw_msa, known_preset
from .rau_net import TURBO_SIDE, Published, RAUNet, Recipe, apply_rau_net
from .topology import topology_of
from .trained_size import trained_side

MODES = ("auto", "published")
WINDOWS = ("auto", "native", "2x2", "off")


@dataclass(frozen=True)
class HiDiffusion:
    """The settings of HiDiffusion; the names are those of the node's sockets.

    windows "auto" is "native" in mode "auto", and "2x2" in mode "published".
    """

    mode: Literal["auto", "published"] = "auto"
    windows: Windows | Literal["auto", "off"] = "auto"
    trained_size: int = 0


def apply_hidiffusion(model: ModelPatcher, config: HiDiffusion) -> ModelPatcher:
    """Return a clone of `model` that keeps the composition of large pictures whole, and samples them faster.

    At sizes that are not clearly above the trained one it does nothing.

    Raises:
        ValueError: `model` is no UNet, or the size that it was trained at is not known; one sentence.
    """
    topology = topology_of(model.get_model_object("diffusion_model"))
    side = trained_side(model.model, config.trained_size)  # an unknown family is said now, not in the sampler
    if config.mode == "published":
        published = Published(turbo=side <= TURBO_SIDE)
        patched = apply_rau_net(model, AboveTrainedSize(published, config.trained_size))
    else:
        patched = apply_deep_shrink(model, DeepShrink(mode="auto", trained_size=config.trained_size))
    if config.windows == "off":
        return patched
    settings = known_preset(
        topology,
        0.0,
        windows=_usual(config.mode) if config.windows == "auto" else config.windows,
        trained_size=config.trained_size,
        above_trained_size=True,
    )
    return apply_msw_msa(patched, settings)


def _usual(mode: str) -> Windows:
    return "2x2" if mode == "published" else "native"


@dataclass(frozen=True)
class AboveTrainedSize:
    """A recipe for latents clearly larger than the trained ones, and nothing for the others."""

    recipe: Recipe
    trained_size: int = 0

    def settings(self, call: ModelCall) -> RAUNet | None:
        """Return what the recipe says, or None."""
        side = trained_side(call.model, self.trained_size)
        return self.recipe.settings(call) if automatic_factor(call.latent_size, side) > 1.0 else None
