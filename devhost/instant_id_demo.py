"""InstantID's example workflow, and small models with which it runs on a ComfyUI without the large ones.

The tiny models draw no faces: SDXL, InstantID and ControlNet have random weights, and the detected faces are
drawings. Loaders, analysis, node and sampler are the real ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors.torch import save_file

from .environment import ROOT
from .server import Prompt, Server
from .sheet import Block, Cell, draw_sheet
from .tiny.faces import Portrait, draw_portraits, save_antelopev2
from .tiny.random_faces import instant_id_state
from .workflow import prompt_node

EXAMPLE = ROOT / "example_workflows" / "instantid.json"
CHECKPOINT = "sd_xl_base_1.0.safetensors"
INSTANT_ID = "ip-adapter.bin"
CONTROL_NET = "instantid-controlnet.safetensors"
TEXT = "portrait of a woman in a red coat on a forest path, autumn leaves, soft light, detailed"
NEGATIVE_TEXT = "blurry, lowres, deformed, watermark, text"
SIDE = 1016  # at exactly 1024 SDXL likes to draw watermarks

TINY_INSTANT_ID = "tiny.safetensors"
TINY: Mapping[str, Any] = {
    "checkpoint": "random_sdxl.safetensors", "checkpoint_class": "MegapixelDevCheckpoint",
    "control_net": "random_sdxl.safetensors", "control_net_class": "MegapixelDevControlNet",
    "instant_id": TINY_INSTANT_ID, "text": "a red person", "negative_text": "", "size": (136, 176), "steps": 2,
}  # fmt: skip

APPLY, FACE, SAVE = "8", "4", "12"


def instant_id_prompt(
    face: str = "example.png",
    *,
    checkpoint: str = CHECKPOINT,
    checkpoint_class: str = "CheckpointLoaderSimple",
    control_net: str = CONTROL_NET,
    control_net_class: str = "ControlNetLoader",
    instant_id: str = INSTANT_ID,
    text: str = TEXT,
    negative_text: str = NEGATIVE_TEXT,
    size: tuple[int, int] = (SIDE, SIDE),
    steps: int = 30,
    seed: int = 0,
    **settings: Any,
) -> Prompt:
    """Return the shipped workflow as an API prompt; further keywords replace settings of its node.

    `face` is an image in the input folder, `size` is (height, width).
    """
    inputs = {
        "instantid": ["5", 0], "insightface": ["6", 0], "control_net": ["7", 0], "image": [FACE, 0],
        "model": ["1", 0], "positive": ["2", 0], "negative": ["3", 0],
        "weight": 0.8, "start_at": 0.0, "end_at": 1.0,
    }  # fmt: skip
    sampler = {
        "seed": seed, "steps": steps, "cfg": 4.5, "sampler_name": "dpmpp_2m", "scheduler": "karras", "denoise": 1.0
    }  # fmt: skip
    height, width = size
    return {
        "1": prompt_node(checkpoint_class, "SDXL", ckpt_name=checkpoint),
        "2": prompt_node("CLIPTextEncode", "Prompt", clip=["1", 1], text=text),
        "3": prompt_node("CLIPTextEncode", "Negative prompt", clip=["1", 1], text=negative_text),
        FACE: prompt_node("LoadImage", "Image of the person", image=face),
        "5": prompt_node("MegapixelInstantIDLoader", "InstantID", instantid_file=instant_id),
        "6": prompt_node("MegapixelFaceAnalysis", "Face analysis", provider="CPU"),
        "7": prompt_node(control_net_class, "InstantID's ControlNet", control_net_name=control_net),
        APPLY: prompt_node("MegapixelInstantIDApply", "Apply InstantID", **inputs | settings),
        "9": prompt_node("EmptyLatentImage", "Size", width=width, height=height, batch_size=1),
        "10": prompt_node(
            "KSampler", "Sample", model=[APPLY, 0], positive=[APPLY, 1], negative=[APPLY, 2], latent_image=["9", 0],
            **sampler,
        ),
        "11": prompt_node("VAEDecode", "Decode", samples=["10", 0], vae=["1", 2]),
        SAVE: prompt_node("SaveImage", "Save", images=["11", 0], filename_prefix="megapixel/instantid"),
    }  # fmt: skip


def put_tiny_models(base: Path) -> None:
    """Write a small antelopev2 and random InstantID weights for the tiny SDXL into a server's folders."""
    save_antelopev2(base / "models" / "insightface" / "models" / "antelopev2")
    file = base / "models" / "instantid" / TINY_INSTANT_ID
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.half() for name, value in instant_id_state().items()}, file)


def put_portraits(base: Path, name: str, *portraits: Portrait, size: tuple[int, int] = (200, 260)) -> str:
    """Draw faces into an image in a server's input folder, and return its name."""
    Image.fromarray(draw_portraits(size, *portraits)).save(base / "input" / name)
    return name


def draw_faces_sheet(server: Server) -> Image.Image:
    """Return an image of two drawn people with the numbers and keypoints that the nodes draw.

    The image of the example workflow is this, as JPEG.
    """
    people = Portrait(1, (120, 180), 130), Portrait(2, (265, 190), 100, 12)
    name = put_portraits(server.base, "two people.png", *people, size=(360, 360))
    pictures = ["1", 0], ["3", 1], ["3", 0]
    prompt = {
        "1": prompt_node("LoadImage", "Two people", image=name),
        "2": prompt_node("MegapixelFaceAnalysis", "Face analysis", provider="CPU"),
        "3": prompt_node(
            "MegapixelFaceKeypoints", "Keypoints", faceanalysis=["2", 0], image=["1", 0], which_face="all"
        ),
    } | {
        str(10 + i): prompt_node("SaveImage", "Save", images=picture, filename_prefix="faces")
        for i, picture in enumerate(pictures)
    }
    history = server.run(prompt)
    cells = [Cell(server.images(history, str(10 + i))[0]) for i in range(len(pictures))]
    return draw_sheet(
        title="InstantID: the face stays itself",
        subtitle="What is read from a picture before anything is sampled; on drawn faces, as the tests use them.",
        labels=["the picture", "faces by number", "keypoints for the ControlNet"],
        blocks=[Block("", "", lines=[cells])],
    )
