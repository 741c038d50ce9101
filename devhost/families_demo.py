"""The example workflows of segments for today's families, with the file names that people have, and on tiny models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .environment import ROOT
from .segs_demo import SETTINGS, UPSCALE
from .server import Prompt
from .upscale_demo import MODEL
from .workflow import prompt_node

LOADERS = ("UNETLoader", "CLIPLoader", "VAELoader")

_TILES: dict[str, Any] = {"tile_size": 0, "overlap": 64, "rescale_factor": 2.0}


def example_of(name: str) -> Path:
    """Return where an example workflow lies."""
    return ROOT / "example_workflows" / f"{name}.json"


def z_image_prompt() -> Prompt:
    """Return an image upscaled and refined tile by tile with Z-Image-Turbo, as an API prompt."""
    settings = {
        "steps": 8,
        "cfg": 1.0,
        "sampler_name": "res_multistep",
        "scheduler": "simple",
        "denoise": 0.33,
    }
    return {
        **_loaders("z_image_turbo_bf16.safetensors", "qwen_3_4b.safetensors", "lumina2", "ae.safetensors"),
        "5": prompt_node("ModelSamplingAuraFlow", "Shift", model=["2", 0], shift=3.0),
        "6": prompt_node("CLIPTextEncode", "What it shows", clip=["3", 0], text="highly detailed photo, sharp focus"),
        "7": prompt_node("ConditioningZeroOut", "Nothing: cfg is 1", conditioning=["6", 0]),
        **_refined(["5", 0], {**settings, "smallest_crop": 512}),
    }  # fmt: skip


def qwen_image_edit_prompt() -> Prompt:
    """Return the same with Qwen-Image-Edit, which is shown each tile of the image as it came in."""
    settings = {"steps": 20, "cfg": 2.5, "sampler_name": "euler", "scheduler": "simple", "denoise": 0.4}
    files = "qwen_image_edit_2511_bf16.safetensors", "qwen_2.5_vl_7b_fp8_scaled.safetensors", "qwen_image"
    encoder: dict[str, Any] = {"clip": ["3", 0], "vae": ["4", 0], "image1": ["1", 0]}
    return {
        **_loaders(*files, "qwen_image_vae.safetensors"),
        "5": prompt_node("ModelSamplingAuraFlow", "Shift", model=["2", 0], shift=3.1),
        "6": prompt_node(
            "TextEncodeQwenImageEditPlus", "What to change", **encoder, prompt="Restore the details and the sharpness of this photo."
        ),
        "7": prompt_node("TextEncodeQwenImageEditPlus", "What not", **encoder, prompt=""),
        **_refined(["5", 0], {**settings, "smallest_crop": 512, "reference_latents": "cut"}),
    }  # fmt: skip


EXAMPLES = {"segs_z_image": z_image_prompt, "segs_qwen_image_edit": qwen_image_edit_prompt}
TINY = {"segs_z_image": "Z-Image", "segs_qwen_image_edit": "Qwen-Image"}


def tiny_example(name: str, picture: str) -> Prompt:
    """Return an example with its loaders replaced by those of a tiny model, and an image of the input folder."""
    family = {"family": TINY[name]}
    replaced = {
        "UNETLoader": prompt_node("MegapixelDevFamilyModel", "Model", **family),
        "CLIPLoader": prompt_node("MegapixelDevFamilyClip", "Text encoder", **family),
        "VAELoader": prompt_node("MegapixelDevFamilyVae", "VAE", **family),
        "LoadImage": prompt_node("LoadImage", "Picture", image=picture),
    }
    return {key: replaced.get(node["class_type"], node) for key, node in EXAMPLES[name]().items()}


def _loaders(unet: str, clip: str, kind: str, vae: str) -> Prompt:
    return {
        "1": prompt_node("LoadImage", "Picture", image="example.png"),
        "2": prompt_node("UNETLoader", "Model", unet_name=unet, weight_dtype="default"),
        "3": prompt_node("CLIPLoader", "Text encoder", clip_name=clip, type=kind, device="default"),
        "4": prompt_node("VAELoader", "VAE", vae_name=vae),
    }


def _refined(model: list[Any], settings: dict[str, Any]) -> Prompt:
    return {
        UPSCALE: prompt_node(
            "MegapixelSEGSUpscale", "Upscale and refine", image=["1", 0], segs=["10", 0], model=model, clip=["3", 0], vae=["4", 0],
            positive=["6", 0], negative=["7", 0], upscale_model_opt=["11", 0], **SETTINGS | settings,
        ),
        "9": prompt_node("SaveImage", "Save", images=[UPSCALE, 0], filename_prefix="megapixel/refined"),
        "10": prompt_node("MegapixelTilesToSEGS", "Tiles of the trained size", image=["1", 0], model=["2", 0], **_TILES),
        "11": prompt_node("UpscaleModelLoader", "Upscale model", model_name=MODEL),
    }  # fmt: skip
