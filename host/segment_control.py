"""A segment's own ControlNet (`control_net_wrapper`), fitted to the crop that is sampled.

Other packs crop its hint to the segment's own region. The sampled crop is larger: it is extended to
`smallest_crop` and to the VAE's multiple.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor

from ..segs.crop import crop_resized
from ..segs.refine import Piece


def placed_control(control: Any, piece: Piece) -> Any:
    """Return a wrapper, and those before it, whose `control_image` (B, h, w, C) covers
    the crop instead of the region.

    Outside the region the edges of the hint are repeated. Anything that is not a hint over the region, such
    as the reference image of an IPAdapter, stays.
    """
    if control is None:
        return None
    hint, before = getattr(control, "control_image", None), getattr(control, "prev_control_net", None)
    if hint is None and before is None:
        return control
    placed = copy.copy(control)
    placed.prev_control_net = placed_control(before, piece)
    if isinstance(hint, Tensor) and hint.dim() == 4:
        placed.control_image = _placed(hint, piece)
    return placed


def _placed(hint: Tensor, piece: Piece) -> Tensor:
    region, frame = piece.cut.region, min(piece.frame, len(hint) - 1)
    field = hint[frame : frame + 1].movedim(-1, 1)
    return crop_resized(field, region.size, piece.cut.box.within(region)).movedim(1, -1)
