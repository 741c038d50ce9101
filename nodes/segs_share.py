"""The nodes that let several workers share the segments of a picture."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..errors import bad_input
from ..host.notice import nothing_to_do
from ..segs.choose import slice_segments
from ..segs.merge import merge_results
from ..segs.segment import read_shape
from .segs_sockets import CATEGORY, segs_socket


class MegapixelSEGSSlice(io.ComfyNode):
    """One worker's share of the segments."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MegapixelSEGSSlice",
            display_name="Slice SEGS (Megapixel)",
            category=CATEGORY,
            description=(
                "Gives one of several workers its share of the segments: every segment goes to exactly one, with about equal work for each. Seeds and shared "
                "edges stay as if one worker did all. Merge SEGS Results puts the pictures together."
            ),
            search_aliases=[
                "SEGS slice",
                "distributed upscale",
                "multi GPU",
                "ComfyUI-Distributed",
                "split segments",
            ],
            inputs=[
                segs_socket(),
                io.Int.Input(
                    "index", default=0, min=0, max=255, tooltip="Which worker this is, from 0 to count - 1."
                ),
                io.Int.Input(
                    "count",
                    default=2,
                    min=1,
                    max=256,
                    tooltip="How many workers share the picture. 1 gives all segments.",
                ),
                io.Boolean.Input(
                    "keep_together",
                    default=False,
                    tooltip="Segments that touch go to one worker: needed where overlaps is 'in order'. Off: the work is shared more evenly.",
                ),
            ],
            outputs=[io.SEGS.Output()],
        )

    @classmethod
    def execute(cls, segs, index, count, keep_together) -> io.NodeOutput:
        if index >= count:
            expected = f"0 to {count - 1} for {count} workers"
            raise bad_input("index", expected, index, "The first worker is 0.")
        size, segments = read_shape(segs)
        share = slice_segments(segments, index, count, keep_together)
        if share and count > 1:
            return io.NodeOutput((size, share))
        why = (
            "one worker has all segments"
            if share
            else f"worker {index} gets none of {len(segments)} segments"
        )
        return nothing_to_do(f"segs: nothing to do, {why}.", (size, share))


class MegapixelSEGSMerge(io.ComfyNode):
    """The workers' results in one picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MegapixelSEGSMerge",
            display_name="Merge SEGS Results (Megapixel)",
            category=CATEGORY,
            description=(
                "Puts together what several workers refined in copies of one picture, each its own slice of the segments. The result has the same bits "
                "as one worker's, also where segments of different workers overlap."
            ),
            search_aliases=["SEGS merge", "distributed upscale", "combine workers", "ComfyUI-Distributed"],
            inputs=[
                io.Image.Input(
                    "image",
                    tooltip="The picture that all workers began with: already enlarged, with no segment refined.",
                ),
                io.Image.Input(
                    "results",
                    tooltip="The workers' pictures as one batch: all frames of the first, then of the second, and so on.",
                ),
                io.Float.Input(
                    "tolerance",
                    default=0.0,
                    min=0.0,
                    max=0.1,
                    step=0.001,
                    round=False,
                    optional=True,
                    advanced=True,
                    tooltip="Differences to image up to this are taken as none: 0.002 where workers send pictures of 8 bits. 0 is exact.",
                ),
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, image, results, tolerance=0.0) -> io.NodeOutput:
        frames = len(image)
        if results.shape[1:] != image.shape[1:] or len(results) % frames:
            raise bad_input(
                "results",
                f"pictures of {_shape(image)} in multiples of {frames}",
                f"{len(results)} of {_shape(results)}",
                "Connect the workers' pictures, and as image the enlarged picture that they began with.",
            )
        merged = [
            merge_results(image[frame], list(results[frame::frames]), tolerance) for frame in range(frames)
        ]
        result = torch.stack(merged)
        if not torch.equal(result, image):
            return io.NodeOutput(result)
        return nothing_to_do("results: nothing to do, no worker has changed a pixel of image.", result)


def _shape(image: torch.Tensor) -> str:
    return f"{image.shape[2]}x{image.shape[1]} with {image.shape[3]} channels"
