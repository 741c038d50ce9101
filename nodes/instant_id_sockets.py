"""Sockets that the InstantID nodes share."""

from __future__ import annotations

from comfy_api.latest import io

from ..attention.instant_id import COMBINATIONS
from ..host.faces import ERROR, PASS_THROUGH
from .face_sockets import FaceAnalysis, face_index_socket, which_face_socket

InstantIDSocket = io.Custom("INSTANTID")
FaceEmbedsSocket = io.Custom("FACE_EMBEDS")


def instant_id_socket() -> io.Input:
    """Return the socket of an InstantID model."""
    return InstantIDSocket.Input(
        "instantid", tooltip="From Load InstantID Model, or the original pack's loader."
    )


def analysis_socket() -> io.Input:
    """Return the socket of the face analysis."""
    return FaceAnalysis.Input(
        "insightface", tooltip="From Face Analysis, or another pack's insightface loader."
    )


def reference_socket() -> io.Image.Input:
    """Return the images of the person."""
    return io.Image.Input(
        "image",
        tooltip="One or more images of one person, with the whole head visible. Several images are "
        "combined: see combine_embeds.",
    )


def control_net_socket() -> io.ControlNet.Input:
    """Return InstantID's own ControlNet."""
    return io.ControlNet.Input(
        "control_net",
        tooltip="InstantID's own ControlNet, from Load ControlNet Model. It controls the pose of the face.",
    )


def sdxl_socket() -> io.Model.Input:
    """Return the model that gets the face."""
    return io.Model.Input(
        "model", tooltip="An SDXL model, with or without other patches, such as other faces and IPAdapter."
    )


def conditioning_sockets() -> tuple[io.Conditioning.Input, io.Conditioning.Input]:
    """Return both conditionings, which get the ControlNet."""
    return (
        io.Conditioning.Input(
            "positive", tooltip="The prompt. ControlNets that are already on it stay active."
        ),
        io.Conditioning.Input(
            "negative", tooltip="The negative prompt. It gets the ControlNet too, without the face."
        ),
    )


def strength_socket(
    name: str, default: float, limits: tuple[float, float], tooltip: str, optional: bool = False
) -> io.Float.Input:
    """Return a weight between two limits; if optional, it is an advanced input."""
    low, high = limits
    return io.Float.Input(
        name,
        default=default,
        min=low,
        max=high,
        step=0.01,
        optional=optional,
        advanced=optional,
        tooltip=tooltip,
    )


def window_sockets() -> tuple[io.Float.Input, io.Float.Input]:
    """Return the start and end of a face."""

    def moment(name: str, default: float, tooltip: str) -> io.Float.Input:
        return io.Float.Input(
            name, default=default, min=0.0, max=1.0, step=0.001, advanced=True, tooltip=tooltip
        )

    return (
        moment("start_at", 0.0, "Start, as a share of sampling, inclusive. 0 is the first step."),
        moment(
            "end_at",
            1.0,
            "End, as a share of sampling, inclusive. 1 is the last step; 0.8 leaves the details to the "
            "prompt.",
        ),
    )


def noise_socket(default: float, optional: bool = False) -> io.Float.Input:
    """Return the noise that replaces the negative's empty face."""
    return io.Float.Input(
        "noise",
        default=default,
        min=0.0,
        max=1.0,
        step=0.05,
        optional=optional,
        advanced=True,
        tooltip="Noise that replaces the empty face in the negative conditioning. 0.35 helps against burnt "
        "images; 0 adds none. The same face always gets the same noise.",
    )


def mask_socket(tooltip: str) -> io.Mask.Input:
    """Return the region of the face."""
    return io.Mask.Input("mask", optional=True, tooltip=tooltip)


def keypoints_socket(tooltip: str, optional: bool = False) -> io.Image.Input:
    """Return the image that the ControlNet follows."""
    return io.Image.Input("image_kps", optional=optional, tooltip=tooltip)


def reading_sockets() -> list[io.Input]:
    """Return how faces are chosen and combined from the reference images."""
    return [
        io.Combo.Input(
            "combine_embeds",
            options=list(COMBINATIONS),
            optional=True,
            advanced=True,
            tooltip="How several reference images are combined. average is usual; norm average first "
            "normalises each value over the images; concat gives the model every face and is slightly "
            "slower. No effect on a single image.",
        ),
        which_face_socket(),
        face_index_socket(),
        io.Combo.Input(
            "on_no_face",
            options=[ERROR, PASS_THROUGH],
            optional=True,
            advanced=True,
            tooltip="What to do if a reference image has no face. error: stop with an error that lists it. "
            "pass through: skip that image; if no image has a face, nothing is changed.",
        ),
    ]


def middle_block_socket() -> io.Boolean.Input:
    """Return whether the middle block sees the face."""
    return io.Boolean.Input(
        "middle_block",
        default=True,
        optional=True,
        advanced=True,
        tooltip="On: all 70 cross-attention layers see the face, as in training. Off: the 10 of the middle "
        "block do not, as in the original Apply InstantID.",
    )
