"""Loaders of the tiny models, drop-in for the host's checkpoint and ControlNet loaders."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import comfy.controlnet
import comfy.model_patcher
import comfy.sd
import torch
from comfy_api.latest import ComfyExtension, io

from . import random_models, topology
from .families import FAMILIES, IdentityVae
from .forms import EMPTY_CLASS
from .model_file import load_model, read_facts
from .text import build_clip
from .vae import load_vae

# The host reaches this folder through a link; the assets lie beside the real one.
ASSETS = Path(__file__).resolve().parents[2] / "assets" / "tiny"
CATEGORY = "Megapixel/development"
CONTROLNET_EFFECT = 0.1
"""Lets a trained image show through at strength 1."""

Checkpoint = tuple[comfy.model_patcher.ModelPatcher, comfy.sd.CLIP, comfy.sd.VAE]


def load_trained(name: str, dtype: torch.dtype = torch.float32) -> Checkpoint:
    """Load `assets/tiny/<name>.safetensors` with its text encoder and autoencoder."""
    tiny = load_model(ASSETS / f"{name}.safetensors", dtype)
    clip = build_clip(tiny.class_tokens, names=tiny.facts.names)
    return tiny.patcher, clip, load_vae(ASSETS / "vae.safetensors")


def load_random_sdxl() -> Checkpoint:
    """Build a random SDXL and a random table of prompts; the autoencoder is the trained one."""
    generator = torch.Generator().manual_seed(0)
    rows = EMPTY_CLASS + 1
    sequences = torch.randn(rows, 77, topology.SDXL["context_dim"], generator=generator)
    pooled = torch.randn(rows, random_models.POOLED_WIDTH, generator=generator)
    return random_models.sdxl(), build_clip(sequences, pooled), load_vae(ASSETS / "vae.safetensors")


CHECKPOINTS: dict[str, Callable[[], Checkpoint]] = {
    "tiny_sd15.safetensors": partial(load_trained, "sd15"),
    "tiny_sdxl.safetensors": partial(load_trained, "sdxl"),
    "random_sdxl.safetensors": load_random_sdxl,
}
CONTROLNETS: dict[str, Callable[[], topology.UnetConfig]] = {
    "tiny_sd15.safetensors": lambda: read_facts(ASSETS / "sd15.safetensors").topology,
    "tiny_sdxl.safetensors": lambda: read_facts(ASSETS / "sdxl.safetensors").topology,
    "random_sdxl.safetensors": lambda: topology.SDXL,
}


class TinyCheckpoint(io.ComfyNode):
    """Drop-in for the host's CheckpointLoaderSimple."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MegapixelDevCheckpoint",
            display_name="Tiny checkpoint",
            category=CATEGORY,
            description=(
                "Loads a tiny model for development. The trained ones draw one person, one ring or some balls "
                'at 128 x 128 pixels, as a prompt says: "a red person", "a blue ring", "three green balls".'
            ),
            inputs=[
                io.Combo.Input(
                    "ckpt_name",
                    options=list(CHECKPOINTS),
                    tooltip="The model's topology. A random one has random weights and gives noise.",
                )
            ],
            outputs=[io.Model.Output(), io.Clip.Output(), io.Vae.Output()],
        )

    @classmethod
    def execute(cls, ckpt_name: str) -> io.NodeOutput:
        return io.NodeOutput(*CHECKPOINTS[ckpt_name]())


class TinyControlNet(io.ComfyNode):
    """Drop-in for the host's ControlNetLoader."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MegapixelDevControlNet",
            display_name="Tiny ControlNet",
            category=CATEGORY,
            description="Builds a ControlNet with random weights: it changes the picture, following no hint.",
            inputs=[
                io.Combo.Input(
                    "control_net_name", options=list(CONTROLNETS), tooltip="The tiny checkpoint that it fits."
                )
            ],
            outputs=[io.ControlNet.Output()],
        )

    @classmethod
    def execute(cls, control_net_name: str) -> io.NodeOutput:
        return io.NodeOutput(
            random_models.controlnet(CONTROLNETS[control_net_name](), effect=CONTROLNET_EFFECT)
        )


def _family_socket() -> io.Combo.Input:
    return io.Combo.Input("family", options=list(FAMILIES), tooltip="The family; its weights are random.")


class TinyFamilyModel(io.ComfyNode):
    """Drop-in for the host's UNETLoader."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MegapixelDevFamilyModel", display_name="Tiny model of a family", category=CATEGORY,
            inputs=[_family_socket()], outputs=[io.Model.Output()],
        )  # fmt: skip

    @classmethod
    def execute(cls, family: str) -> io.NodeOutput:
        return io.NodeOutput(FAMILIES[family].model())


class TinyFamilyClip(io.ComfyNode):
    """Drop-in for the host's CLIPLoader."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MegapixelDevFamilyClip", display_name="Tiny text encoder of a family", category=CATEGORY,
            inputs=[_family_socket()], outputs=[io.Clip.Output()],
        )  # fmt: skip

    @classmethod
    def execute(cls, family: str) -> io.NodeOutput:
        generator = torch.Generator().manual_seed(0)
        width = FAMILIES[family].text_width
        sequences = torch.randn(EMPTY_CLASS + 1, 8, width, generator=generator)
        pooled = torch.randn(EMPTY_CLASS + 1, 16, generator=generator)
        return io.NodeOutput(build_clip(sequences, pooled))


class TinyFamilyVae(io.ComfyNode):
    """Drop-in for the host's VAELoader: latents are the images themselves."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MegapixelDevFamilyVae", display_name="VAE of a tiny family", category=CATEGORY,
            inputs=[_family_socket()], outputs=[io.Vae.Output()],
        )  # fmt: skip

    @classmethod
    def execute(cls, family: str) -> io.NodeOutput:
        return io.NodeOutput(IdentityVae(FAMILIES[family].has_time))


class TinyCaption(io.ComfyNode):
    """Drop-in for a caption node: returns the same caption for every image."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MegapixelDevCaption", display_name="Caption of the toy world", category=CATEGORY,
            inputs=[io.Image.Input("image")], outputs=[io.String.Output()],
        )  # fmt: skip

    @classmethod
    def execute(cls, image: torch.Tensor) -> io.NodeOutput:
        return io.NodeOutput("a red person")


class TinyModelsExtension(ComfyExtension):
    """The loaders of the tiny models."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [TinyCheckpoint, TinyControlNet, TinyFamilyModel, TinyFamilyClip, TinyFamilyVae, TinyCaption]
