"""Which entries of a conditioning cover the image, by name, and which do not.

A test reads the names from the host's models and nodes, and fails if one is in neither list.
"""

from __future__ import annotations

from collections.abc import Mapping
from logging import WARNING
from typing import Any

from torch import Tensor

from .canvas import Grid
from .log import log_once

# Tensors (B, …, h, w), or lists of them. Height and width are cut, and a time stays.
SPATIAL: Mapping[str, Grid] = {
    "camera_conditions": Grid.PIXEL,
    "concat_image": Grid.LATENT,
    "concat_latent_image": Grid.LATENT,
    "concat_mask": Grid.EITHER,  # inpainting: in pixels; videos: in latent pixels
    "condition": Grid.LATENT,
    "control_video": Grid.LATENT,
    "driving_mask_28ch": Grid.OWN,  # as the pose, half the latent's size
    "lq_latent": Grid.OWN,  # of a model in pixels, whose own latent is larger
    "noise_concat": Grid.LATENT,
    "pose_video_latent": Grid.OWN,  # the latent's size, or half of it
    "ref_latent": Grid.LATENT,
    "ref_mask_28ch": Grid.LATENT,
    "reference_motion": Grid.LATENT,
    "stable_cascade_prior": Grid.OWN,  # of the first stage, which has fewer latent pixels
    "time_dim_replace": Grid.LATENT,
    "vace_frames": Grid.LATENT,
    "vace_mask": Grid.LATENT,
}

# Cut as well, each in its own way: see crop_conditioning.py and reference_latents.py.
OWN_WAY = frozenset(
    {"mask", "area", "gligen", "control", "set_area_to_bounds", "context_latents", "reference_latents"}
)

ROWS = frozenset({"pooled_output"})  # (B, …), a row for each frame, as the text itself

# Spatial, but in coordinates of tokens, or shapes that must fit the whole latent: they pass with a warning.
UNCUT = frozenset(
    {"guide_attention_entries", "keyframe_idxs", "minimax_keyframes", "minimax_refs", "time_dim_concat"}
)

NOT_SPATIAL = frozenset(
    {
        *ROWS,
        "audio_embed", "clip_vision_output", "clip_vision_output_ref", "clip_vision_outputs", "conditioning_llama3",
        "conditioning_lyrics", "face_video_pixels", "reference_audio_timbre_latents",
        "reference_latents_text_embeds", "unclip_conditioning",
    }
)  # fmt: skip


def warn_of_unknown(options: Mapping[str, Any]) -> None:
    """Log each entry that may cover the image and is not cropped, once per queued prompt."""
    known = {*SPATIAL, *OWN_WAY, *NOT_SPATIAL}
    for name, value in options.items():
        if name in UNCUT or (name not in known and holds_field(value)):
            text = "positive, negative: %s is not cropped; every segment gets all of it."
            log_once(text, name, level=WARNING)


def holds_field(value: Any) -> bool:
    """Return whether a value is or contains a tensor of four dimensions or more."""
    if isinstance(value, Tensor):
        return value.dim() >= 4
    if isinstance(value, Mapping):
        return any(map(holds_field, value.values()))
    return isinstance(value, (list, tuple)) and any(map(holds_field, value))
