"""HiDiffusion with automatic settings: downscaled features and windowed attention, chosen for the model and
the sampled size.

Source: HiDiffusion (arXiv 2311.17528v2). Its schedules depend on classes of absolute sizes and are on at
every size, also where they harm; here the size is compared with the trained one, and at that size nothing is
done.

"published" uses the paper's RAU-Net and its four windows. "auto" uses Deep Shrink with its automatic settings
instead of RAU-Net, and windows as large as the trained image, until 80 % of sampling; where a side takes more
than two of them, only from 50 % on.
"""

from __future__ import annotations

from typing import Literal

from comfy.model_patcher import ModelPatcher

from ..record import record
from .deep_shrink import DeepShrink, apply_deep_shrink
from .model_call import ModelCall
from .msw_msa import Windows, apply_msw_msa, original_preset
from .rau_net_effect import RAUNets
from .rau_net_published import TURBO_SIDE, Published, method_blocks
from .rau_net_settings import RAUNet, Recipe
from .topology import topology_in
from .trained_size import is_above_trained, trained_side
from .wrapper import add_effect

Mode = Literal["auto", "published"]
WindowChoice = Literal["auto", "native", "2x2", "off"]

WINDOWS: dict[Mode, Windows] = {"auto": "native", "published": "2x2"}
"""The usual windows, by mode."""
WINDOWS_END: dict[Mode, float] = {"auto": 0.8, "published": 1.0}
"""Share of the sampling at which the windows end, by mode. The paper's go on to the end: each window then sets
the tone of its part of a plain area by itself, and no later step makes them equal (bench/results/effect.md).
"""
LARGE_WINDOWS_START: dict[Mode, float | None] = {"auto": 0.5, "published": None}
"""Share of the sampling at which the windows begin where a side takes more than two of the trained size, by
mode; None is the start, as in the paper. A window then sees less than half of the side: while the composition
forms, objects that lie in several windows are cut off or repeated (bench/results/effect.md).
"""


@record
class HiDiffusion:
    """The settings of HiDiffusion; the names are those of the node's sockets.

    windows "auto" is "native" in mode "auto", and "2x2" in mode "published".
    """

    mode: Mode = "auto"
    windows: WindowChoice = "auto"
    trained_size: int = 0


def apply_hidiffusion(model: ModelPatcher, config: HiDiffusion) -> ModelPatcher:
    """Return a clone of `model` that keeps large images coherent, and samples them faster.

    At sizes that are not clearly above the trained one it does nothing.

    Raises:
        ValueError: when `model` is not a UNet, or its trained size is unknown.
    """
    topology = topology_in(model)
    side = trained_side(model.model, config.trained_size)  # fail here rather than inside the sampler
    if config.mode == "published":
        method_blocks(topology)  # fail here, too
        published = Published(turbo=side <= TURBO_SIDE)
        patched = add_effect(model, RAUNets((AboveTrainedSize(published, config.trained_size),)))
    else:
        patched = apply_deep_shrink(model, DeepShrink(mode="auto", trained_size=config.trained_size))
    if config.windows == "off":
        return patched
    settings = original_preset(
        topology,
        0.0,
        end_time=WINDOWS_END[config.mode],
        windows=WINDOWS[config.mode] if config.windows == "auto" else config.windows,
        trained_size=config.trained_size,
        above_trained_size=True,
        large_start_time=LARGE_WINDOWS_START[config.mode],
    )
    return apply_msw_msa(patched, settings)


@record
class AboveTrainedSize:
    """A recipe for latents clearly larger than the trained ones, and nothing for the others."""

    recipe: Recipe
    trained_size: int = 0

    def settings(self, call: ModelCall) -> RAUNet | None:
        """Return the recipe's settings, or None."""
        is_above = is_above_trained(call.model, call.latent_size, self.trained_size)
        return self.recipe.settings(call) if is_above else None
