"""Separate noise for every segment of a batch: the same as if it were sampled alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import comfy.samplers
import torch
from comfy.k_diffusion.sampling import BrownianTreeNoiseSampler, default_noise_sampler
from torch import Tensor

from .compat import sampler_function, takes_noise_sampler

# One draws the noise under the mask for the whole batch at once, one takes its step size from all of it.
_ALONE = {"ddim", "dpm_adaptive"}
HIGHEST_SEED = 2**64 - 2  # the host adds 1 to it


def start_noise(latents: Sequence[Tensor], seeds: Sequence[int]) -> Tensor:
    """Return the noise that the host would start each latent (1, C, …) from, as a batch;
    no global generator is used.
    """
    drawn = [
        torch.randn(latent.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
        for latent, seed in zip(latents, seeds, strict=True)
    ]
    return torch.cat(drawn)


def can_batch(sampler_name: str) -> bool:
    """Return whether a sampler gives each entry of a batch the same result as alone.

    Samplers of other packs count as no.
    """
    function = sampler_function(sampler_name)
    return getattr(function, "__module__", "").startswith("comfy.") and sampler_name not in _ALONE


def segment_sampler(
    sampler_name: str, seeds: Sequence[int], sigmas: Tensor, shape: Sequence[int], device: torch.device
) -> Any:
    """Return the host's sampler, drawing the noise of every entry of a batch of that
    shape from its own seed.
    """
    sampler = comfy.samplers.sampler_object(sampler_name)
    function = sampler_function(sampler_name)
    if function is None or not takes_noise_sampler(function):
        return sampler
    noise = _SegmentNoise(sampler_name, seeds, sigmas, torch.empty((1, *shape[1:]), device=device))
    return comfy.samplers.KSAMPLER(
        function, {**sampler.extra_options, "noise_sampler": noise}, sampler.inpaint_options
    )


class _SegmentNoise:
    """The noise sampler between two steps; made at its first call, like the host's own."""

    def __init__(self, sampler_name: str, seeds: Sequence[int], sigmas: Tensor, like: Tensor) -> None:
        self._name, self._seeds, self._sigmas, self._like = sampler_name, seeds, sigmas, like

    def __call__(self, sigma: Tensor, sigma_next: Tensor) -> Tensor:
        return torch.cat([draw(sigma, sigma_next) for draw in self._draws])

    @cached_property
    def _draws(self) -> list[Callable[[Tensor, Tensor], Tensor]]:
        return [self._draw(seed) for seed in self._seeds]

    def _draw(self, seed: int) -> Callable[[Tensor, Tensor], Tensor]:
        if self._name.startswith("dpmpp_") and "sde" in self._name:
            least, most = self._sigmas[self._sigmas > 0].min(), self._sigmas.max()
            on_cpu = not self._name.endswith("_gpu")
            return BrownianTreeNoiseSampler(self._like, least, most, seed=seed, cpu=on_cpu)
        return default_noise_sampler(self._like, seed=min(seed, HIGHEST_SEED))
