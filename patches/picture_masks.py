"""Masks of a conditioning: one for each image of a batch and the last one for all further images, as in the face's attention.

The host repeats the masks of a conditioning from the first one on, and only if their number divides the batch size: three
images with two masks fail, and four get them in another order than the attention. A node does not know the batch size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attention.token_mask import for_pictures


class PictureMasks(Tensor):
    """Masks (M, H, W) of which `masks[:B]`, as the host takes them, are B ordinary ones."""

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        pictures = _first(args[1]) if func is Tensor.__getitem__ else None
        if pictures is None:
            return super().__torch_function__(func, types, args, kwargs or {})
        return for_pictures(args[0].as_subclass(Tensor), pictures)


def _first(index: Any) -> int | None:
    """Return B of an index `[:B]`, None of any other."""
    is_slice = isinstance(index, slice) and index.start is None and index.step is None
    return index.stop if is_slice and isinstance(index.stop, int) and index.stop > 0 else None


def mask_of_prompt(faces: Sequence[Tensor]) -> PictureMasks:
    """Return the region of a prompt, (M, H, W): the union of the masks (M, H, W) of its faces.

    In an image without a face, the prompt applies everywhere.
    """
    pictures, size = max(map(len, faces)), faces[0].shape[-2:]
    fitted = [F.interpolate(mask.unsqueeze(1), size=size, mode="bilinear").squeeze(1) for mask in faces]
    allowed = torch.stack([for_pictures(mask, pictures) for mask in fitted]).amax(0)
    allowed = torch.where(have_a_face(allowed)[:, None, None], allowed, torch.ones_like(allowed))
    return allowed.as_subclass(PictureMasks)


def have_a_face(masks: Tensor) -> Tensor:
    """Return for each image (M,) whether its mask (M, H, W) allows a face."""
    return masks.flatten(1).any(1)
