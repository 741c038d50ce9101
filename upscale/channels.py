"""Images with other channels than the network's: grey, RGB, and either with transparency.

An image is split into one or more for the network, and their enlargements are joined again. Transparency is
enlarged by the network as a separate grey image, so that its edges are as sharp as the rest, or is resampled.
Colours of fully transparent pixels are filled from visible pixels nearby, because a network mixes them into
the edge.

C channels of an image: 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA. T channels of the network.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import bad_input
from ..record import record
from ..scaling.colours import fill_transparent, rgb
from ..scaling.resample import resample
from ..scaling.size import Size

ALPHA = ("model", "resample", "drop")


@record
class Channels:
    """How images of `has` channels are enlarged by a network that takes `takes`.

    Attributes:
        alpha: "model" enlarges it with the network, "resample" with Lanczos, "drop" removes it.

    Raises:
        ValueError: when `has` is not 1 to 4, or `takes` is not 1, 3 or 4.
    """

    has: int
    takes: int
    alpha: str = "model"

    def __post_init__(self) -> None:
        if self.has not in (1, 2, 3, 4):
            expected, hint = (
                "1 to 4 channels (grey, RGB, with or without alpha)",
                "Convert it to RGB or RGBA first.",
            )
            raise bad_input("image", expected, self.has, hint)
        if self.takes not in (1, 3, 4):
            expected, got = "a model for images with 1, 3 or 4 channels", f"one for {self.takes}"
            raise bad_input("upscale_model", expected, got, "Choose another model.")

    @property
    def unchanged(self) -> bool:
        """Whether images need no conversion."""
        return self.has == self.takes and (self.has < 4 or self.alpha == "model")

    @property
    def result(self) -> int:
        """Channels of the result."""
        return self.colours if self.alpha == "drop" and self.has in (2, 4) else self.has

    @property
    def colours(self) -> int:
        """Channels without alpha."""
        return self.has - 1 if self.has in (2, 4) else self.has

    def split(self, picture: Tensor) -> Tensor:
        """Split (1, C, H, W) into the images for the network, (n, T, H, W)."""
        if self.unchanged:
            return picture
        if self.colours == self.has:
            return self._taken(picture)
        visible = fill_transparent(picture)
        parts = [self._taken(visible[:, : self.colours])]
        if self._through_model(picture):
            parts.append(self._taken(picture[:, self.colours :]))
        return torch.cat(parts)

    def join(self, enlarged: Tensor, picture: Tensor) -> Tensor:
        """Join the enlarged images of `split`, (n, T, h, w), to one: (1, C, h, w)."""
        if self.unchanged:
            return enlarged
        colours = self._given(enlarged)
        if self.result == self.colours:
            return colours
        if self._through_model(picture):
            alpha = enlarged[-1:, :3].mean(dim=1, keepdim=True)
        else:
            alpha = _resampled(picture[:, self.colours :], (enlarged.shape[-2], enlarged.shape[-1]))
        return torch.cat([colours, alpha.to(colours)], dim=1)

    def _through_model(self, picture: Tensor) -> bool:
        # All opaque stays all opaque: no need to ask the network.
        return self.alpha == "model" and bool((picture[:, self.colours :] < 1).any())

    def _taken(self, colours: Tensor) -> Tensor:
        _, channels, height, width = colours.shape
        if self.takes == 1:  # every colour as a grey image of its own
            return colours.reshape(channels, 1, height, width)
        colours = rgb(colours, 1)
        if self.takes == 4:
            colours = torch.cat([colours, torch.ones_like(colours[:, :1])], dim=1)
        return colours

    def _given(self, enlarged: Tensor) -> Tensor:
        if self.takes == 1:
            return enlarged[: self.colours].transpose(0, 1)
        colours = enlarged[:1, :3]
        return colours.mean(dim=1, keepdim=True) if self.colours == 1 else colours


def _resampled(alpha: Tensor, size: Size) -> Tensor:
    if bool((alpha == 1).all()):
        return alpha.new_ones((1, 1, *size))
    return resample(alpha, size).clamp(0, 1)
