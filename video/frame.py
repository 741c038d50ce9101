"""The frames and the format of a video, for its readers and writers.

An image is (3, H, W) float32 in [0, 1], upright. Times count in the video's time base.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any, Protocol

from torch import Tensor

from ..record import record
from .colour import BT709_COLOUR, Colour

SQUARE = Fraction(1)
OPAQUE = "Transparency is removed."  # a fault of a reader


@record
class Frame:
    """One image and its time.

    Attributes:
        picture: (3, H, W) float32 in [0, 1].
        time, duration: in the video's time base.
    """

    picture: Tensor
    time: int
    duration: int


@record
class VideoFormat:
    """The properties that all frames of a video share.

    Attributes:
        height, width: of an upright frame in pixels.
        time_base: seconds of one unit of time.
        rate: average frames per second.
        bits: of one colour of one pixel.
        colour: the meaning of the numbers in the file as colours.
        aspect: width of a pixel divided by its height.
        frames: their expected number; 0 if the file does not contain it.
    """

    height: int
    width: int
    time_base: Fraction
    rate: Fraction
    bits: int = 8
    colour: Colour = BT709_COLOUR
    aspect: Fraction = SQUARE
    frames: int = 0

    @property
    def step(self) -> int:
        """Units of time of an average frame; at least 1."""
        return max(1, round(1 / (self.rate * self.time_base)))


class Reader(Protocol):
    """A source of frames: `FileReader`, `FolderReader` or `TensorReader`.

    Attributes:
        form: of the frames.
        identity: a text that is the same for the same frames.
        faults: notes for the user about unreadable parts; complete after the last frame.
        metadata: the file's tags.
    """

    form: VideoFormat
    identity: str
    faults: list[str]
    metadata: dict[str, str]

    def frames(self, skip: int = 0) -> Iterator[Frame]:
        """Yield the frames in order, without the first `skip`."""
        ...

    def sound(self) -> Any:
        """Return the `sound.Sound` that belongs to the frames, or None."""
        ...
