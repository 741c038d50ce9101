"""The example of several machines: one graph that ComfyUI-Distributed runs on each of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .environment import ROOT
from .segs_demo import SETTINGS
from .server import Prompt
from .upscale_demo import MODEL
from .workflow import prompt_node

EXAMPLE = ROOT / "example_workflows" / "segs_workers.json"
VIDEO_EXAMPLE = ROOT / "example_workflows" / "segs_workers_video.json"
SAVE = "14"
ENLARGE, SEND, COLLECT, MERGE = "6", "10", "11", "12"
# What a graph must know of ComfyUI-Distributed's node; no server here has it.
COLLECTOR: Mapping[str, Any] = {
    "input": {
        "required": {"images": ["IMAGE"], "load_balance": ["BOOLEAN", {"default": False}]},
        "optional": {"audio": ["AUDIO"]},
    },
    "output": ["IMAGE", "AUDIO"],
    "output_name": ["images", "audio"],
    "display_name": "Distributed Collector",
}


def with_collector(object_info: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schemas of a server that has ComfyUI-Distributed as well."""
    return {**object_info, "DistributedCollector": COLLECTOR}


def workers_prompt(checkpoint: str, image: str = "example.png", **settings: Any) -> Prompt:
    """Return the shipped workflow as an API prompt; keywords replace settings of Upscale SEGS."""
    refining = {
        "model": ["2", 0], "clip": ["2", 1], "vae": ["2", 2], "positive": ["3", 0], "negative": ["4", 0],
        **SETTINGS, "rescale_factor": 1.0, **settings,
    }  # fmt: skip
    return {
        "1": prompt_node("LoadImage", "Image", image=image),
        "2": prompt_node("CheckpointLoaderSimple", "Checkpoint", ckpt_name=checkpoint),
        "3": prompt_node("CLIPTextEncode", "Prompt", clip=["2", 1], text="highly detailed photo, sharp focus"),
        "4": prompt_node("CLIPTextEncode", "Negative prompt", clip=["2", 1], text="blurry, lowres, watermark, text"),
        "5": prompt_node("UpscaleModelLoader", "Upscale model", model_name=MODEL),
        ENLARGE: prompt_node(
            "MegapixelUpscale", "Upscale on every machine", upscale_model=["5", 0], image=["1", 0], scale_by=2.0, width=0,
            height=0, precision="auto", alpha="model", tile_size=0, compile=False, gpus="one",
        ),
        "7": prompt_node("MegapixelTilesToSEGS", "Tiles", image=[ENLARGE, 0], tile_size=512, overlap=64),
        "8": prompt_node(
            "MegapixelSEGSSlice", "This machine's tiles", segs=["7", 0], index=0, count=2, keep_together=False,
            workers="ComfyUI-Distributed",
        ),
        "9": prompt_node("MegapixelSEGSUpscale", "Upscale and refine", image=[ENLARGE, 0], segs=["8", 0], **refining),
        SEND: prompt_node(
            "MegapixelSEGSSend", "Send the result", result=["9", 0], image=[ENLARGE, 0], segs=["8", 0]
        ),
        COLLECT: prompt_node("DistributedCollector", "Collect", images=[SEND, 0], load_balance=False),
        MERGE: prompt_node(
            "MegapixelSEGSMerge", "Merge", image=[ENLARGE, 0], results=[COLLECT, 0], tolerance=0.0, segs=["7", 0],
            on_missing="refine",
        ),
        "13": prompt_node(
            "MegapixelSEGSUpscale", "Refine missing segments", image=[MERGE, 0], segs=[MERGE, 1], **refining
        ),
        SAVE: prompt_node("SaveImage", "Save", images=["13", 0], filename_prefix="megapixel/refined"),
    }  # fmt: skip


def workers_video_prompt(checkpoint: str, file: str = "example.mp4", **settings: Any) -> Prompt:
    """Return the same for the frames of a video: each machine refines its tiles in every frame."""
    prompt = workers_prompt(checkpoint, **settings)
    prompt["1"] = prompt_node("LoadVideo", "Video", file=file)
    prompt["15"] = prompt_node("GetVideoComponents", "Frames", video=["1", 0])
    prompt[ENLARGE]["inputs"]["image"] = ["15", 0]
    prompt["16"] = prompt_node(
        "CreateVideo", "Refined frames", images=["13", 0], audio=["15", 1], fps=["15", 2]
    )
    prompt[SAVE] = prompt_node(
        "SaveVideo", "Save", video=["16", 0], filename_prefix="megapixel/refined", format="auto", codec="auto"
    )
    return prompt
