"""Checks of the inputs of nodes: images, masks, latents and noise levels.

A wrong one raises an error with a message.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..errors import bad_input
from ..scaling.size import Size

CHECK = "Check the node that made it."


def check_pixels(image: Any, socket: str = "image") -> None:
    """Check that an IMAGE (B, H, W, C) has at least one pixel.

    Raises:
        ValueError: when it has no pixel, another number of dimensions, or values that are not floats.
    """
    if not isinstance(image, Tensor) or image.dim() != 4 or not image.numel():
        raise bad_input(socket, "images of at least 1x1 pixels", _described(image), CHECK)
    if not image.is_floating_point():
        raise bad_input(socket, "images of numbers from 0 to 1", f"{image.dtype}", CHECK)


def masks_of(mask: Any, socket: str = "mask") -> Tensor:
    """Return a MASK (…, H, W) as floats (F, H, W).

    Raises:
        ValueError: when it has no pixel, or fewer than two dimensions.
    """
    if not isinstance(mask, Tensor) or mask.dim() < 2 or not mask.numel():
        raise bad_input(socket, "masks of at least 1x1 pixels", _described(mask), CHECK)
    return mask.reshape(-1, *mask.shape[-2:]).float()


def latent_size(latent: Any, socket: str) -> Size:
    """Return (height, width) of a LATENT.

    Raises:
        ValueError: when it is something else, or empty.
    """
    samples = latent.get("samples") if isinstance(latent, dict) else None
    if not isinstance(samples, Tensor) or samples.dim() < 4 or not samples.numel():
        raise bad_input(socket, "a latent of at least 1x1", _described(samples), CHECK)
    return samples.shape[-2], samples.shape[-1]


def check_levels(sigmas: Any, socket: str = "sigmas") -> None:
    """Check that SIGMAS (steps + 1,) are noise levels of at least one step.

    Raises:
        ValueError: when they are not, or when some are not finite.
    """
    expected = "at least 2 noise levels"
    if not isinstance(sigmas, Tensor) or sigmas.dim() != 1:
        raise bad_input(socket, expected, _described(sigmas), "Connect a scheduler node.")
    if len(sigmas) < 2:
        hint = "A single step needs two noise levels, its start and its end."
        raise bad_input(socket, expected, len(sigmas), hint)
    if not bool(sigmas.isfinite().all()):
        hint = "Choose another scheduler or more steps."
        raise bad_input(socket, expected, "some that are not finite", hint)


def _described(value: Any) -> str:
    if not isinstance(value, Tensor):
        return "nothing" if value is None else type(value).__name__
    return f"a tensor of {'x'.join(str(length) for length in value.shape) or 'one number'}"
