"""The size that a model was trained at, and whether a latent is clearly larger."""

from __future__ import annotations

from collections.abc import Sequence

from comfy.latent_formats import SD15, SDXL, SDXL_Playground_2_5
from comfy.model_base import BaseModel, ModelType

from ..errors import bad_input
from ..scaling.deep_shrink import automatic_factor

NOT_LARGER = "not clearly above the trained size"  # why an effect is idle

_LATENT_PIXEL = 8  # picture pixels to a latent pixel, in every UNet-based family


def trained_side(model: BaseModel, pixels: int = 0) -> int:
    """Return the side of the square latent that `model` was trained on, in latent pixels.

    `pixels` is the side in picture pixels; 0 takes it from the model. No topology shows it (a UNet runs at any
    size), so it comes from the family: 1024 px for SDXL, 768 px for the v-prediction SD 2.x, 512 px for the other
    SD 1.x and 2.x.

    Raises:
        ValueError: the family is not known and `pixels` is 0.
    """
    if pixels:
        return max(1, pixels // _LATENT_PIXEL)
    if isinstance(model.latent_format, (SDXL, SDXL_Playground_2_5)):
        return 1024 // _LATENT_PIXEL
    if isinstance(model.latent_format, SD15):
        is_sd2 = model.model_config.unet_config.get("context_dim") == 1024
        side = 768 if is_sd2 and model.model_type == ModelType.V_PREDICTION else 512
        return side // _LATENT_PIXEL
    side_of = f"the pixels of a side for {type(model).__name__}"
    raise bad_input("trained_size", side_of, 0, "Type the picture size that this model was trained at.")


def factor_above_trained(model: BaseModel, latent_size: Sequence[int], pixels: int = 0) -> float:
    """Return by how much features shrink to be of the trained size; 1.0 where the latent is not clearly larger.

    `pixels` as for `trained_side`.
    """
    return automatic_factor(latent_size, trained_side(model, pixels))


def is_above_trained(model: BaseModel, latent_size: Sequence[int], pixels: int = 0) -> bool:
    """Return whether a latent is clearly larger than those that the model was trained on."""
    return factor_above_trained(model, latent_size, pixels) > 1.0
