"""The size that a model was trained at, from one table, and whether a latent is clearly larger."""

from __future__ import annotations

from collections.abc import Sequence

from comfy.model_base import BaseModel, ModelType

from ..errors import bad_input
from ..record import record
from ..scaling.deep_shrink import automatic_factor

NOT_LARGER = "not clearly above the trained size"  # why an effect is idle


@record
class Trained:
    """The trained size of a model family: the side of a square, in image pixels.

    Attributes:
        pixels: the side.
        source: where it is published.
        models: names of the host's model classes.
        latents: names of its latent formats, if a whole family shares one.
        latent_pixel: image pixels to the side of a latent pixel.
    """

    pixels: int
    source: str
    models: frozenset[str] = frozenset()
    latents: frozenset[str] = frozenset()
    latent_pixel: int = 8


# Models before families: those made from an SD 1.x or 2.x of another size share its latents.
TABLE: tuple[Trained, ...] = (
    Trained(768, "model card of stable-video-diffusion-img2vid: 1024x576, the area of 768²", models=frozenset({"SVD_img2vid"})),
    Trained(576, "model card of sv3d: 576x576", models=frozenset({"SV3D_u", "SV3D_p"})),
    Trained(256, "arXiv 2303.11328 (Zero-1-to-3): 256x256", models=frozenset({"Stable_Zero123"})),
    Trained(512, "model card of stable-diffusion-x4-upscaler: crops of 512x512", models=frozenset({"SD_X4Upscaler"}), latent_pixel=4),
    Trained(1024, "arXiv 2307.01952, section 2.3: buckets of 1024² pixels", latents=frozenset({"SDXL", "SDXL_Playground_2_5"})),
    Trained(512, "model card of stable-diffusion-v1-5; SD 2.x: see trained_pixels", latents=frozenset({"SD15"})),
    Trained(1024, "Stability-AI/sd3.5, sd3_infer.py: its default size", models=frozenset({"SD3"})),
    Trained(1024, "diffusers, FluxPipeline: its default size", models=frozenset({"Flux"})),
    Trained(1024, "diffusers, Flux2Pipeline: its default size", models=frozenset({"Flux2"})),
    Trained(1328, "README of QwenLM/Qwen-Image: its aspect ratio 1:1", models=frozenset({"QwenImage"})),
    Trained(1024, "READMEs of Tongyi-MAI/Z-Image (example of Turbo) and Alpha-VLLM/Lumina-Image-2.0 (list of models)", models=frozenset({"Lumina2"})),
    Trained(1024, "diffusers, Krea2Pipeline: its default size", models=frozenset({"Krea2"})),
)  # fmt: skip


def trained_pixels(model: BaseModel) -> int | None:
    """Return the trained size of `model`: the side of a square image in pixels;
    None if the table has no row for it.

    The topology does not contain it: a network runs at any size. SD 2.x has the latents of SD 1.x: 768 px
    with v-prediction, 512 px without.
    """
    row = _row_of(model)
    if row is None:
        return None
    is_sd2 = model.model_config.unet_config.get("context_dim") == 1024
    is_v = model.model_type == ModelType.V_PREDICTION
    return 768 if "SD15" in row.latents and is_sd2 and is_v else row.pixels


def _row_of(model: BaseModel) -> Trained | None:
    latents = {each.__name__ for each in type(model.latent_format).__mro__}
    return next((row for row in TABLE if type(model).__name__ in row.models or row.latents & latents), None)


def trained_side(model: BaseModel, pixels: int = 0) -> int:
    """Return the trained size of a UNet: the side of a square latent, in latent pixels.

    `pixels` is the side in image pixels; 0 reads it from the table.

    Raises:
        ValueError: when the family is not in the table and `pixels` is 0.
    """
    side = pixels or trained_pixels(model)
    if side:
        return max(1, side // latent_pixel(model))
    side_of = f"a size in pixels, because the trained size of {type(model).__name__} is unknown"
    raise bad_input("trained_size", side_of, 0, "Enter the image size that this model was trained at.")


def latent_pixel(model: BaseModel) -> int:
    """Return how many image pixels the side of a latent pixel has."""
    row = _row_of(model)
    return row.latent_pixel if row else Trained.latent_pixel


def factor_above_trained(model: BaseModel, latent_size: Sequence[int], pixels: int = 0) -> float:
    """Return the factor by which features must be downscaled to the trained size;
    1.0 if the latent is not clearly larger.

    `pixels` as for `trained_side`.
    """
    return automatic_factor(latent_size, trained_side(model, pixels))


def is_above_trained(model: BaseModel, latent_size: Sequence[int], pixels: int = 0) -> bool:
    """Return whether a latent is clearly larger than those that the model was trained on."""
    return factor_above_trained(model, latent_size, pixels) > 1.0
