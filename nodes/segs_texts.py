"""The nodes between segments and their texts: the images to caption, and the captions as texts."""

from __future__ import annotations

from comfy_api.latest import io

from ..errors import bad_input
from ..host.compat import SHOWN_AGAIN
from ..host.images import check_pixels
from ..host.notice import logged, nothing_to_do, with_notices
from ..host.segment_texts import encode_captions
from ..segs.picture import crop_pictures_of
from ..segs.segment import read_shape, whole_of
from .segs_sockets import CATEGORY, SegmentTexts, segs_socket

ALL_EMPTY = "captions: nothing to do, all captions are empty: every segment keeps the general prompt."


class MegapixelSEGSImages(io.ComfyNode):
    """An image of each segment."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MegapixelSEGSImages",
            display_name="SEGS to Images (Megapixel)",
            category=CATEGORY,
            description=(
                "Crops the region of each segment out of an image: a list of images in the order of the segments. A caption node writes a caption for each, "
                "and Text per Segment takes them."
            ),
            search_aliases=["SEGSToImageList", "segments to image list", "crop segments", "caption tiles"],
            inputs=[
                io.Image.Input(
                    "image",
                    tooltip="The image or batch that the segments were found in; segments of another size are scaled to it.",
                ),
                segs_socket(),
            ],
            outputs=[
                io.Image.Output(
                    display_name="images",
                    is_output_list=True,
                    tooltip="One image for each segment, in their order.",
                )
            ],
            **SHOWN_AGAIN,
        )

    @classmethod
    def execute(cls, image, segs) -> io.NodeOutput:
        check_pixels(image)
        pictures = crop_pictures_of(image, *read_shape(segs))
        if pictures:
            return io.NodeOutput(pictures)
        return nothing_to_do(
            "segs: nothing to do, there is no segment, so the list of images is empty.", pictures
        )


class MegapixelSEGSTexts(io.ComfyNode):
    """A text for each segment."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MegapixelSEGSTexts",
            display_name="Text per Segment (Megapixel)",
            category=CATEGORY,
            description=(
                "Encodes a caption for each segment, for segment_texts of Upscale SEGS. A segment is then sampled with its own text instead of the general prompt, so that "
                "a large denoise does not draw the subject in every tile."
            ),
            search_aliases=[
                "prompt per tile",
                "regional prompt",
                "tile captions",
                "SEGS captions",
                "caption",
            ],
            is_input_list=True,
            inputs=[
                io.Clip.Input(
                    "clip", tooltip="Encodes the captions: the CLIP of the model that samples the segments."
                ),
                io.String.Input(
                    "captions",
                    force_input=True,
                    tooltip="A list of texts, one for each segment, in the order of the segments. A caption "
                    "node after SEGS to Images gives such a list. An empty caption keeps the general "
                    "prompt.",
                ),
                io.SEGS.Input(
                    "segs",
                    optional=True,
                    tooltip="The segments, so that a wrong number of captions is an error here. Upscale SEGS checks it as well.",
                ),
                io.String.Input(
                    "labels",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="Labels of segments, one in each line: the first caption then goes to all "
                    "segments with the label in the first line, and so on. Empty: the first caption goes to "
                    "the first segment, and so on.",
                ),
                io.String.Input(
                    "prefix",
                    default="",
                    optional=True,
                    tooltip="Text before each caption that is not empty: the style that all segments share. Empty adds nothing.",
                ),
            ],
            outputs=[SegmentTexts.Output(display_name="segment_texts")],
            **SHOWN_AGAIN,
        )

    @classmethod
    def execute(cls, clip, captions, segs=(None,), labels=("",), prefix=("",)) -> io.NodeOutput:
        if any(not isinstance(caption, str) for caption in captions):
            got = ", ".join(sorted({type(caption).__name__ for caption in captions}))
            raise bad_input("captions", "a list of texts", got, "Connect a caption node's text output.")
        whole = [prefix[0] + caption if caption.strip() else "" for caption in captions]
        named = [label.strip() for label in labels[0].splitlines() if label.strip()]
        segments = None if segs[0] is None else len(whole_of(read_shape(segs[0])[1]))
        texts = encode_captions(clip[0], whole, named, segments)
        return with_notices(logged([] if any(whole) else [ALL_EMPTY]), texts)
