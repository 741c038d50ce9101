"""The demo of tiled upscaling: photographs that the model never saw, reduced,
and enlarged again in a real ComfyUI.

Each goes through the shipped workflow and is compared with the photograph itself, beside bicubic.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .environment import ROOT
from .photographs import HELD_OUT, photograph, psnr, reduce_by
from .server import Prompt, Server
from .sheet import Block, Cell, draw_sheet
from .workflow import prompt_node, to_graph

EXAMPLE = ROOT / "example_workflows" / "upscale.json"
MODEL = "megapixel-compact-4x.safetensors"
SCALE = 4
DETAILS = {
    "astronaut": (20, 160),
    "chelsea": (70, 100),
    "coffee": (60, 300),
}  # top and left in the photograph
DETAIL = 144  # side
_UPSCALE, _SAVE = "3", "4"


@dataclass(frozen=True)
class Enlarged:
    """One photograph, (1, 3, H, W) each: as it is, by the workflow and by bicubic; `file` is in `output/`."""

    name: str
    file: Path
    photograph: Tensor
    ours: Tensor
    bicubic: Tensor

    def __str__(self) -> str:
        height, width = self.photograph.shape[-2:]
        return (
            f"{self.name}, {width // SCALE}x{height // SCALE} to {width}x{height}: "
            f"{self.quality(self.ours):.2f} dB, bicubic {self.quality(self.bicubic):.2f} dB"
        )

    def quality(self, enlarged: Tensor) -> float:
        """Return the PSNR of one of the two in dB."""
        return psnr(enlarged, self.photograph)


def upscale_prompt(image: str = "example.png", **settings: Any) -> Prompt:
    """Return the shipped workflow as an API prompt; keywords replace settings of its node.

    `image` is a file in the input folder; every new ComfyUI has an example.png there.
    """
    widgets = {
        "scale_by": 0.0, "width": 0, "height": 0,
        "precision": "auto", "alpha": "model", "tile_size": 0, "compile": False,
    }  # fmt: skip
    return {
        "1": prompt_node("LoadImage", "Image", image=image),
        "2": prompt_node("UpscaleModelLoader", "Upscale model", model_name=MODEL),
        _UPSCALE: prompt_node(
            "MegapixelUpscale", "Upscale", upscale_model=["2", 0], image=["1", 0], **widgets | settings
        ),
        _SAVE: prompt_node("SaveImage", "Save", images=[_UPSCALE, 0], filename_prefix="megapixel/upscaled"),
    }


def upscale_photographs(
    server: Server, object_info: Mapping[str, Any], output: Path, names: Sequence[str] = HELD_OUT
) -> list[Enlarged]:
    """Enlarge photographs and put them into `output`, as the server saved them,
    with a sheet that compares them.
    """
    results = [_enlarge(server, object_info, output, name) for name in names]
    draw_comparison(results).save(output / "upscaled.png")
    return results


def draw_comparison(results: Sequence[Enlarged]) -> Image.Image:
    """Return a detail of each: by bicubic, by the workflow, and as photographed,
    with the PSNR of the whole image.

    The images of the help page and of the example workflow are this, as JPEG.
    """
    with tempfile.TemporaryDirectory() as folder:
        lines = [_line(result, Path(folder)) for result in results]
        return draw_sheet(
            title="Small pictures, four times larger",
            subtitle="Details of photographs that the model was not trained on. In dB: PSNR of the whole picture, "
            "more is better.",
            labels=["bicubic", MODEL.removesuffix(".safetensors"), "the photograph itself"],
            blocks=[Block("", "", lines=lines)],
        )


def read_picture(file: Path) -> Tensor:
    """Return a saved image: (1, 3, H, W) in [0, 1]."""
    with Image.open(file) as picture:
        pixels = np.array(picture.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255


def write_picture(picture: Tensor, file: Path) -> None:
    """Save (1, 3, H, W) in [0, 1] with eight bits a channel."""
    pixels = (picture[0].permute(1, 2, 0).clamp(0, 1) * 255).round().to(torch.uint8)
    Image.fromarray(np.ascontiguousarray(pixels.numpy())).save(file)


def _enlarge(server: Server, object_info: Mapping[str, Any], output: Path, name: str) -> Enlarged:
    whole = photograph(name)
    given = server.base / "input" / f"{name}_small.png"
    write_picture(reduce_by(whole, SCALE), given)
    prompt = upscale_prompt(given.name)
    [saved] = server.images(server.run(prompt, to_graph(prompt, object_info)), _SAVE)
    file = output / f"upscaled_{name}.png"
    shutil.copyfile(saved, file)
    ours, small = read_picture(file), read_picture(given)
    height, width = ours.shape[-2:]
    bicubic = F.interpolate(small, (height, width), mode="bicubic").clamp(0, 1)
    return Enlarged(name, file, whole[..., :height, :width], ours, bicubic)


def _line(result: Enlarged, folder: Path) -> list[Cell]:
    ways = {"bicubic": result.bicubic, "ours": result.ours, "photograph": result.photograph}
    top, left = DETAILS[result.name]
    cells: list[Cell] = []
    for way, picture in ways.items():
        file = folder / f"{result.name}_{way}.png"
        write_picture(picture[..., top : top + DETAIL, left : left + DETAIL], file)
        told = "" if picture is result.photograph else f"{result.quality(picture):.2f} dB"
        cells.append(Cell(file, told, good=way == "ours"))
    return cells
