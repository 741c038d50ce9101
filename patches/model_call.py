"""The data of a model call, before the UNet runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from functools import cached_property
from typing import Any

import torch
from comfy.model_base import BaseModel
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..errors import bad_input
from ..record import record
from ..scaling.size import Size
from .schedule import Schedule
from .topology import Topology, topology_in


class NoiseLevels(Sequence[float]):
    """The noise levels in a batch, each once.

    They are read from the device when an effect first looks at them.
    """

    def __init__(self, sigmas: Tensor) -> None:
        self.source = sigmas

    @cached_property
    def _values(self) -> tuple[float, ...]:
        return tuple(set(self.source.tolist()))

    def __getitem__(self, index: Any) -> Any:
        return self._values[index]

    def __len__(self) -> int:
        return len(self._values)


@record
class ModelCall:
    """One call of the model.

    `sample_sigmas` are the `falling_levels` of the run, where the sampler publishes them. `marks`
    are the keyword arguments of the call that have our prefix: an effect puts them among the host's
    `model_conds` when a run begins. `cond_or_uncond` are the guider's numbers of the conditionings in the
    batch.
    """

    sigmas: Sequence[float]
    latent_size: Size
    sample_sigmas: tuple[float, ...] | None
    sampling: Any
    model: BaseModel
    topology: Topology
    seed: int = 0
    has_control: bool = False
    device: torch.device | None = None
    marks: Mapping[str, Any] = field(default_factory=dict[str, Any])
    cond_or_uncond: Sequence[int] | None = None

    def strength(self, schedule: Schedule) -> float:
        """Return the strength of `schedule`, 0 to 1.

        If the entries of a batch have different noise levels, the lowest strength counts: their features
        share one size, and an entry after the window must not be changed. If no step of the run is in the
        window, they are not read.
        """
        window = schedule.resolve(self.sampling, self.sample_sigmas)
        if self.sample_sigmas and not window.meets(self.sample_sigmas[0], self.sample_sigmas[-1]):
            return 0.0
        return window.weakest(self.sigmas)


def falling_levels(sigmas: Tensor) -> tuple[float, ...]:
    """Return the noise levels of a run (steps + 1,), the highest first.

    A run that adds noise (unsampling: ComfyUI's FlipSigmas) has the schedule of the run that removes it.
    """
    return tuple(sorted(sigmas.tolist(), reverse=True))


def first_call(model: ModelPatcher, latent_size: Size, sigmas: Tensor, seed: int = 0) -> ModelCall:
    """Return the first model call of a run over `sigmas` (steps + 1,), without its tensors."""
    sample_sigmas = falling_levels(sigmas)
    return ModelCall(
        sigmas=sample_sigmas[:1],
        latent_size=latent_size,
        sample_sigmas=sample_sigmas,
        sampling=model.get_model_object("model_sampling"),
        model=model.model,
        topology=topology_in(model),
        seed=seed,
    )


def latent_size_of(latent: Tensor) -> Size:
    """Return the (height, width) of a latent (B, C, H, W).

    Raises:
        ValueError: when it has another number of dimensions.
    """
    if latent.ndim != 4:
        got = f"{latent.ndim} dimensions {tuple(latent.shape)}"
        hint = "Use a latent made for this model. Video latents need video models."
        raise bad_input("latent_image", "a latent B x C x H x W", got, hint)
    return latent.shape[-2], latent.shape[-1]
