"""The node that enlarges videos of any length with an upscale model."""

from __future__ import annotations

from comfy_api.latest import io

from ..host.upscale_video import VideoSettings, show_video, upscale_video
from ..host.video import file_state, open_video
from ..video.codecs import CODECS
from .upscale import LARGEST_SIDE, PRECISIONS, exact_side, gpus_socket


class MegapixelUpscaleVideo(io.ComfyNode):
    """Any spandrel model over a video of any length, a few frames in memory at a time."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MegapixelUpscaleVideo",
            display_name="Upscale Video with Model (Megapixel)",
            category="video",
            description=(
                "Enlarges a video with an upscale model and writes the result to the output folder, with only a few "
                "frames in memory: a video of any length takes as much as a short one. Sound, frame times, colours and "
                "bit depth stay. Parts of the picture that did not change are not computed again. After Cancel or a "
                "crash the same prompt goes on where it stopped."
            ),
            search_aliases=[
                "upscale video",
                "video upscaler",
                "video super resolution",
                "stream",
                "out of memory",
                "Meta Batch",
                "ESRGAN video",
            ],
            inputs=[
                io.UpscaleModel.Input(
                    "upscale_model",
                    tooltip="From Load Upscale Model or any other loader. megapixel-compact-4x comes with the pack.",
                ),
                io.Float.Input(
                    "scale_by",
                    default=0.0,
                    min=0.0,
                    max=32.0,
                    step=0.05,
                    round=False,
                    tooltip="Scale factor of width and height. 2 doubles both, also with a 4x model. 0 is the model's "
                    "own scale; 1 keeps the size.",
                ),
                io.Combo.Input(
                    "codec",
                    options=list(CODECS),
                    tooltip="How the video is written. h264: plays everywhere. h265 and av1: smaller files, slower. "
                    "vp9: WebM. prores: for editing. ffv1: without loss, large. Browsers do not play prores and ffv1.",
                ),
                io.Int.Input(
                    "quality",
                    default=-1,
                    min=-1,
                    max=63,
                    tooltip="The encoder's own number: smaller is better and makes larger files. Useful: h264 16 to 24, "
                    "h265 18 to 28, vp9 and av1 20 to 40, prores 0 to 4 (a profile, here larger is better). "
                    "-1 is the encoder's usual default.",
                ),
                io.String.Input(
                    "filename_prefix",
                    default="video/ComfyUI",
                    tooltip="Start of the file's name in the output folder, as in Save Video. %width% and %height% are "
                    "filled in.",
                ),
                io.Video.Input(
                    "video",
                    optional=True,
                    tooltip="From Load Video, Trim Video or any other node. A VIDEO from a file is streamed from that "
                    "file. Leave it empty to name a file below.",
                ),
                io.String.Input(
                    "file",
                    default="",
                    optional=True,
                    tooltip="Instead of video: a video file or a folder of pictures in the input folder; [output] or "
                    "[temp] after the name chooses another folder. Empty takes video.",
                ),
                io.Float.Input(
                    "fps",
                    default=24.0,
                    min=0.01,
                    max=1000.0,
                    step=0.01,
                    round=False,
                    optional=True,
                    advanced=True,
                    tooltip="Frames per second of a folder of pictures. Videos keep their own times.",
                ),
                exact_side("width", "height"),
                exact_side("height", "width"),
                io.Combo.Input(
                    "precision",
                    options=PRECISIONS,
                    optional=True,
                    tooltip="Numbers that the model computes with. auto: half precision where the model allows it and it "
                    "is faster. float32: exact.",
                ),
                io.Float.Input(
                    "change_threshold",
                    default=0.0,
                    min=0.0,
                    max=64.0,
                    step=0.5,
                    round=False,
                    optional=True,
                    advanced=True,
                    tooltip="Difference, in steps of 8 bits, up to which a pixel counts as unchanged. Tiles without a "
                    "change are taken from the frame before. 1 to 3 skips compression noise; 0 is exact.",
                ),
                io.Int.Input(
                    "tile_size",
                    default=0,
                    min=0,
                    max=LARGEST_SIDE,
                    step=8,
                    optional=True,
                    advanced=True,
                    tooltip="Width and height of the tiles in pixels of the video, margins included. 0 takes what is "
                    "fastest in the free memory. It changes memory and speed, not the video.",
                ),
                io.Boolean.Input(
                    "compile",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="torch.compile: the first frame takes up to minutes, every other one is faster. False is "
                    "best for short videos.",
                ),
                gpus_socket(),
            ],
            outputs=[io.Video.Output("video")],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, file: str = "", **_: object) -> str:
        return file_state(file)

    @classmethod
    def execute(cls, upscale_model, video=None, file="", fps=24.0, **settings) -> io.NodeOutput:
        wanted = VideoSettings(**settings)
        reader = open_video(video, file, fps)
        done = upscale_video(upscale_model, reader, wanted, cls.hidden.prompt, cls.hidden.extra_pnginfo)
        return show_video(done, wanted.codec)
