"""The example workflow for videos, and the image that shows its result: frames of a camera that moves over a
photograph.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .environment import ROOT
from .photographs import photograph, reduce_by
from .server import Prompt
from .sheet import Block, Cell, draw_sheet
from .tiny.videos import write_video
from .upscale_demo import MODEL, write_picture
from .workflow import prompt_node

EXAMPLE = ROOT / "example_workflows" / "upscale_video.json"
NODE = "3"
HEIGHT, WIDTH, FRAMES, STEP = 64, 96, 24, 1
SHOWN = (0, 8, 16)  # frames in the image


def video_prompt(file: str = "example.mp4", **settings: Any) -> Prompt:
    """Return the example workflow as an API prompt; keywords replace settings of its node."""
    widgets = {
        "scale_by": 2.0, "codec": "h264", "quality": -1, "filename_prefix": "megapixel/video", "file": "",
        "fps": 24.0, "width": 0, "height": 0, "precision": "auto", "change_threshold": 0.0, "tile_size": 0,
        "compile": False,
    }  # fmt: skip
    return {
        "1": prompt_node("LoadVideo", "Video", file=file),
        "2": prompt_node("UpscaleModelLoader", "Upscale model", model_name=MODEL),
        NODE: prompt_node(
            "MegapixelUpscaleVideo", "Upscale", upscale_model=["2", 0], video=["1", 0], **widgets | settings
        ),
    }


def example_frames(count: int = FRAMES) -> Tensor:
    """Return (F, 3, H, W): a photograph at a quarter of its size,
    seen by a camera that moves to the right.
    """
    small = reduce_by(photograph("astronaut"), 4)[0]
    small = F.interpolate(small[None], (128, 128 + count), mode="area")[0]
    return small.unfold(2, WIDTH, STEP).permute(2, 0, 1, 3)[:count, :, :HEIGHT]


def write_example_video(file: Path, count: int = FRAMES) -> Path:
    """Write the example's video, with sound."""
    return write_video(file, example_frames(count), sound="aac")


def draw_frames(given: Tensor, enlarged: Tensor) -> Image.Image:
    """Return some frames (F, 3, H, W): bicubic above, the node's below.

    The images of the help page and of the example workflow are this, as JPEG.
    """
    height, width = enlarged.shape[-2:]
    bicubic = F.interpolate(given, (height, width), mode="bicubic").clamp(0, 1)
    with tempfile.TemporaryDirectory() as folder:
        lines = [
            [_cell(frames[index], Path(folder) / f"{name}{index}.png") for index in SHOWN]
            for name, frames in (("bicubic", bicubic), ("node", enlarged))
        ]
        return draw_sheet(
            title="A video, four times larger",
            subtitle=f"Above by bicubic, below by {MODEL.removesuffix('.safetensors')}.",
            labels=[f"frame {index}" for index in SHOWN],
            blocks=[Block("", "", lines=lines)],
        )


def _cell(picture: Tensor, file: Path) -> Cell:
    write_picture(picture[None], file)
    return Cell(file, "")
