"""From images of a person to InstantID's inputs: tokens, keys and values, and an image of keypoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from ..attention.instant_id import combine_embeddings, negative_embedding
from ..errors import bad_input
from ..faces.choose import WHICH, choose_face
from ..faces.draw import draw_keypoints
from ..faces.face import Face
from ..scaling.size import Size
from .faces import ERROR, choose_faces, faces_in, without_face
from .images import check_pixels, masks_of
from .instant_id import InstantIDModel

DARK = 0.1  # of a pixel's brightest channel
MOST_DRAWN = 0.5  # share of an image that keypoints and the lines between them may cover

Tokens = tuple[Tensor, Tensor]  # of a face by R references and of none, (R, T, D) each


def reference_faces(
    analysis: Any, image: Tensor, which_face: str = WHICH[0], face_index: int = 0, on_no_face: str = ERROR
) -> tuple[list[Face | None], list[str]]:
    """Return the chosen face of each reference image (F, H, W, C), None if there is no such face; and a
    notice for each guess and omission.

    Raises:
        ValueError: when an image has no such face and `on_no_face` is ERROR.
    """
    found = faces_in(analysis, image, "insightface")
    chosen = choose_faces(found, _size(image), which_face, face_index, on_no_face)
    texts = without_face(found, chosen, "InstantID skips them.")
    most = max(len(faces) for faces in found)
    if most > 1 and which_face == WHICH[0]:
        texts.append(
            f"InstantID: a reference image shows {most} faces; the largest is used. Set which_face to choose another."
        )
    return [faces[0] if faces else None for faces in chosen], texts


def _size(image: Tensor) -> Size:
    return image.shape[1], image.shape[2]


def face_tokens(
    instantid: InstantIDModel, faces: Sequence[Face | None], combine: str, noise: float
) -> Tokens:
    """Return the tokens of one person from the detected faces, of which there is at least one."""
    embeddings = torch.stack([torch.as_tensor(face.embedding).float() for face in faces if face is not None])
    embeddings = combine_embeddings(embeddings, combine)
    place = comfy.model_management.intermediate_device()
    of_none = negative_embedding(embeddings, noise)
    return instantid.tokens(embeddings).to(place), instantid.tokens(of_none).to(place)


def embeds_of(tokens: Tokens) -> dict[str, Tensor]:
    """Return tokens as FACE_EMBEDS, as the original nodes do."""
    return dict(zip(("cond", "uncond"), tokens, strict=True))


def tokens_of(face_embeds: Any) -> Tokens:
    """Return the tokens in FACE_EMBEDS.

    Raises:
        ValueError: when they are not FACE_EMBEDS.
    """
    found = (face_embeds.get("cond"), face_embeds.get("uncond")) if isinstance(face_embeds, dict) else ()
    tokens = [each for each in found if isinstance(each, Tensor) and each.dim() == 3]
    if len(tokens) != 2:
        got = type(face_embeds).__name__
        raise bad_input(
            "face_embeds", "FACE_EMBEDS of an InstantID node", got, "Connect InstantID Attention."
        )
    return tokens[0], tokens[1]


def as_masks(mask: Tensor | None) -> Tensor | None:
    """Return a MASK, (H, W) or (M, H, W), as (M, H, W)."""
    return None if mask is None else masks_of(mask)


def undrawn(keypoints: Tensor) -> list[str]:
    """Return a notice if some keypoints (F, H, W, 3) are not drawn ones,
    which are black around the face; else none.

    A bypassed Face Keypoints passes the photograph through, and one that finds no face returns black images.
    """
    bright = (keypoints[..., :3].amax(dim=-1) > DARK).float().mean(dim=(1, 2))  # (F,)
    if bool((bright > MOST_DRAWN).any()):
        got, hint = (
            "another image, which the ControlNet would follow",
            "Connect Face Keypoints and do not bypass it.",
        )
    elif bool((bright == 0).any()):
        some = "" if not bool(bright.any()) else f" in {int((bright == 0).sum())} of {len(bright)}"
        got, hint = f"black{some}, which has no pose to follow", "Choose an image that shows a face."
    else:
        return []
    return [f"image_kps: expected keypoints on black, got {got}. {hint}"]


def keypoints_for(
    analysis: Any, image_kps: Tensor | None, image: Tensor, faces: Sequence[Face | None]
) -> Tensor:
    """Return the keypoints (F, H, W, 3) that the ControlNet follows.

    They are those of the largest face of each `image_kps`; if none of these shows a face, they are treated as
    drawn keypoints. Without `image_kps` they are those of the first reference with a face.
    """
    if image_kps is None:
        first = next(face for face in faces if face is not None)
        return draw_keypoints([first], _size(image)).unsqueeze(0)
    check_pixels(image_kps, "image_kps")
    size = _size(image_kps)
    largest = [choose_face(found, size, WHICH[0]) for found in faces_in(analysis, image_kps, "insightface")]
    if not any(largest):
        return image_kps
    return torch.stack([draw_keypoints([face] if face else [], size) for face in largest])
