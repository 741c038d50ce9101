"""Tiled upscaling on the host's devices, within the host's memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from logging import WARNING
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import comfy.model_management
import folder_paths
import torch
from torch import Tensor

from ..errors import bad_input
from ..scaling.size import Size
from ..upscale.budget import Budget
from ..upscale.channels import Channels
from ..upscale.network import Network
from ..upscale.random_state import seeded
from ..upscale.tensor_format import Descriptor, TensorFormat, choose_tensor_format
from ..upscale.upscaler import Hooks, Options, upscale_pictures
from .compat import intermediate_dtype, load_whole, new_patcher, sibling_devices
from .images import check_pixels
from .log import log, log_once
from .measurements import MeasuredModel
from .run_again import run_again
from .tile_progress import TileProgress, watch_layers

ALL_GPUS, ONE_GPU = GPUS = ("all", "one")
MODELS = Path(__file__).resolve().parent.parent / "assets" / "upscale_models"
CPU_SHARE = 0.5  # of the free main memory that tiles may take
BLENDED = (
    "upscale_model: this model looks at the whole image, and there was too little memory for one piece: its "
    "tiles are blended, which may be visible. Free memory and run it again."
)
RESULT_SHARE = 0.9  # of the free main memory that the result may take
SMALLER = "Use a smaller scale factor or fewer frames."

_networks: WeakKeyDictionary[Descriptor, _Ready] = WeakKeyDictionary()


def offer_models() -> None:
    """Make the host's loader list the upscale models of the pack."""
    folder_paths.add_model_folder_path("upscale_models", str(MODELS))


def upscale_images(
    upscale_model: Any,
    image: Tensor,
    scale_by: float = 0.0,
    width: int = 0,
    height: int = 0,
    precision: str = "auto",
    alpha: str = "model",
    tile_size: int = 0,
    compile: bool = False,
    gpus: str = ALL_GPUS,
    socket: str = "upscale_model",
    hint: str = SMALLER,
) -> Tensor:
    """Return IMAGE (F, H, W, C) enlarged by an UPSCALE_MODEL: (F, height, width, C) in the host's dtype and
    on its device for images.

    Raises:
        ValueError: when an input does not fit the model.
        MemoryError: when the result, or the smallest tile, does not fit the free memory.
    """
    check_upscale_model(upscale_model, socket)
    pictures = pictures_of(image)
    given = pictures.shape[-2], pictures.shape[-1]
    size = result_size(given, upscale_model.scale, scale_by, width, height)
    device, dtype = comfy.model_management.intermediate_device(), intermediate_dtype()
    channels = Channels(pictures.shape[1], upscale_model.input_channels, alpha)
    check_memory(len(pictures), channels.result, size, device, dtype, hint)
    options = Options(size, tile_size, alpha, device, dtype)
    with seeded(0):  # some models draw noise (AuraSR), also while they are measured
        return _run(without_nan(pictures), upscale_model, options, precision, compile, gpus).movedim(1, -1)


def _run(
    pictures: Tensor, model: Descriptor, options: Options, precision: str, compile: bool, gpus: str
) -> Tensor:
    size = pictures.shape[-2], pictures.shape[-1]
    with TileProgress(pictures, model.model) as progress:
        budget = Budget(size[0] * size[1], progress.measure)
        network = ready_network(model, precision, compile, size, budget, gpus)
        hooks = Hooks(
            free=lambda: free_memory(network.device),
            recover=lambda: recovered(network.device),
            report=progress,
            log=lambda plan: log.info("Upscale: %s", plan),
            check=comfy.model_management.throw_exception_if_processing_interrupted,
            blended=partial(note_blended, model, options.tile),
            budget=budget,
        )
        with seeded(0):  # the same noise every time, also after a measurement
            return upscale_pictures(pictures, network, options, hooks)


def check_upscale_model(model: Any, socket: str = "upscale_model") -> None:
    """Raise if the model at `socket` cannot enlarge images.

    Raises:
        ValueError: when it is a model for inpainting, or no upscale model at all.
    """
    if getattr(model, "purpose", None) == "Inpainting":
        expected, got = "a model that enlarges images", "an inpainting model"
        raise bad_input(socket, expected, got, "Choose an upscale model.")
    if not all(hasattr(model, name) for name in ("model", "scale", "input_channels", "size_requirements")):
        expected = "a model from Load Upscale Model"
        raise bad_input(socket, expected, type(model).__name__, "Connect Load Upscale Model.")


def result_size(size: Size, model_scale: int, scale_by: float, width: int, height: int) -> Size:
    """Return (height, width) of the result; an exact side overrides `scale_by`,
    and the other side follows it.
    """
    factor = scale_by or float(model_scale)
    if width or height:
        factor = width / size[1] if width else height / size[0]
    return height or max(1, round(size[0] * factor)), width or max(1, round(size[1] * factor))


def free_memory(device: torch.device) -> float:
    """Return the bytes on `device` that tiles may use."""
    free = _free(device)
    return free * CPU_SHARE if device.type in ("cpu", "mps") else free


def _free(device: torch.device) -> float:
    free = comfy.model_management.get_free_memory(device)
    assert not isinstance(free, tuple), "a pair comes only on request"
    return float(free)


def recovered(device: torch.device) -> float:
    comfy.model_management.soft_empty_cache()
    return free_memory(device)


def pictures_of(image: Tensor) -> Tensor:
    """Return (F, C, H, W) for (F, H, W, C).

    Raises:
        ValueError: when there is no pixel in it.
    """
    check_pixels(image)
    return image.movedim(-1, 1)


def without_nan(pictures: Tensor) -> Tensor:
    """Return the images with black for NaN and the range's ends for infinities:
    one pixel must not stop a video.
    """
    if bool(pictures.sum(dtype=torch.float32).isfinite()):
        return pictures
    wrong = int((~pictures.isfinite()).sum())
    if not wrong:
        return pictures
    log.warning(
        "image: expected finite numbers, got %d values that are NaN or infinite. NaN is treated as black.",
        wrong,
    )
    return pictures.nan_to_num(nan=0.0, posinf=1.0, neginf=0.0)


def check_memory(
    count: int, channels: int, size: Size, device: torch.device, dtype: torch.dtype, hint: str = SMALLER
) -> None:
    """Raise if the result cannot fit, before anything starts; `hint` says what to do then.

    Raises:
        MemoryError: when it needs more than `RESULT_SHARE` of the free memory.
    """
    needed = count * channels * size[0] * size[1] * dtype.itemsize
    free = _free(device)
    if needed > RESULT_SHARE * free:
        expected = f"a result that fits {free / 2**30:.1f} GB of free memory"
        got = f"{needed / 2**30:.1f} GB for {count} of {size[1]}x{size[0]}"
        raise bad_input("image", expected, got, hint, MemoryError)


@dataclass
class _Ready:
    """A network that stays ready for the next run while its model exists,
    and the settings that it was made for.

    Attributes:
        blended: whether its last run had to blend tiles for lack of memory.
    """

    settings: tuple[str, bool, str]
    store: MeasuredModel
    network: Network
    blended: bool = False


def ready_network(
    model: Descriptor, precision: str, compile: bool, size: Size, budget: Budget, gpus: str = ALL_GPUS
) -> Network:
    """Return the model ready on the host's devices, with the dtype and memory format that are fastest for
    images of this size.

    `gpus` is one of GPUS: ONE_GPU uses only the loader's device.
    """
    settings, devices = (precision, compile, gpus), _devices(model)
    if gpus == ONE_GPU:
        devices = devices[:1]
    ready = _networks.pop(model, None)
    store = ready.store if ready else MeasuredModel(model, devices[0])
    if ready and ready.settings != settings:
        ready = None  # the last reference: its memory is free before the new copy is made
    if not store:
        log.info(
            "Upscale: measuring this model's receptive field and the fastest settings, once per model "
            "and device."
        )
    exact, watched = precision == "float32", partial(_load, watched=True)

    def fitting() -> int:
        plain = Network(model, devices[:1], watched, TensorFormat(), store, budget, exact)
        return plain.fitting_pixels(free_memory(devices[0]))

    tensor_format = choose_tensor_format(model, devices[0], watched, precision, store, size, fitting, budget)
    if ready and ready.network.tensor_format != tensor_format:
        ready = None
    if ready is None:
        ready = _Ready(
            settings, store, _new_network(model, devices, tensor_format, store, budget, exact, compile)
        )
    _networks[model], ready.blended = ready, False
    ready.network.load()
    if ready.network.compile_error:
        log_once(_compile_text(ready.network.compile_error), level=WARNING)
    return ready.network


def _new_network(
    model: Descriptor,
    devices: Sequence[torch.device],
    tensor_format: TensorFormat,
    store: MeasuredModel,
    budget: Budget,
    exact: bool,
    compile: bool,
) -> Network:
    load = partial(_load, watched=not compile)  # a hook would break the compiled graph
    network = Network(model, devices, load, tensor_format, store, budget, exact)
    if compile:
        network.compile(lambda error: log_once(_compile_text(error), level=WARNING))
    return network


def fallbacks(model: Descriptor) -> list[str]:
    """Return a text for each setting that the model's last run could not use."""
    ready = _networks.get(model)
    if ready is None:
        return []
    failure = ready.network.compile_error
    return [*([_compile_text(failure)] if failure else []), *([BLENDED] if ready.blended else [])]


def note_blended(model: Descriptor, tile_size: int) -> None:
    """Record that there was too little memory for an image in one piece, unless the user chose a tile size;
    with more memory the next run gives another image.
    """
    if not tile_size:
        _networks[model].blended = True
        log_once(BLENDED, level=WARNING)
        run_again()


def _compile_text(error: Exception) -> str:
    return f"compile: torch.compile failed ({type(error).__name__}). Continuing without it."


def _devices(model: Any) -> list[torch.device]:
    """Return the devices for the model: the loader's device first, then the host's other ones of its kind."""
    patcher = getattr(model, "patcher", None)
    first = patcher.load_device if patcher else comfy.model_management.get_torch_device()
    return sibling_devices(torch.device(first))


def _load(model: Any, device: torch.device, watched: bool) -> None:
    """Bring a copy's weights to `device` through the host, which frees only as much memory as needed.

    `watched` updates the Cancel button and the progress bar after each layer, not only after tiles.
    """
    if getattr(model, "patcher", None) is None:
        model.patcher = new_patcher(model.model, device)
        if watched:
            watch_layers(model.model)
    load_whole(model.patcher)
    if next(model.model.parameters()).device != device:
        model.model.to(device)
