"""Sample a model in this process as the KSampler node does, for tests and benchmarks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .tiny.random_models import TOKENS, conditioning


def sample(
    model: Any,
    size: tuple[int, int] = (32, 24),
    *,
    batch: int = 1,
    steps: int = 2,
    cfg: float = 7.0,
    seed: int = 0,
    sampler: str = "euler",
    scheduler: str = "normal",
    denoise: float = 1.0,
    positive: Any = None,
    negative: Any = None,
    latent: Tensor | None = None,
    noise: Tensor | None = None,
    sigmas: Tensor | None = None,
    tokens: int = TOKENS,
) -> Tensor:
    """Return the sampled latent (B, 4, *size). Deterministic in its arguments; `size` is (height, width).

    Without `noise`, it is drawn from `seed`; without a text, one of `tokens` is.
    """
    import comfy.sample

    if latent is None:
        latent = torch.zeros(batch, 4, *size)
    if noise is None:
        noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():  # as the host's executor does around every node
        return comfy.sample.sample(
            model, noise, steps, cfg, sampler, scheduler,
            conditioning(model, 1, tokens) if positive is None else positive,
            conditioning(model, 2, tokens) if negative is None else negative,
            latent, denoise=denoise, disable_pbar=True, seed=seed, sigmas=sigmas,
        )  # fmt: skip
