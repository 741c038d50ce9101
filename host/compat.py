"""Differences between versions of ComfyUI: every `getattr` and `inspect.signature` on the host,
each with its version.
"""

from __future__ import annotations

import inspect
import io
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.samplers
import torch
from comfy_api.latest import Input, InputImpl, io as node_api
from comfy_execution.utils import get_executing_context
from torch import nn

# For a schema: notices and images are shown again if the result comes from the cache. New after 0.18.
SHOWN_AGAIN: dict[str, Any] = {
    name: True
    for name in ("has_intermediate_output",)
    if name in inspect.signature(node_api.Schema).parameters
}


def executing_node() -> tuple[str | None, str | None]:
    """Return the ids of the queued prompt and of the node that run in this thread;
    (None, None) in a script.
    """
    context = get_executing_context()
    return (context.prompt_id, context.node_id) if context else (None, None)


def executing_prompt() -> dict[str, Any]:
    """Return the nodes of the queued prompt that runs in this thread, by id; empty in a script.

    Unlike the hidden input, it is available when a node computes its fingerprint.
    """
    prompt_id, _ = executing_node()
    queue = getattr(prompt_server(), "prompt_queue", None)
    running = list(getattr(queue, "currently_running", {}).values())
    return next((item[2] for item in running if item[1] == prompt_id), {})


def output_types(class_type: str) -> Sequence[str]:
    """Return the types of a node's outputs, by the id of its class;
    empty if no installed pack has the class.
    """
    classes = getattr(sys.modules.get("nodes"), "NODE_CLASS_MAPPINGS", {})
    return [str(kind) for kind in getattr(classes.get(class_type), "RETURN_TYPES", ())]


def prompt_server() -> Any:
    """Return the server that this ComfyUI runs; None for a script that only uses the nodes."""
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)


def is_supir(patch: Any) -> bool:
    """Return whether a patch inside a UNet is that of SUPIR."""
    supir = sys.modules.get("comfy.ldm.supir.supir_patch")  # new after 0.16, loaded by its node
    return supir is not None and isinstance(getattr(patch, "__self__", None), supir.SUPIRPatch)


def original_module(model: Any) -> Any:
    """Return the module inside a compiled one; any other module itself."""
    return getattr(model, "_orig_mod", model)


def pictures_in(options: Mapping[str, Any]) -> Sequence[int] | None:
    """Return the numbers of the images in a model call, where a long batch is sampled in windows;
    None is all of them.

    `options` are those that a patch inside a layer was given: AnimateDiff-Evolved's parameters, or the host's
    own window.
    """
    own = options.get("context_window")  # new after 0.16
    if own is not None and getattr(own, "dim", None) == 0:
        return own.index_list
    return (options.get("ad_params") or {}).get("sub_idxs")


def repeated_conditionings(options: Mapping[str, Any]) -> list[int] | None:
    """Return the index of the conditioning of each part of a layer's batch if a pack
    uses several texts for one; else None.

    `options` are the options of a patch inside the layer. Packs for regional prompts store there the host's
    `cond_or_uncond` with each number repeated once per text; the negative conditioning has one.
    """
    numbers: Sequence[int] = options.get("cond_or_uncond", ())
    made = next((options[key] for key in _REPEATED if key in options), None)
    positive = len(numbers) - list(numbers).count(1)
    if made is None or not positive:
        return None
    texts = (len(made) - list(numbers).count(1)) // positive
    places = [place for place, number in enumerate(numbers) for _ in range(1 if number == 1 else texts)]
    return places if [numbers[place] for place in places] == list(made) else None


# Attention Couple of ComfyUI-ppm and of comfyui-prompt-control.
_REPEATED = "cond_or_uncond_couple", "cond_or_uncond_hook_couple"


def chosen_attention(layer: Any) -> dict[str, Any]:
    """Return the keyword with which an attention layer requests its own kernel, as a checkpoint may; empty if
    it does not.
    """
    own = getattr(layer, "comfy_attention", None)  # new after 0.30
    return {} if own is None else {"preferred_attention": own}


def intermediate_dtype() -> torch.dtype:
    """Return the dtype of images between nodes."""
    chosen = getattr(comfy.model_management, "intermediate_dtype", None)  # new after 0.16
    return chosen() if chosen else torch.float32


def sibling_devices(first: torch.device) -> list[torch.device]:
    """Return `first` and the host's other devices of its kind."""
    listed = getattr(comfy.model_management, "get_all_torch_devices", list)()  # new after 0.18
    return [first, *(device for device in listed if device != first)] if first in listed else [first]


def new_patcher(network: nn.Module, device: torch.device) -> Any:
    """Return a patcher with which the host loads `network` to `device` and unloads it."""
    patcher_class = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    offload = comfy.model_management.unet_offload_device()
    return patcher_class(network, load_device=device, offload_device=offload)


def load_whole(patcher: Any) -> None:
    """Load all weights of a model. Some hosts load only a part, and networks without casting layers cannot
    fetch the rest.
    """
    load = comfy.model_management.load_models_gpu
    whole = {"force_full_load": True} if "force_full_load" in inspect.signature(load).parameters else {}
    load([patcher], **whole)


def sampler_function(sampler_name: str) -> Any | None:
    """Return the function of a sampler; None for one that has none."""
    return getattr(comfy.samplers.sampler_object(sampler_name), "sampler_function", None)


def takes_noise_sampler(function: Any) -> bool:
    """Return whether a sampler's function accepts a noise sampler."""
    return function is not None and "noise_sampler" in inspect.signature(function).parameters


def video_source(video: Any) -> str | io.BytesIO | None:
    """Return the file of a VIDEO, as its path or in memory; None for one whose frames are in memory."""
    own = getattr(type(video), "get_stream_source", None)
    if own in (None, getattr(Input.Video, "get_stream_source", None)):
        return None  # the base class would encode the frames, and lose what H.264 loses
    source = video.get_stream_source()
    return os.fspath(source) if isinstance(source, os.PathLike) else source


def trim_window(video: Any) -> tuple[float, float]:
    """Return the used part of a VIDEO's file: start and duration in seconds, 0 for the whole rest."""
    window = getattr(video, "get_active_trim_window", None)  # new after 0.16
    return window() if window else (0.0, 0.0)


def video_file(path: str) -> Any:
    """Return a file as a VIDEO."""
    return InputImpl.VideoFromFile(path)


PATCHER_NEEDS = (
    "callbacks", "clone", "get_model_object", "load_device", "loaded_size", "memory_required", "model_options", "model_size", "wrappers",
)  # fmt: skip


def missing_of_patcher(model: Any) -> list[str]:
    """Return the attributes that this pack uses and a MODEL lacks; some packs have patchers of their own
    (GGUF, Nunchaku).
    """
    return [name for name in PATCHER_NEEDS if not hasattr(model, name)]


def is_patcher(value: Any) -> bool:
    """Return whether a value is a ModelPatcher, of a UNet, a VAE or a CLIP."""
    return hasattr(value, "load_device") or hasattr(value, "patcher")


def takes_batch_as_time(vae: Any) -> bool:
    """Return whether a VAE encodes a batch of images as the frames of one video."""
    return getattr(vae, "latent_dim", 2) == 3 and not getattr(vae, "not_video", False)


def patch_side(model: Any) -> int:
    """Return the side of a transformer's token in latent pixels; 1 for a UNet."""
    network = model.get_model_object("diffusion_model")
    sizes = (getattr(network, name, None) for name in ("patch_size", "patch_spatial", "patch"))
    size = next((size for size in sizes if isinstance(size, (int, list, tuple))), 1)
    return int(size[-1]) if isinstance(size, (list, tuple)) else int(size)
