"""The nodes that let several workers share the segments of a picture."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..errors import bad_input
from ..host.distributed import worker_slice
from ..host.missing_segs import NOTHING, POLICIES, REFINE, missing_segs
from ..host.notice import logged, nothing_to_do, with_notices
from ..segs.carrier import carry_bytes
from ..segs.choose import slice_segments
from ..segs.merge import merge_arrived, merge_results, missing_in, read_results
from ..segs.segment import read_segments, read_shape
from ..segs.share import contents_of, left_as_they_were, pack_share
from .segs_sockets import CATEGORY, segs_socket

BY_HAND = "by hand"
WORKERS = {BY_HAND: True, "ComfyUI-Distributed": True, "ComfyUI-Distributed, master only orchestrates": False}
UNCHANGED = "results: nothing to do, no worker has changed a pixel of image."
EIGHT_BITS = "results: a worker's picture has 8 bits, so which pixels it changed is a guess, and colours may shift. Put Send SEGS Result before the collector."


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
                io.Combo.Input(
                    "workers",
                    options=list(WORKERS),
                    optional=True,
                    tooltip="Where index and count come from. By hand: from these inputs. ComfyUI-Distributed: from its list of workers, with the master as the first "
                    "or, where it only orchestrates, without it.",
                ),
            ],
            outputs=[io.SEGS.Output()],
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
            "one worker has all segments"
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
                "Adds to a worker's picture what Merge SEGS Results must know, as further frames: which segments these are, which pixels they changed, and to "
                "what, to the bit. It survives PNGs of 8 bits, so a lost worker is noticed and no colour shifts. It goes between Upscale SEGS and the collector."
            ),
            search_aliases=["SEGS send", "distributed upscale", "ComfyUI-Distributed", "worker result"],
            inputs=[
                io.Image.Input("result", tooltip="What Upscale SEGS made of image, with rescale_factor 1."),
                io.Image.Input(
                    "image",
                    tooltip="The enlarged picture that this worker began with, with no segment refined.",
                ),
                io.SEGS.Input("segs", tooltip="This worker's slice, from Slice SEGS."),
            ],
            outputs=[
                io.Image.Output(tooltip="The result, and frames that look like noise: its description.")
            ],
        )

    @classmethod
    def execute(cls, result, image, segs) -> io.NodeOutput:
        if image.shape != result.shape:
            hint = "Set rescale_factor of Upscale SEGS to 1, and connect its image here too."
            raise bad_input("result", f"pictures of {_shape(image)} like image", _shape(result), hint)
        left = left_as_they_were(*read_segments(segs, len(image)), image, result)
        described = pack_share(image, result, contents_of(*read_shape(segs), left))
        return io.NodeOutput(torch.cat([result.cpu(), carry_bytes(described, result)]))


class MegapixelSEGSMerge(io.ComfyNode):
    """The workers' results in one picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MegapixelSEGSMerge",
            display_name="Merge SEGS Results (Megapixel)",
            category=CATEGORY,
            description=(
                "Puts together what several workers refined in copies of one picture, each its own slice of the segments. With Send SEGS Result on every worker the result "
                "has the same bits as one worker's, also where segments of different workers overlap and where pictures travel with 8 bits, and lost workers are noticed."
            ),
            search_aliases=["SEGS merge", "distributed upscale", "combine workers", "ComfyUI-Distributed"],
            inputs=[
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The picture that all workers began with: already enlarged, with no segment refined. With Send SEGS Result it may be left out, "
                    "where the master only orchestrates.",
                ),
                io.Image.Input(
                    "results",
                    optional=True,
                    tooltip="The workers' pictures as one batch, with what Send SEGS Result added. Without it: all frames of the first, then of the second, and so on.",
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
                    tooltip="Only without Send SEGS Result. Differences to image up to this are taken as none: 0.002 where workers send pictures of 8 bits. 0 is exact.",
                ),
                io.SEGS.Input(
                    "segs",
                    optional=True,
                    tooltip="All segments, before they are sliced. Needed for the output missing.",
                ),
                io.Combo.Input(
                    "on_missing",
                    options=list(POLICIES),
                    optional=True,
                    tooltip="What to do where a worker's result did not arrive. refine: its segments are in missing, for a second Upscale SEGS. stop: an error. leave: its "
                    "segments stay as they were.",
                ),
            ],
            outputs=[
                io.Image.Output(),
                io.SEGS.Output(
                    display_name="missing",
                    tooltip="Segments of results that did not arrive; usually none. Connect them with this node's image to a second Upscale SEGS, rescale_factor 1.",
                ),
            ],
        )

    @classmethod
    def execute(cls, image=None, results=None, tolerance=0.0, segs=None, on_missing=REFINE) -> io.NodeOutput:
        if results is None:
            raise bad_input("results", "the workers' pictures", "nothing", "Connect the collector.")
        arrived = read_results(results)
        if not arrived:
            return _merged_by_values(image, results, tolerance)
        missing = missing_segs(missing_in(arrived), segs, on_missing)
        idle = logged([] if any(bool(each.share.changed.any()) for each in arrived) else [UNCHANGED])
        return with_notices([*missing.texts, *idle], merge_arrived(arrived, image), missing.segs)


def _merged_by_values(image, results, tolerance) -> io.NodeOutput:
    """Merge results whose changes are guessed from their values, as workers without Send SEGS Result give them."""
    if image is None:
        hint = "Put Send SEGS Result before the collector on every worker, or connect image."
        raise bad_input("results", "the frames of Send SEGS Result where image is missing", "none", hint)
    frames = len(image)
    if results.shape[1:] != image.shape[1:] or len(results) % frames:
        raise bad_input(
            "results",
            f"pictures of {_shape(image)} in multiples of {frames}",
            f"{len(results)} of {_shape(results)}",
            "Connect the workers' pictures, and as image the enlarged picture that they began with.",
        )
    texts = logged([EIGHT_BITS] if _has_eight_bits(results) and not _has_eight_bits(image) else [])
    result = torch.stack(
        [merge_results(image[frame], list(results[frame::frames]), tolerance) for frame in range(frames)]
    )
    if not torch.equal(result, image):
        return with_notices(texts, result, NOTHING)
    return nothing_to_do(UNCHANGED, result, NOTHING)


def _has_eight_bits(pictures: torch.Tensor) -> bool:
    """Return whether some picture of a batch came through 8 bits."""
    levels = pictures * 255
    return bool(((levels - levels.round()).abs() < 1e-3).flatten(1).all(dim=1).any())


def _shape(image: torch.Tensor) -> str:
    return f"{image.shape[2]}x{image.shape[1]} with {image.shape[3]} channels"
