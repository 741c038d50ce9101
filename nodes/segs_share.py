"""The nodes that let several workers share the segments of an image."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..errors import bad_input
from ..host.compat import SHOWN_AGAIN
from ..host.distributed import worker_slice
from ..host.images import check_pixels
from ..host.missing_segs import NOTHING, POLICIES, REFINE, missing_segs
from ..host.notice import logged, nothing_to_do, with_notices
from ..segs.carrier import carry_bytes
from ..segs.choose import slice_segments
from ..segs.merge import has_eight_bits, merge_arrived, merge_by_values, missing_in, read_results, shape_of
from ..segs.segment import read_segments, read_shape
from ..segs.share import contents_of, pack_share, unchanged_numbers
from .segs_sockets import CATEGORY, segs_socket

BY_HAND = "by hand"
WORKERS = {BY_HAND: True, "ComfyUI-Distributed": True, "ComfyUI-Distributed, master only orchestrates": False}
UNCHANGED = "results: nothing to do, no worker changed a pixel of image."
UNREFINED = "result: nothing to do, Upscale SEGS changed no pixel of image."
EIGHT_BITS = (
    "results: a worker's image has only 8 bits, so changed pixels are guessed and colours may shift. "
    "Put Send SEGS Result before the collector."
)


class MegapixelSEGSSlice(io.ComfyNode):
    """One worker's share of the segments."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MegapixelSEGSSlice",
            display_name="Slice SEGS (Megapixel)",
            category=CATEGORY,
            description=(
                "Selects one worker's share of the segments, so that several workers can refine one image. "
                "Every segment goes to exactly one worker, with about equal work for each. Seeds and "
                "overlaps stay as with a single worker. Merge SEGS Results combines the results."
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
                    "index", default=0, min=0, max=255, tooltip="Number of this worker, from 0 to count - 1."
                ),
                io.Int.Input(
                    "count",
                    default=2,
                    min=1,
                    max=256,
                    tooltip="Number of workers that share the image. 1 keeps all segments.",
                ),
                io.Boolean.Input(
                    "keep_together",
                    default=False,
                    tooltip="On: segments that touch go to the same worker; required if overlaps is 'in "
                    "order'. Off: the work is shared more evenly.",
                ),
                io.Combo.Input(
                    "workers",
                    options=list(WORKERS),
                    optional=True,
                    tooltip="Source of index and count. by hand: these inputs. ComfyUI-Distributed: its "
                    "list of workers, with the master as the first. ComfyUI-Distributed, master only "
                    "orchestrates: the same list without the master.",
                ),
            ],
            outputs=[io.SEGS.Output()],
            **SHOWN_AGAIN,
        )

    @classmethod
    def fingerprint_inputs(cls, workers=BY_HAND, **_) -> str:
        return "" if workers == BY_HAND else str(worker_slice(master_works=WORKERS[workers]))

    @classmethod
    def execute(cls, segs, index, count, keep_together, workers=BY_HAND) -> io.NodeOutput:
        if workers != BY_HAND:
            index, count = worker_slice(master_works=WORKERS[workers])
        if index >= count:
            expected = f"0 to {count - 1} for {count} workers"
            raise bad_input("index", expected, index, "The first worker is 0.")
        size, segments = read_shape(segs)
        share = slice_segments(segments, index, count, keep_together)
        if share and count > 1:
            return io.NodeOutput((size, share))
        why = (
            "count is 1, so this worker has all segments"
            if share
            else f"worker {index} gets none of {len(segments)} segments"
        )
        return nothing_to_do(f"segs: nothing to do, {why}.", (size, share))


class MegapixelSEGSSend(io.ComfyNode):
    """A worker's result with a description that survives any transport."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MegapixelSEGSSend",
            display_name="Send SEGS Result (Megapixel)",
            category=CATEGORY,
            description=(
                "Adds extra frames to a worker's image that describe exactly which segments it refined and "
                "which pixels changed. They survive 8-bit PNGs, so Merge SEGS Results notices lost workers "
                "and colours do not shift. Put it between Upscale SEGS and the collector."
            ),
            search_aliases=["SEGS send", "distributed upscale", "ComfyUI-Distributed", "worker result"],
            inputs=[
                io.Image.Input(
                    "result",
                    tooltip="The output of Upscale SEGS, made from the input image of this node "
                    "with rescale_factor 1.",
                ),
                io.Image.Input(
                    "image",
                    tooltip="The upscaled image that this worker started from, with no segment refined.",
                ),
                io.SEGS.Input("segs", tooltip="This worker's segments, from Slice SEGS."),
            ],
            outputs=[
                io.Image.Output(
                    tooltip="The result, followed by frames that describe it and look like noise."
                )
            ],
            **SHOWN_AGAIN,
        )

    @classmethod
    def execute(cls, result, image, segs) -> io.NodeOutput:
        check_pixels(image)
        check_pixels(result, "result")
        if image.shape != result.shape:
            hint = "Set rescale_factor of Upscale SEGS to 1 and connect the same image here."
            raise bad_input("result", f"images of {shape_of(image)}, as in image", shape_of(result), hint)
        size, segments = read_shape(segs)
        left = unchanged_numbers(*read_segments(segs, len(image)), image, result)
        described = pack_share(image, result, contents_of(size, segments, left))
        texts = logged([UNREFINED] if segments and torch.equal(result, image) else [])
        return with_notices(texts, torch.cat([result.cpu(), carry_bytes(described, result)]))


class MegapixelSEGSMerge(io.ComfyNode):
    """Combines the workers' results into one image."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MegapixelSEGSMerge",
            display_name="Merge SEGS Results (Megapixel)",
            category=CATEGORY,
            description=(
                "Combines the results of several workers that refined different segments of one image. With "
                "Send SEGS Result on every worker, merging adds no error, also for overlapping segments and "
                "8-bit images: if every segment is sampled with the same bits, the result is that of a single "
                "worker. Lost workers are reported."
            ),
            search_aliases=["SEGS merge", "distributed upscale", "combine workers", "ComfyUI-Distributed"],
            inputs=[
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The image that all workers started from: already upscaled, with no segment "
                    "refined. Optional with Send SEGS Result if the master only orchestrates.",
                ),
                io.Image.Input(
                    "results",
                    optional=True,
                    tooltip="The workers' images as one batch, including the frames from Send SEGS Result. "
                    "Without that node: all frames of the first worker, then all of the second, and so on.",
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
                    tooltip="Only without Send SEGS Result: differences from image up to this value count "
                    "as unchanged. 0.002 suits workers that send 8-bit images; 0 is exact.",
                ),
                io.SEGS.Input(
                    "segs",
                    optional=True,
                    tooltip="All segments, before Slice SEGS. They are needed for the output 'missing'.",
                ),
                io.Combo.Input(
                    "on_missing",
                    options=list(POLICIES),
                    optional=True,
                    tooltip="What to do if a worker's result is missing. refine: output its segments as "
                    "'missing', for a second Upscale SEGS. stop: raise an error. leave: keep its segments "
                    "unrefined.",
                ),
            ],
            outputs=[
                io.Image.Output(),
                io.SEGS.Output(
                    display_name="missing",
                    tooltip="Segments of missing results; usually none. Connect them and this node's image "
                    "to a second Upscale SEGS with rescale_factor 1.",
                ),
            ],
            **SHOWN_AGAIN,
        )

    @classmethod
    def execute(cls, image=None, results=None, tolerance=0.0, segs=None, on_missing=REFINE) -> io.NodeOutput:
        if results is None:
            raise bad_input("results", "the workers' images", "nothing", "Connect the collector.")
        check_pixels(results, "results")
        if image is not None:
            check_pixels(image)
        arrived = read_results(results)
        if not arrived:
            return _guessed(image, results, tolerance)
        missing = missing_segs(missing_in(arrived), segs, on_missing)
        idle = logged([] if any(bool(each.share.changed.any()) for each in arrived) else [UNCHANGED])
        return with_notices([*missing.texts, *idle], merge_arrived(arrived, image), missing.segs)


def _guessed(image, results, tolerance) -> io.NodeOutput:
    """Merge results of workers without Send SEGS Result by their values, and say so if those were rounded."""
    merged = merge_by_values(image, results, tolerance)
    texts = logged([EIGHT_BITS] if has_eight_bits(results) and not has_eight_bits(image) else [])
    if torch.equal(merged, image):
        return nothing_to_do(UNCHANGED, merged, NOTHING)
    return with_notices(texts, merged, NOTHING)
