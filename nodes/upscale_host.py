"""Tiled upscaling with the host's services: its devices and memory, its progress bar, preview and cancel button."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import time
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import comfy.model_management
import comfy.model_patcher
import comfy.utils
import folder_paths
import torch
from torch import Tensor, nn

from ..upscale.channels import Channels
from ..upscale.network import Descriptor, Network, choose_form
from ..upscale.upscaler import Progress, Upscale
from .filling_picture import LONGEST, FillingPicture

log = logging.getLogger("megapixel")

MODELS = Path(__file__).resolve().parent.parent / "assets" / "upscale_models"
STEPS = 1000  # of the progress bar
PREVIEW_SECONDS = 0.3  # between two previews
CPU_SHARE = 0.5  # of the free main memory that tiles may take
RESULT_SHARE = 0.9  # of the free main memory that the result may take

_networks: WeakKeyDictionary[Descriptor, tuple[tuple[str, bool], Network]] = WeakKeyDictionary()


def offer_models() -> None:
    """Let the host's loader list the upscale models that come with the pack."""
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
) -> Tensor:
    """Return IMAGE (F, H, W, C) enlarged by an UPSCALE_MODEL: (F, height, width, C) in the host's type and place.

    Raises:
        ValueError, MemoryError: one sentence about the socket that is to blame.
    """
    check_model(upscale_model)
    pictures = _pictures(image)
    given = pictures.shape[-2], pictures.shape[-1]
    size = result_size(given, upscale_model.scale, scale_by, width, height)
    device, dtype = comfy.model_management.intermediate_device(), _intermediate_dtype()
    channels = Channels(pictures.shape[1], upscale_model.input_channels, alpha)
    _check_memory(len(pictures), channels.result, size, device, dtype)
    pictures = _finite(pictures)
    network = _network(upscale_model, precision, compile)
    watcher = _Watcher(pictures, sum(len(_layers(module)) for module in network.modules))
    upscale = Upscale(
        free=lambda: free_memory(network.device),
        size=size,
        tile=tile_size,
        alpha=alpha,
        device=device,
        dtype=dtype,
        recover=lambda: _recovered(network.device),
        report=watcher,
        say=lambda plan: log.info("Upscale: %s", plan),
    )
    watching = _watcher.set(watcher)
    try:
        enlarged = upscale(pictures, network)
    except Exception as error:
        if not compile or not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        log.warning(
            "compile: torch.compile does not work here (%s). Going on without it.", type(error).__name__
        )
        enlarged = upscale(pictures, _network(upscale_model, precision, compile=False))
    finally:
        _watcher.reset(watching)
    return enlarged.movedim(1, -1)


def check_model(model: Any) -> None:
    """Refuse what cannot enlarge a picture.

    Raises:
        ValueError: one sentence.
    """
    if getattr(model, "purpose", None) == "Inpainting":
        raise ValueError(
            "upscale_model: expected a model that enlarges a picture, got one that fills masked parts (inpainting). "
            "Choose an upscale model."
        )
    if not all(hasattr(model, name) for name in ("model", "scale", "input_channels", "size_requirements")):
        raise ValueError(
            f"upscale_model: expected a model as Load Upscale Model gives it, got {type(model).__name__}. "
            "Connect that loader."
        )


def result_size(
    size: tuple[int, int], model_scale: int, scale_by: float, width: int, height: int
) -> tuple[int, int]:
    """Return (height, width) of the result; an exact side goes before `scale_by`, and the other one follows it."""
    factor = scale_by or float(model_scale)
    if width or height:
        factor = width / size[1] if width else height / size[0]
    return height or max(1, round(size[0] * factor)), width or max(1, round(size[1] * factor))


def free_memory(device: torch.device) -> float:
    """Return the bytes on `device` that tiles may take."""
    free = _free(device)
    return free * CPU_SHARE if device.type in ("cpu", "mps") else free


def _free(device: torch.device) -> float:
    free = comfy.model_management.get_free_memory(device)
    assert not isinstance(free, tuple), "a pair comes only on request"
    return float(free)


def _recovered(device: torch.device) -> float:
    comfy.model_management.soft_empty_cache()
    return free_memory(device)


def _pictures(image: Tensor) -> Tensor:
    """Return (F, C, H, W) for (F, H, W, C).

    Raises:
        ValueError: nothing in it; one sentence.
    """
    if image.dim() != 4 or not image.numel():
        shape = "x".join(str(length) for length in image.shape)
        raise ValueError(
            f"image: expected pictures of at least 1x1 pixels, got a tensor of {shape}. Check the node before."
        )
    return image.movedim(-1, 1)


def _finite(pictures: Tensor) -> Tensor:
    """Return the pictures with black for NaN and the range's ends for infinities: one pixel must not cost a video."""
    if bool(pictures.sum(dtype=torch.float32).isfinite()):
        return pictures
    wrong = int((~pictures.isfinite()).sum())
    if not wrong:
        return pictures
    log.warning(
        "image: expected numbers, got %d values that are none (NaN or infinite). NaN is taken as black.",
        wrong,
    )
    return pictures.nan_to_num(nan=0.0, posinf=1.0, neginf=0.0)


def _check_memory(
    count: int, channels: int, size: tuple[int, int], device: torch.device, dtype: torch.dtype
) -> None:
    """Refuse a result that cannot fit, before anything starts.

    Raises:
        MemoryError: one sentence with the numbers.
    """
    needed = count * channels * size[0] * size[1] * dtype.itemsize
    free = _free(device)
    if needed > RESULT_SHARE * free:
        raise MemoryError(
            f"image: expected a result that fits {free / 2**30:.1f} GB of free memory, got {needed / 2**30:.1f} GB for "
            f"{count} of {size[1]}x{size[0]}. Take a smaller scale_by or fewer frames."
        )


def _intermediate_dtype() -> torch.dtype:
    chosen = getattr(comfy.model_management, "intermediate_dtype", None)  # new after 0.16
    return chosen() if chosen else torch.float32


def _network(model: Descriptor, precision: str, compile: bool) -> Network:
    """Return the model ready on the host's devices; it stays ready for the next run while the model lives."""
    wanted = precision, compile
    settings, network = _networks.get(model, (None, None))
    if network is None or settings != wanted:
        _networks.pop(model, None)  # its weights make room for the new copy
        network = _new_network(model, precision, compile)
        _networks[model] = wanted, network
    else:
        network.load()
    return network


def _new_network(model: Descriptor, precision: str, compile: bool) -> Network:
    devices = _devices(model)
    store = MeasuredModel(model, devices[0])
    if not store:
        log.info("Upscale: measuring how far this model looks and what is fastest here, once.")
    load = _load if compile else _load_watched  # a hook would break the compiled graph
    network = Network(model, devices, load, choose_form(model, devices[0], load, precision, store), store)
    if compile:
        network.compile()
    return network


def _devices(model: Any) -> list[torch.device]:
    """Return where the model is to run: the loader's device first, then the host's other ones of its kind."""
    patcher = getattr(model, "patcher", None)
    first = torch.device(patcher.load_device if patcher else comfy.model_management.get_torch_device())
    listed = getattr(comfy.model_management, "get_all_torch_devices", list)()  # new after 0.18
    return [first, *(device for device in listed if device != first)] if first in listed else [first]


def _load(model: Any, device: torch.device) -> None:
    """Bring a copy's weights to `device` through the host, which frees what it must and no more."""
    if getattr(model, "patcher", None) is None:
        patcher_class = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
        offload = comfy.model_management.unet_offload_device()
        model.patcher = patcher_class(model.model, load_device=device, offload_device=offload)
    load = comfy.model_management.load_models_gpu
    # Without it some versions leave a part of the weights behind, which these networks cannot fetch.
    whole = {"force_full_load": True} if "force_full_load" in inspect.signature(load).parameters else {}
    load([model.patcher], **whole)
    if next(model.model.parameters()).device != device:
        model.model.to(device)


def _load_watched(model: Any, device: torch.device) -> None:
    """Load a copy, and let the cancel button and the progress bar go by its layers, not only by tiles."""
    if getattr(model, "patcher", None) is None:
        for layer in _layers(model.model):
            layer.register_forward_pre_hook(_begin_layer)
    _load(model, device)


def _layers(module: nn.Module) -> list[nn.Module]:
    return [layer for layer in module.modules() if not any(layer.children())]


def _begin_layer(layer: nn.Module, arguments: Any) -> None:
    comfy.model_management.throw_exception_if_processing_interrupted()
    if (watcher := _watcher.get()) is not None:
        watcher.begin_layer()


class MeasuredModel(dict[str, Any]):
    """What was measured of a model on a device, kept in the user's folder so that it is measured once."""

    def __init__(self, model: Descriptor, device: torch.device) -> None:
        self._file = Path(folder_paths.get_user_directory()) / "megapixel" / "upscale_models.json"
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        self._key = f"{fingerprint(model)} {name} torch {torch.__version__}"
        super().__init__(self._read().get(self._key, {}))

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            fresh = self._file.with_suffix(".new")
            fresh.write_text(json.dumps({**self._read(), self._key: dict(self)}, indent=1), encoding="utf-8")
            fresh.replace(self._file)
        except OSError as error:
            log.debug("Could not keep what was measured in %s: %s", self._file, error)

    def _read(self) -> dict[str, Any]:
        """Return what the file holds for every model; nothing where it is missing or damaged."""
        try:
            kept = json.loads(self._file.read_text(encoding="utf-8"))
            return {key: measured for key, measured in kept.items() if isinstance(measured, dict)}
        except (OSError, ValueError, AttributeError):
            return {}


def fingerprint(model: Descriptor) -> str:
    """Return a name for a model's architecture and weights: from every tensor its name, shape, and first and last values."""
    digest = hashlib.sha256()
    for name, weights in model.model.state_dict().items():
        ends = torch.cat([weights.flatten()[:16], weights.flatten()[-16:]]).float().cpu()
        digest.update(f"{name} {tuple(weights.shape)}".encode() + ends.numpy().tobytes())
    return digest.hexdigest()[:16]


class _Watcher:
    """The progress bar, the preview and the cancel button, after every tile and within it."""

    def __init__(self, pictures: Tensor, layers: int) -> None:
        self._pictures, self._layers = pictures, layers
        self._bar = comfy.utils.ProgressBar(STEPS)
        self._filling: FillingPicture | None = None
        self._number = -1
        self._shown = 0.0
        self._progress: Progress | None = None
        self._begun = self._step = 0

    def __call__(self, progress: Progress) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        self._progress, self._begun = progress, 0
        self._step = round(progress.share * STEPS)
        self._bar.update_absolute(self._step, STEPS, self._preview(progress))

    def begin_layer(self) -> None:
        """Move the bar on within a tile."""
        if self._progress is None:
            return
        self._begun += 1
        within = min(1.0, self._begun / self._layers)
        step = int((self._progress.share + within * self._progress.ahead) * STEPS)
        if step > self._step:
            self._step = step
            self._bar.update_absolute(step, STEPS)

    def _preview(self, progress: Progress) -> tuple[str, Any, int] | None:
        if progress.part is None:
            return None
        if self._filling is None or self._number != progress.picture:
            self._number = progress.picture
            self._filling = FillingPicture(self._pictures[progress.picture])
        self._filling.put(progress.part, progress.place)
        if time.monotonic() < self._shown + PREVIEW_SECONDS and progress.share < 1:
            return None
        self._shown = time.monotonic()
        return ("JPEG", self._filling.image(), LONGEST)


_watcher: ContextVar[_Watcher | None] = ContextVar("watcher", default=None)
