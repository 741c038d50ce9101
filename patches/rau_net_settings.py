"""The settings of RAU-Net, and recipes that choose them for a model call."""

from __future__ import annotations

from typing import Literal, Protocol

from ..errors import bad_input
from ..record import record
from .executed_steps import schedule_in
from .model_call import ModelCall
from .schedule import Schedule, Unit
from .topology import Blocks

Pool = Literal["avg_pool2d", "adaptive_avg_pool2d"]
# The original rounds sigmas so: this decides whether a step exactly at an end is on.
SIGMA_DECIMALS = 4


@record
class RAUNet:
    """The settings of one RAU-Net; the names are those of the node's sockets.

    Empty input blocks turn a pair off, whatever its output blocks are; empty output blocks are filled in.

    Raises:
        ValueError: when a factor is invalid, or the fade starts after the end.
    """

    input_blocks: Blocks = (3,)
    output_blocks: Blocks = (8,)
    time_mode: Unit = "percent"
    start_time: float = 0.0
    end_time: float = 0.45
    upscale_mode: str = "bicubic"
    ca_start_time: float = 0.0
    ca_end_time: float = 0.3
    ca_input_blocks: Blocks = (4,)
    ca_output_blocks: Blocks = (8,)
    ca_upscale_mode: str = "bicubic"
    ca_downscale_mode: str = "adaptive_avg_pool2d"
    ca_downscale_factor: float = 2.0
    two_stage_upscale_mode: str = "disabled"
    ca_input_after_skip_mode: bool = False
    ca_fadeout_start_time: float | None = None
    ca_fadeout_cap: float = 0.0
    ca_downscale_factor_w: float | None = None
    ca_latent_pixel_increment: int = 8
    ca_avg_pool2d_ceil_mode: bool = True
    pre_upscale_multiplier: float = 1.0
    post_upscale_multiplier: float = 1.0
    pre_downscale_multiplier: float = 1.0
    post_downscale_multiplier: float = 1.0
    ca_pre_upscale_multiplier: float = 1.0
    ca_post_upscale_multiplier: float = 1.0
    ca_pre_downscale_multiplier: float = 1.0
    ca_post_downscale_multiplier: float = 1.0

    def __post_init__(self) -> None:
        for socket, factor in zip(
            ("ca_downscale_factor", "ca_downscale_factor_w"), self.factors, strict=True
        ):
            if factor <= 0:
                raise bad_input(socket, "a number above 0", f"{factor:g}", "2 halves the features.")
            if self.ca_downscale_mode == "avg_pool2d" and factor != int(factor):
                whole = "a whole number for ca_downscale_mode avg_pool2d"
                raise bad_input(socket, whole, f"{factor:g}", "Use adaptive_avg_pool2d for other factors.")
        fade = self.ca_fadeout_start_time
        if fade is not None and not self._span(fade, self.ca_end_time).is_ordered:
            before_end = f"a time before ca_end_time ({self.ca_end_time:g})"
            hint = "The fade-out runs from here to ca_end_time."
            raise bad_input("ca_fadeout_start_time", before_end, f"{fade:g}", hint)

    @property
    def factors(self) -> tuple[float, float]:
        """The factors (height, width) of the CA pair."""
        width = self.ca_downscale_factor_w
        return self.ca_downscale_factor, self.ca_downscale_factor if width is None else width

    @property
    def schedule(self) -> Schedule:
        """When the Downsample pair is on."""
        return self._span(self.start_time, self.end_time)

    @property
    def ca_schedule(self) -> Schedule:
        """When the CA pair is on, at any strength."""
        return self._span(self.ca_start_time, self.ca_end_time)

    def _span(self, start: float, end: float, fade: float = 0.0) -> Schedule:
        return schedule_in(self.time_mode, start, end, fade, SIGMA_DECIMALS)

    def ca_strength(self, call: ModelCall) -> float:
        """Return the strength of the CA pair, 0 to 1."""
        strength = call.strength(self.ca_schedule)
        if not strength or self.ca_fadeout_start_time is None:
            return strength
        length = abs(self.ca_end_time - self.ca_fadeout_start_time)
        fading = self._span(self.ca_start_time, self.ca_fadeout_start_time, length)
        return max(call.strength(fading), self.ca_fadeout_cap)


class Recipe(Protocol):
    """Chooses the settings for a model call. Frozen, because clones of a model share it."""

    def settings(self, call: ModelCall) -> RAUNet | None:
        """Return the settings, or None for none at this size."""
        ...


@record
class Fixed:
    """The same settings at every size."""

    chosen: RAUNet

    def settings(self, call: ModelCall) -> RAUNet | None:
        """Return them."""
        return self.chosen
