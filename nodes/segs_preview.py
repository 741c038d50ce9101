"""The node that draws segments."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..host.notice import logged, pictures_with_notices
from ..segs.picture import BACKDROP, LEAST, draw_segments
from ..segs.segment import read_shape
from .segs_sockets import CATEGORY, segs_socket


class MegapixelSEGSPreview(io.ComfyNode):
    """Numbered boxes and masks over the image."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MegapixelSEGSPreview",
            display_name="Preview SEGS (Megapixel)",
            category=CATEGORY,
            description=(
                "Draws segments over their image: masks in colour, detected boxes with thick lines, crops "
                "with thin lines, with number, label and confidence. The numbers give the order in which "
                "segments get their seeds and are refined."
            ),
            search_aliases=["SEGSPreview", "SEGS preview", "show segments", "segment boxes"],
            inputs=[
                segs_socket(),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The image; one of another size is resized to fit. If empty, segments are drawn "
                    "on grey.",
                ),
            ],
            outputs=[io.Image.Output(tooltip="The drawing, one image for each frame.")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, segs, image=None) -> io.NodeOutput:
        size, segments = read_shape(segs)
        backdrop = size if min(size) > 0 else (LEAST, LEAST)  # of segments found in no image
        frames = torch.full((1, *backdrop, 3), BACKDROP) if image is None else image
        drawn: list[torch.Tensor] = []
        for frame, picture in enumerate(frames):
            own = {n: entry for n, entry in enumerate(segments) if getattr(entry, "frame", frame) == frame}
            drawn.append(draw_segments(picture, size, own, frame, len(frames)))
        result = torch.stack(drawn)
        texts = [] if segments else ["segs: nothing to do, there is no segment to draw."]
        return pictures_with_notices(logged(texts), result, cls)
