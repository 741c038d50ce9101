"""The node that enlarges videos of any length with an upscale model."""

from __future__ import annotations

from comfy_api.latest import io

from ..host.run_again import fingerprint
from ..host.upscale_video import VideoSettings, show_video, upscale_video
from ..host.video import file_state, open_video
from ..video.codecs import CODECS
from .upscale_sockets import LARGEST_SIDE, PRECISIONS, exact_side, gpus_socket


class MegapixelUpscaleVideo(io.ComfyNode):
    """Enlarges a video of any length with a spandrel model, with a few frames in memory."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MegapixelUpscaleVideo",
            display_name="Upscale Video with Model (Megapixel)",
            category="video",
            description=(
                "Enlarges a video with an upscale model and saves it to the output folder. Only a few "
                "frames are in memory at a time, so length does not matter. Audio, frame times, colours and "
                "bit depth stay the same. Unchanged parts of a frame are not computed again. After Cancel "
                "or a crash, queue the same prompt to resume."
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
                    tooltip="From Load Upscale Model or any other loader. The pack includes "
                    "megapixel-compact-4x.",
                ),
                io.Float.Input(
                    "scale_by",
                    default=0.0,
                    min=0.0,
                    max=32.0,
                    step=0.05,
                    round=False,
                    tooltip="Scale factor. 2 doubles width and height, also with a 4x model; 1 keeps the "
                    "size. 0 uses the model's own scale.",
                ),
                io.Combo.Input(
                    "codec",
                    options=list(CODECS),
                    tooltip="Codec of the saved video. h264: plays everywhere. h265 and av1: smaller files, "
                    "slower. vp9: WebM. prores: for editing. ffv1: lossless, large. Browsers do not play "
                    "prores and ffv1.",
                ),
                io.Int.Input(
                    "quality",
                    default=-1,
                    min=-1,
                    max=63,
                    tooltip="Quality value of the encoder: lower is better and makes larger files. Useful: "
                    "h264 16 to 24, h265 18 to 28, vp9 and av1 20 to 40, prores 0 to 4 (a profile; here "
                    "higher is better). -1 uses the usual default.",
                ),
                io.String.Input(
                    "filename_prefix",
                    default="video/ComfyUI",
                    tooltip="Start of the file name in the output folder, as in Save Video. %width% and "
                    "%height% are replaced.",
                ),
                io.Video.Input(
                    "video",
                    optional=True,
                    tooltip="From Load Video, Trim Video or any other node. A VIDEO from a file is streamed "
                    "from that file. If not connected, the input named file is used.",
                ),
                io.String.Input(
                    "file",
                    default="",
                    optional=True,
                    tooltip="Used instead of video: a video file or a folder of images in the input folder. "
                    "Add [output] or [temp] after the name to use another folder. Empty uses video.",
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
                    tooltip="Frames per second for a folder of images. Videos keep their own frame times.",
                ),
                exact_side("width", "height"),
                exact_side("height", "width"),
                io.Combo.Input(
                    "precision",
                    options=PRECISIONS,
                    optional=True,
                    tooltip="Data type for the model's computation. auto: half precision if the model "
                    "supports it, if it is faster, and if a test stays within 1.5 levels of an 8-bit image. "
                    "float32: exact.",
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
                    tooltip="Largest difference, in 8-bit levels, at which a pixel counts as unchanged. "
                    "Tiles without a change are copied from the frame before. 1 to 3 ignores compression "
                    "noise; 0 is exact.",
                ),
                io.Int.Input(
                    "tile_size",
                    default=0,
                    min=0,
                    max=LARGEST_SIDE,
                    step=8,
                    optional=True,
                    advanced=True,
                    tooltip="Width and height of the tiles in pixels of the video, margins included. 0 uses "
                    "the fastest size that fits the free memory. It changes memory and speed, not the "
                    "video.",
                ),
                io.Boolean.Input(
                    "compile",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Uses torch.compile: the first frame takes up to minutes, all others may be "
                    "faster. Off is best for short videos.",
                ),
                gpus_socket(),
            ],
            outputs=[io.Video.Output("video")],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, file: str = "", **_: object) -> str:
        return f"{fingerprint()} {file_state(file)}"

    @classmethod
    def execute(cls, upscale_model, video=None, file="", fps=24.0, **settings) -> io.NodeOutput:
        wanted = VideoSettings(**settings)
        reader = open_video(video, file, fps)
        done = upscale_video(upscale_model, reader, wanted, cls.hidden.prompt, cls.hidden.extra_pnginfo)
        return show_video(done, wanted.codec)
