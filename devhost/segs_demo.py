"""The demo of Upscale SEGS: small figures of the toy world, enlarged four times and refined one by one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .environment import ROOT
from .photographs import reduce_by
from .server import Prompt, Server
from .sheet import Block, Cell, draw_sheet
from .upscale_demo import MODEL, write_picture
from .workflow import prompt_node

EXAMPLE = ROOT / "example_workflows" / "segs_upscale.json"
TEXT = "a red person"
SCALE = 4
COUNT = 4
UPSCALE = "8"
TRAINED = 128  # pixels of what the tiny model draws
DENOISE_SMALL = 0.5
SETTINGS: dict[str, Any] = {
    "rescale_factor": 2.0, "resampling_method": "lanczos", "supersample": "true", "rounding_modulus": 8,
    "seed": 2026, "steps": 20, "cfg": 7.0, "sampler_name": "euler", "scheduler": "karras",
    "denoise": 0.35, "feather": 16, "inpaint_model": False, "noise_mask_feather": 20,
    "overlaps": "independent", "match_colours": 0.5, "smallest_crop": 256, "batch_size": 0, "keep_on_interrupt": True,
}  # fmt: skip
TINY_SETTINGS: dict[str, Any] = {
    "rescale_factor": float(SCALE), "cfg": 3.0, "denoise": 0.4, "feather": 5, "match_colours": 0.0, "smallest_crop": 128,
}  # fmt: skip


@dataclass(frozen=True)
class Figures:
    """Red persons in a grid.

    Attributes:
        truth: as they were drawn, (1, 3, H, W).
        small: reduced.
        mask: where they are in `small`, (h, w).
    """

    truth: Tensor
    small: Tensor
    mask: Tensor


def draw_figures(seed: int = 5) -> Figures:
    """Draw a grid of whole red persons, each as large as the tiny model draws one, and reduce it."""
    from .tiny.scenes import random_scenes

    scenes = random_scenes(20 * COUNT, (16, 16), torch.Generator().manual_seed(seed))
    persons = [number for number, kind in enumerate(scenes.classes.tolist()) if kind == 0][:COUNT]
    pictures = _grid(scenes.pictures()[persons])
    masks = _grid(F.interpolate((scenes.latents()[persons, 3:] > -0.99).float(), scale_factor=8))
    return Figures(pictures, reduce_by(pictures, SCALE), F.max_pool2d(masks, SCALE)[0, 0])


def _grid(pictures: Tensor) -> Tensor:
    """Return (4, C, h, w) as one image (1, C, 2h, 2w)."""
    return pictures.unflatten(0, (2, COUNT // 2)).permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)[None]


def example_prompt(checkpoint: str) -> Prompt:
    """Return the shipped workflow as an API prompt: an image upscaled and refined tile by tile."""
    return {
        "1": prompt_node("LoadImage", "Image", image="example.png"),
        "2": prompt_node("CheckpointLoaderSimple", "Checkpoint", ckpt_name=checkpoint),
        "3": prompt_node("CLIPTextEncode", "Prompt", clip=["2", 1], text="highly detailed photo, sharp focus"),
        "4": prompt_node("CLIPTextEncode", "Negative prompt", clip=["2", 1], text="blurry, lowres, watermark, text"),
        "5": prompt_node("UpscaleModelLoader", "Upscale model", model_name=MODEL),
        "6": prompt_node("MegapixelTilesToSEGS", "Tiles", image=["1", 0], tile_size=256, overlap=32),
        "7": prompt_node("MegapixelSEGSPreview", "Preview of the tiles", segs=["6", 0], image=["1", 0]),
        UPSCALE: prompt_node(
            "MegapixelSEGSUpscale", "Upscale and refine", image=["1", 0], segs=["6", 0], model=["2", 0], clip=["2", 1],
            vae=["2", 2], positive=["3", 0], negative=["4", 0], upscale_model_opt=["5", 0], **SETTINGS,
        ),
        "9": prompt_node("SaveImage", "Save", images=[UPSCALE, 0], filename_prefix="megapixel/refined"),
    }  # fmt: skip


def refine_figures(server: Server) -> Image.Image:
    """Refine the figures in a running ComfyUI with the tiny models, and draw the steps.

    The images of the help page and of the example workflow are this, as JPEG.
    """
    figures = draw_figures()
    write_picture(figures.small, server.base / "input" / "figures.png")
    write_picture(figures.mask.expand(1, 3, -1, -1), server.base / "input" / "figures_mask.png")
    prompt = tiny_prompt("figures.png", "figures_mask.png")
    result = server.run(prompt)
    plain = tiny_prompt("figures.png", "figures_mask.png", denoise=0.0001, steps=1)
    plain["6"]["inputs"]["drop_size"] = max(figures.mask.shape)
    [segments], [refined] = server.images(result, "7"), server.images(result, "9")
    [enlarged] = server.images(server.run(plain), "9")
    return draw_sheet(
        title="Small figures, four times larger",
        subtitle="Each segment is sampled again at the size that the model was made for, and put back.",
        labels=["the picture and its segments", "enlarged", "enlarged and refined"],
        blocks=[
            Block("", "", lines=[[Cell(segments, ""), Cell(enlarged, ""), Cell(refined, "", good=True)]])
        ],
    )


def refine_small_figures(server: Server) -> Image.Image:
    """Refine figures of 64 pixels, half the size that the tiny model draws, at their own size and at the
    model's size, and draw both.

    The second image of the help page is this, as JPEG.
    """
    figures = draw_figures()
    write_picture(figures.small, server.base / "input" / "figures.png")
    write_picture(figures.mask.expand(1, 3, -1, -1), server.base / "input" / "figures_mask.png")
    cells = [
        Cell(server.images(server.run(small_prompt(denoise, target)), "9")[0], "", good=target > 0)
        for denoise, target in ((0.0001, 0), (DENOISE_SMALL, 0), (DENOISE_SMALL, TRAINED))
    ]
    return draw_sheet(
        title="Small figures of 64 pixels",
        subtitle="The model draws figures of 128. With target_size each segment is enlarged, sampled, reduced, put back.",
        labels=["enlarged", "refined as they are", f"refined with target_size {TRAINED}"],
        blocks=[Block("", "", lines=[cells])],
    )


def small_prompt(denoise: float, target_size: int) -> Prompt:
    """Return a workflow that refines the small figures at twice their size."""
    settings = {"rescale_factor": 2.0, "smallest_crop": 8, "denoise": denoise, "target_size": target_size}
    return tiny_prompt("figures.png", "figures_mask.png", **settings)


def tiny_prompt(picture: str, mask: str, **settings: Any) -> Prompt:
    """Return a workflow on the tiny model that refines the regions of a mask; image and mask are files in the
    input folder.
    """
    return {
        "1": prompt_node("LoadImage", "Image", image=picture),
        "2": prompt_node("MegapixelDevCheckpoint", "Checkpoint", ckpt_name="tiny_sd15.safetensors"),
        "3": prompt_node("CLIPTextEncode", "Prompt", clip=["2", 1], text=TEXT),
        "4": prompt_node("CLIPTextEncode", "Negative prompt", clip=["2", 1], text=""),
        "5": prompt_node("LoadImageMask", "Mask", image=mask, channel="red"),
        "6": prompt_node(
            "MegapixelMaskToSEGS", "Segments", mask=["5", 0], combined=False, crop_factor=1.2, bbox_fill=False,
            drop_size=4, contour_fill=False, label="person",
        ),
        "7": prompt_node("MegapixelSEGSPreview", "Preview of the segments", segs=["6", 0], image=["1", 0]),
        UPSCALE: prompt_node(
            "MegapixelSEGSUpscale", "Upscale and refine", image=["1", 0], segs=["6", 0], model=["2", 0], clip=["2", 1],
            vae=["2", 2], positive=["3", 0], negative=["4", 0], **SETTINGS | TINY_SETTINGS | settings,
        ),
        "9": prompt_node("SaveImage", "Save", images=[UPSCALE, 0], filename_prefix="megapixel/refined"),
    }  # fmt: skip
