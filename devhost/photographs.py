"""Photographs for measurements, from the wheel of scikit-image, and the PSNR.

`HELD_OUT` names those on which no model of this repository was trained. All three are free of copyright: the
astronaut is in the public domain (NASA), chelsea (a cat) and coffee are CC0.

Images are floats in [0, 1] of shape (B, C, H, W).
"""

from __future__ import annotations

import math
from importlib.resources import files

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

HELD_OUT = ("astronaut", "chelsea", "coffee")


def photograph(name: str) -> Tensor:
    """Return the bundled image ``name`` (no suffix), (1, 3, H, W); gray ones have three equal channels.

    Raises FileNotFoundError for an image that the wheel does not contain; nothing is downloaded.
    """
    folder = files("skimage") / "data"  # the files only: importing skimage.data takes most of a second
    for suffix in (".png", ".jpg"):
        file = folder / f"{name}{suffix}"
        if file.is_file():
            with file.open("rb") as stream:
                pixels = np.array(Image.open(stream).convert("RGB"))
            return torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous().float() / 255
    raise FileNotFoundError(f"expected the name of a picture bundled with scikit-image, got {name!r}")


def reduce_by(picture: Tensor, factor: int) -> Tensor:
    """Return ``image``, cut at the right and bottom to a multiple of ``factor``, that many times smaller.

    (B, C, H, W) -> (B, C, H // factor, W // factor), antialiased bicubic, clamped to [0, 1].
    """
    height, width = (side // factor for side in picture.shape[-2:])
    cut = picture[..., : height * factor, : width * factor]
    return F.interpolate(cut, (height, width), mode="bicubic", antialias=True).clamp(0, 1)


def psnr(a: Tensor, b: Tensor) -> float:
    """Return the peak signal-to-noise ratio over all pixels and channels in dB; infinite if equal."""
    error = (a.float() - b.float()).square().mean().item()
    return -10 * math.log10(error) if error else math.inf
