"""The codecs that videos are written with: their encoders, files, pixel formats and usual qualities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from fractions import Fraction
from typing import Any

from ..errors import bad_input
from ..record import record
from .av_library import load_av
from .colour import LIMITED, PIXELS, RGB_MATRIX, Colour, Pixels
from .frame import VideoFormat


@record
class Codec:
    """A codec as this pack writes it.

    Attributes:
        encoders: FFmpeg's names, the best first.
        suffix: of its files.
        pixels: names of the pixel formats by bits.
        quality_option: the encoder's name for quality; empty if it has none (lossless).
        quality: the encoder's usual default. A smaller number gives a better image and a larger file; for
            prores, where it is the profile, a larger number does.
        worst: the largest number that the encoder accepts.
        options: further ones.
        bits_per_pixel: of a file at the usual quality, a high estimate.
        plays: whether browsers play it.
        left: whether shared colours lie on the left column of their block, as decoders assume; see
            `colour.to_planes`.
    """

    encoders: tuple[str, ...]
    suffix: str
    pixels: Mapping[int, str]
    quality_option: str = "crf"
    quality: int = 0
    worst: int = 51
    options: Mapping[str, str] = field(default_factory=dict[str, str])
    bits_per_pixel: float = 0.3
    plays: bool = True
    left: bool = False


_YUV420 = {8: "yuv420p", 10: "yuv420p10le"}
CODECS = {
    "h264": Codec(("libx264",), ".mp4", _YUV420, quality=23, left=True),
    "h265": Codec(("libx265",), ".mp4", _YUV420, quality=28, left=True, options={"x265-params": "log-level=error"}),
    "vp9": Codec(
        ("libvpx-vp9",), ".webm", _YUV420, quality=32, worst=63, options={"b": "0", "row-mt": "1", "cpu-used": "4"}
    ),
    "av1": Codec(
        ("libsvtav1", "libaom-av1"), ".mp4", _YUV420, quality=35, worst=63
    ),
    "prores": Codec(
        ("prores_ks",), ".mov", {8: "yuv422p10le", 10: "yuv422p10le"}, "profile", 2, 4,
        bits_per_pixel=6.0, plays=False,
    ),
    "ffv1": Codec(
        ("ffv1",), ".mkv", {8: "bgr0", 10: "gbrp10le"}, "", options={"level": "3", "slicecrc": "1"},
        bits_per_pixel=18.0, plays=False,
    ),
}  # fmt: skip
FASTEST_RATE = 100_000  # the largest denominator of a frame rate that every encoder takes


@record
class Encoding:
    """The settings of an encoder.

    Attributes:
        encoder: FFmpeg's name.
        suffix: of the file.
        height, width: in pixels.
        rate: average frames per second.
        pixels, colour, aspect: those of the file.
        options: of the encoder.
        left: see `Codec`.
    """

    encoder: str
    suffix: str
    height: int
    width: int
    rate: Fraction
    pixels: Pixels
    colour: Colour
    aspect: Fraction
    options: Mapping[str, str]
    left: bool = False


def choose_encoding(
    name: str, quality: int, form: VideoFormat, height: int, width: int, notes: list[str]
) -> Encoding:
    """Return the encoding for frames of `height` and `width` from a video of `form`.

    Args:
        name: a key of `CODECS`.
        quality: the encoder's own number; -1 is its usual default.
        notes: gets a text for each property that cannot be kept.

    Raises:
        ValueError: when no such encoder is installed, or the quality is out of its range.
    """
    codec = CODECS[name]
    encoder = next((encoder for encoder in codec.encoders if _is_installed(encoder)), None)
    if encoder is None:
        raise bad_input(
            "codec",
            "a codec that the installed av package can write",
            f"{name} without an encoder",
            "Choose another codec.",
        )
    bits = 10 if form.bits > 8 else 8
    if codec.pixels[bits] not in _formats(encoder):
        notes.append(f"{encoder} writes 8 bits here, the source has {form.bits}. h265 and av1 keep 10.")
        bits = 8
    pixels = PIXELS[codec.pixels[bits]]
    if form.bits > pixels.bits and bits == 10:
        notes.append(f"The source has {form.bits} bits; 10 are written.")
    colour = form.colour.for_result(form.height)
    if name == "prores":
        colour = replace(colour, range=LIMITED)
    if pixels.shrink is None:
        colour = replace(colour, matrix=RGB_MATRIX, range=2)
    rate = form.rate.limit_denominator(FASTEST_RATE)
    options = {**codec.options, **_quality(name, codec, quality)}
    return Encoding(
        encoder, codec.suffix, height, width, rate, pixels, colour, form.aspect, options, codec.left
    )


def _quality(name: str, codec: Codec, quality: int) -> dict[str, str]:
    if not codec.quality_option:
        if quality > 0:
            raise bad_input(
                "quality", f"-1 for {name}, which is lossless", quality, "Set -1, or choose another codec."
            )
        return {}
    if quality > codec.worst:
        raise bad_input(
            "quality", f"-1 to {codec.worst} for {name}", quality, f"The default is {codec.quality}."
        )
    return {codec.quality_option: str(codec.quality if quality < 0 else quality)}


def fitting_size(name: str, height: int, width: int) -> tuple[int, int]:
    """Return the nearest size, not smaller, that the codec's pixels can have:
    even if pixels share colours.
    """
    shrink = PIXELS[CODECS[name].pixels[8]].shrink or (1, 1)
    return height + height % shrink[0], width + width % shrink[1]


def _is_installed(encoder: str) -> bool:
    av = load_av()

    try:
        av.Codec(encoder, "w")
    except av.error.FFmpegError:
        return False
    except ValueError:  # av's error for an unknown name
        return False
    return True


def _formats(encoder: str) -> set[str]:
    formats: list[Any] = load_av().Codec(encoder, "w").video_formats or []
    return {pixels.name for pixels in formats}
