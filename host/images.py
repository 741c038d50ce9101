"""Checks of the host's images and masks."""

from __future__ import annotations

from torch import Tensor

from ..errors import bad_input


def check_pixels(tensor: Tensor, dimensions: int = 4, socket: str = "image", kind: str = "images") -> None:
    """Check that images (B, H, W, C), or masks (F, H, W), have at least one pixel.

    Raises:
        ValueError: when it has no pixel or another number of dimensions.
    """
    if tensor.dim() != dimensions or not tensor.numel():
        shape = "x".join(str(length) for length in tensor.shape)
        raise bad_input(
            socket, f"{kind} of at least 1x1 pixels", f"a tensor of {shape}", "Check the node that made it."
        )
