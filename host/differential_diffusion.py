"""Differential diffusion: each pixel is repainted from the noise level on that its soft mask asks for.

Source: Levin and Fried, "Differential Diffusion: Giving Each Pixel Its Strength" (arXiv 2306.00950).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

MASK_FUNCTION = "denoise_mask_function"  # in a model's options, the host's name


def with_soft_masks(model: Any) -> Any:
    """Return a copy of the model that takes soft masks as strengths; the model itself where it already has a way with them."""
    if MASK_FUNCTION in model.model_options:
        return model
    copy = model.clone()
    copy.set_model_denoise_mask_function(open_mask)
    return copy


def open_mask(sigma: Tensor, denoise_mask: Tensor, extra_options: dict[str, Any]) -> Tensor:
    """Return which pixels are repainted at `sigma`: 1 where the mask is at least the share of the run that is left, else 0."""
    sampling = extra_options["model"].inner_model.model_sampling
    sigmas = extra_options["sigmas"]
    first, last, now = (
        sampling.timestep(level)
        for level in (
            sigmas[0],
            torch.maximum(sigmas[-1], torch.as_tensor(sampling.sigma_min).to(sigmas)),
            sigma[0],
        )
    )
    left = (now - last) / (first - last)
    return (denoise_mask >= left).to(denoise_mask)
