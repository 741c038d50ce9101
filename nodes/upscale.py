"""The node of tiled upscaling with a model."""

from __future__ import annotations

from comfy_api.latest import io

from ..host.compat import SHOWN_AGAIN
from ..host.notice import logged, with_notices
from ..host.run_again import fingerprint
from ..host.upscale import fallbacks, upscale_images
from ..host.upscale_hints import upscale_hints
from ..upscale.channels import ALPHA
from .upscale_sockets import LARGEST_SIDE, PRECISIONS, exact_side, gpus_socket


class MegapixelUpscale(io.ComfyNode):
    """Enlarges images of any size with a spandrel model, without seams."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MegapixelUpscale",
            display_name="Upscale with Model (Megapixel)",
            category="image/upscaling",
            description=(
                "Enlarges images with an upscale model, tile by tile and without seams. Tiles overlap by "
                "the model's measured receptive field, so the result equals that of the whole image; tiles "
                "of models that look at the whole image are blended. Tiles fit the free memory; if memory "
                "still runs out, only that tile is repeated. Takes single images, batches and video frames, "
                "grey, RGB or with transparency, at the model's own scale or any size."
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
                    tooltip="From Load Upscale Model or any other loader. The pack includes "
                    "megapixel-compact-4x.",
                ),
                io.Image.Input(
                    "image", tooltip="One image, a batch or video frames: grey, RGB or RGBA, any size."
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
                io.Combo.Input(
                    "alpha",
                    options=list(ALPHA),
                    optional=True,
                    advanced=True,
                    tooltip="Transparency. model: upscaled by the model, with sharp edges. resample: "
                    "resampled, smooth and fast. drop: removed. No effect on images without transparency.",
                ),
                io.Int.Input(
                    "tile_size",
                    default=0,
                    min=0,
                    max=LARGEST_SIDE,
                    step=8,
                    optional=True,
                    advanced=True,
                    tooltip="Width and height of the tiles in pixels of the image, margins included. 0 uses "
                    "the fastest size that fits the free memory. It changes memory and speed, not the "
                    "image.",
                ),
                io.Boolean.Input(
                    "compile",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Uses torch.compile: the first tile takes up to minutes, all others may be faster. "
                    "Useful for videos; off is best for single images.",
                ),
                gpus_socket(),
            ],
            outputs=[io.Image.Output()],
            **SHOWN_AGAIN,
        )

    @classmethod
    def fingerprint_inputs(cls, **_: object) -> str:
        return fingerprint()

    @classmethod
    def execute(cls, upscale_model, image, **settings) -> io.NodeOutput:
        texts = logged(upscale_hints(upscale_model, **settings))
        enlarged = upscale_images(upscale_model, image, **settings)
        return with_notices([*texts, *fallbacks(upscale_model)], enlarged)
