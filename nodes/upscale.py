"""The node of tiled upscaling with a model."""

from __future__ import annotations

from comfy_api.latest import io

from ..host.notice import logged, with_notices
from ..host.upscale import GPUS, fallbacks, upscale_images
from ..host.upscale_hints import upscale_hints
from ..upscale.channels import ALPHA

PRECISIONS = ["auto", "float32", "float16", "bfloat16"]
LARGEST_SIDE = 65536


def exact_side(name: str, other: str) -> io.Int.Input:
    return io.Int.Input(
        name,
        default=0,
        min=0,
        max=LARGEST_SIDE,
        optional=True,
        advanced=True,
        tooltip=f"Exact {name} of the result in pixels; it goes before scale_by. 0 follows from the {other}, or from "
        "scale_by.",
    )


def gpus_socket(what: str = "Which GPUs enlarge the tiles.") -> io.Combo.Input:
    """Return the choice for ComfyUIs that share a machine."""
    return io.Combo.Input(
        "gpus",
        options=list(GPUS),
        optional=True,
        advanced=True,
        tooltip=f"{what} all: each that this ComfyUI sees, the fastest. one: only the loader's own, where several ComfyUIs share the "
        "machine. It changes speed, not the picture.",
    )


class MegapixelUpscale(io.ComfyNode):
    """Any spandrel model over pictures of any size, without a seam."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MegapixelUpscale",
            display_name="Upscale with Model (Megapixel)",
            category="image/upscaling",
            description=(
                "Enlarges pictures with an upscale model, tile by tile, without a seam: how far the model looks is "
                "measured, so that the tiles give what the whole picture would. Tiles fit the memory that is free; "
                "running out of it costs one tile, not the picture. Takes one picture, a batch or a video's frames, "
                "grey, RGB or with transparency, to the model's own scale or to any size."
            ),
            search_aliases=[
                "ImageUpscaleWithModel",
                "Upscale Image (using Model)",
                "upscale",
                "ESRGAN",
                "super resolution",
                "tiled upscale",
                "4x",
            ],
            inputs=[
                io.UpscaleModel.Input(
                    "upscale_model",
                    tooltip="From Load Upscale Model or any other loader. megapixel-compact-4x comes with the pack.",
                ),
                io.Image.Input(
                    "image", tooltip="One picture, a batch, or frames: grey, RGB or RGBA, of any size."
                ),
                io.Float.Input(
                    "scale_by",
                    default=0.0,
                    min=0.0,
                    max=32.0,
                    step=0.05,
                    round=False,
                    tooltip="Sides of the result by those of the image, such as 2 with a 4x model: the model's result "
                    "is resampled tile by tile. 0 is the model's own scale.",
                ),
                exact_side("width", "height"),
                exact_side("height", "width"),
                io.Combo.Input(
                    "precision",
                    options=PRECISIONS,
                    optional=True,
                    tooltip="Numbers that the model computes with. auto: half precision where the model allows it, it "
                    "is faster, and a probe stays within 1.5 steps of an 8-bit picture. float32: exact.",
                ),
                io.Combo.Input(
                    "alpha",
                    options=list(ALPHA),
                    optional=True,
                    advanced=True,
                    tooltip="Transparency. model: through the model, for sharp edges. resample: smooth and free. drop: "
                    "leave it out. Without effect on pictures without transparency.",
                ),
                io.Int.Input(
                    "tile_size",
                    default=0,
                    min=0,
                    max=LARGEST_SIDE,
                    step=8,
                    optional=True,
                    advanced=True,
                    tooltip="Side of the tiles in pixels of the image, their margins included. 0 takes what is fastest "
                    "in the free memory. It changes memory and speed, not the picture.",
                ),
                io.Boolean.Input(
                    "compile",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="torch.compile: the first tile takes up to minutes, every other one is faster. For videos.",
                ),
                gpus_socket(),
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, upscale_model, image, **settings) -> io.NodeOutput:
        texts = logged(upscale_hints(upscale_model, **settings))
        enlarged = upscale_images(upscale_model, image, **settings)
        return with_notices([*texts, *fallbacks(upscale_model)], enlarged)
