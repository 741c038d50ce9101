"""The example workflows of Upscale SEGS for current model families: with the usual file names, and on tiny
models.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .environment import ROOT
from .segs_demo import SETTINGS, UPSCALE
from .server import Prompt
from .upscale_demo import MODEL
from .workflow import prompt_node

LOADERS = ("UNETLoader", "CLIPLoader", "VAELoader")

CAPTIONER = "qwen3vl_4b_fp8_scaled.safetensors"  # of Krea 2; sees pictures

_TILES: dict[str, Any] = {"tile_size": 0, "overlap": 64, "rescale_factor": 2.0}
_JOINT: dict[str, Any] = {"denoise": 0.6, "overlaps": "joint"}
_ASK = (
    "Describe briefly what this part of a photo shows: only what is seen, without the words image or photo."
)


def example_of(name: str) -> Path:
    """Return the path of an example workflow."""
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
        "6": prompt_node("CLIPTextEncode", "Prompt", clip=["3", 0], text="highly detailed photo, sharp focus"),
        "7": prompt_node("ConditioningZeroOut", "Empty prompt, unused at cfg 1", conditioning=["6", 0]),
        **_refined(["5", 0], {**settings, "smallest_crop": 512}),
    }  # fmt: skip


def qwen_image_edit_prompt() -> Prompt:
    """Return the same with Qwen-Image-Edit, which gets each tile of the original image as a reference."""
    settings = {"steps": 20, "cfg": 2.5, "sampler_name": "euler", "scheduler": "simple", "denoise": 0.4}
    files = "qwen_image_edit_2511_bf16.safetensors", "qwen_2.5_vl_7b_fp8_scaled.safetensors", "qwen_image"
    encoder: dict[str, Any] = {"clip": ["3", 0], "vae": ["4", 0], "image1": ["1", 0]}
    return {
        **_loaders(*files, "qwen_image_vae.safetensors"),
        "5": prompt_node("ModelSamplingAuraFlow", "Shift", model=["2", 0], shift=3.1),
        "6": prompt_node(
            "TextEncodeQwenImageEditPlus", "Edit prompt", **encoder, prompt="Restore the details and the sharpness of this photo."
        ),
        "7": prompt_node("TextEncodeQwenImageEditPlus", "Negative prompt", **encoder, prompt=""),
        **_refined(["5", 0], {**settings, "smallest_crop": 512, "reference_latents": "cut"}),
    }  # fmt: skip


def krea2_prompt() -> Prompt:
    """Return a graph that changes a large image with Krea 2: tiles, captions from the model's own text
    encoder, joint sampling.
    """
    settings = {"steps": 8, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "smallest_crop": 512}
    return {
        **_loaders("krea2_turbo_fp8_scaled.safetensors", CAPTIONER, "krea2", "qwen_image_vae.safetensors"),
        "6": prompt_node("CLIPTextEncode", "Prompt for all tiles", clip=["3", 0], text="highly detailed photo, sharp focus"),
        "7": prompt_node("ConditioningZeroOut", "Empty prompt, unused at cfg 1", conditioning=["6", 0]),
        **_refined(["2", 0], {**settings, **_JOINT}, captions=True),
        **_captioned(["3", 0], ["3", 0]),
    }  # fmt: skip


def sdxl_prompt() -> Prompt:
    """Return the same with SDXL and a separate vision-language model for the captions."""
    settings = {
        "steps": 20,
        "cfg": 6.0,
        "sampler_name": "dpmpp_2m",
        "scheduler": "karras",
        "smallest_crop": 512,
    }
    refined = _refined(["2", 0], {**settings, **_JOINT}, captions=True)
    refined[UPSCALE]["inputs"].update(clip=["2", 1], vae=["2", 2])
    return {
        "1": prompt_node("LoadImage", "Image", image="example.png"),
        "2": prompt_node("CheckpointLoaderSimple", "Checkpoint", ckpt_name="sd_xl_base_1.0.safetensors"),
        "3": prompt_node("CLIPLoader", "Any captioning model", clip_name=CAPTIONER, type="ideogram4", device="default"),
        "6": prompt_node("CLIPTextEncode", "Prompt for all tiles", clip=["2", 1], text="highly detailed photo, sharp focus"),
        "7": prompt_node("CLIPTextEncode", "Negative prompt", clip=["2", 1], text="blurry, lowres, watermark, text"),
        **refined,
        **_captioned(["3", 0], ["2", 1]),
    }  # fmt: skip


EXAMPLES = {
    "segs_z_image": z_image_prompt,
    "segs_qwen_image_edit": qwen_image_edit_prompt,
    "segs_joint_krea2": krea2_prompt,
    "segs_joint_sdxl": sdxl_prompt,
}
TINY = {
    "segs_z_image": "Z-Image",
    "segs_qwen_image_edit": "Qwen-Image",
    "segs_joint_krea2": "Krea 2",
    "segs_joint_sdxl": "Krea 2",
}


def tiny_example(name: str, picture: str) -> Prompt:
    """Return an example with its loaders replaced by those of a tiny model,
    and an image of the input folder.
    """
    family = {"family": TINY[name]}
    replaced = {
        "UNETLoader": prompt_node("MegapixelDevFamilyModel", "Model", **family),
        "CLIPLoader": prompt_node("MegapixelDevFamilyClip", "Text encoder", **family),
        "VAELoader": prompt_node("MegapixelDevFamilyVae", "VAE", **family),
        "LoadImage": prompt_node("LoadImage", "Image", image=picture),
        "CheckpointLoaderSimple": prompt_node(
            "MegapixelDevCheckpoint", "Checkpoint", ckpt_name="tiny_sdxl.safetensors"
        ),
        "TextGenerate": prompt_node("MegapixelDevCaption", "Captions", image=["12", 0]),
    }
    return {key: replaced.get(node["class_type"], node) for key, node in EXAMPLES[name]().items()}


def _loaders(unet: str, clip: str, kind: str, vae: str) -> Prompt:
    return {
        "1": prompt_node("LoadImage", "Image", image="example.png"),
        "2": prompt_node("UNETLoader", "Model", unet_name=unet, weight_dtype="default"),
        "3": prompt_node("CLIPLoader", "Text encoder", clip_name=clip, type=kind, device="default"),
        "4": prompt_node("VAELoader", "VAE", vae_name=vae),
    }


def _captioned(captioner: list[Any], clip: list[Any]) -> Prompt:
    return {
        "12": prompt_node("MegapixelSEGSImages", "Image of each tile", image=["1", 0], segs=["10", 0]),
        "13": prompt_node(
            "TextGenerate", "Caption of each tile", clip=captioner, image=["12", 0], prompt=_ASK, max_length=96, sampling_mode="off",
        ),
        "14": prompt_node(
            "MegapixelSEGSTexts", "Text for each tile", clip=clip, captions=["13", 0], segs=["10", 0], labels="", prefix="photo: "
        ),
    }  # fmt: skip


def _refined(model: list[Any], settings: dict[str, Any], *, captions: bool = False) -> dict[str, Any]:
    texts: dict[str, Any] = {"segment_texts": ["14", 0]} if captions else {}
    return {
        UPSCALE: prompt_node(
            "MegapixelSEGSUpscale", "Upscale and refine", image=["1", 0], segs=["10", 0], model=model, clip=["3", 0], vae=["4", 0],
            positive=["6", 0], negative=["7", 0], upscale_model_opt=["11", 0], **SETTINGS | settings, **texts,
        ),
        "9": prompt_node("SaveImage", "Save", images=[UPSCALE, 0], filename_prefix="megapixel/refined"),
        "10": prompt_node("MegapixelTilesToSEGS", "Tiles of the trained size", image=["1", 0], model=["2", 0],
                            **_TILES | ({"overlap": 128} if captions else {})),
        "11": prompt_node("UpscaleModelLoader", "Upscale model", model_name=MODEL),
    }  # fmt: skip
