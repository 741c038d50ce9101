"""Sample one unit in this process with ComfyUI's own sampler, and count its objects."""

# The pack has its name only after `import_host()`.
# pyright: reportMissingImports=false

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..host import import_host
from ..record_lines import digest
from ..tiny import forms, scenes
from ..tiny.counting import count_objects
from ..tiny.forms import TEXTS
from ..tiny.scenes import random_scenes, random_several_objects
from .kept import Kept, Record
from .methods import DRAWN, SETTLED, curve_point, method_of
from .plan import CFG, MODELS, SAMPLER, SCHEDULER, SIZES, STEPS, TRAINED_SIZE, Subject, Unit, class_of

ASSETS = Path(__file__).resolve().parents[2] / "assets" / "tiny"

LOTS = {"one": random_scenes, "many": random_several_objects}

Conditioning = list[list[Any]]


def sources() -> dict[str, str]:
    """Return a digest of the weights of each existing model, and of the code that draws scenes."""
    files = {model: ASSETS / f"{model}.safetensors" for model in MODELS}
    weights = {model: digest(file) for model, file in files.items() if file.exists()}
    return weights | {DRAWN: digest(Path(scenes.__file__), Path(forms.__file__))}


def draw(unit: Unit, folder: Path) -> Record:
    """Sample or draw a unit, save its latents in the folder and return its record,
    which is not written yet.
    """
    if unit.cell.model == DRAWN:
        make = drawn_scenes
    else:
        make = sampled
        patched(unit.cell.model, unit.cell.method)  # loaded before the clock runs
    began = time.process_time()
    classes, latents = make(unit)
    seconds = time.process_time() - began
    rounded = latents.numpy().astype(np.float16)
    counts = count_objects(rounded.astype(np.float32), classes)
    return Record(unit, tuple(classes), tuple(counts), seconds, Kept(folder).save_latents(unit, rounded))


def drawn_scenes(unit: Unit) -> tuple[list[int], torch.Tensor]:
    """Return classes and latents of drawn scenes; each scene has its own random generator."""
    lots = LOTS[unit.cell.subject]
    found = [lots(1, SIZES[unit.cell.size], _generator(unit, picture)) for picture in unit.pictures]
    classes = [int(scene.classes) for scene in found]
    return classes, torch.cat([scene.latents() for scene in found])


def sampled(unit: Unit) -> tuple[list[int], torch.Tensor]:
    """Return classes and latents (B, 4, H, W) as the method's model draws them."""
    cell = unit.cell
    classes = [class_of(cell.subject, picture) for picture in unit.pictures]
    model = patched(cell.model, cell.method)
    from ..sampling import sample  # can be imported once the host can

    curve, end = curve_point(cell.method) or ("", 0.0)
    settled = curve == SETTLED
    latents = sample(
        model, SIZES[cell.size],
        steps=STEPS, cfg=CFG, sampler=SAMPLER, scheduler=SCHEDULER, seed=unit.sampler_seed,
        noise=start_noise(unit),
        latent=enlarged_scenes(unit, classes) if settled else torch.zeros(len(classes), 4, *SIZES[cell.size]),
        sigmas=sigmas_from(model, end) if settled else None,
        positive=prompts(cell.model, [TEXTS[number] for number in classes]),
        negative=prompts(cell.model, [""]),
    )  # fmt: skip
    return classes, latents.float().cpu()


def start_noise(unit: Unit) -> torch.Tensor:
    """Return the noise (B, 4, H, W); that of an image depends only on the run's seed, the image's number and
    its size.
    """
    return torch.stack(
        [
            torch.randn(4, *SIZES[unit.cell.size], generator=_generator(unit, picture))
            for picture in unit.pictures
        ]
    )


def enlarged_scenes(unit: Unit, classes: Sequence[int]) -> torch.Tensor:
    """Return latents (B, 4, H, W) of scenes drawn at the trained size, one for each requested class,
    enlarged.
    """
    small = [
        _scene_of(wanted, unit.cell.subject, _generator(unit, picture))
        for wanted, picture in zip(classes, unit.pictures, strict=True)
    ]
    return F.interpolate(torch.cat(small), SIZES[unit.cell.size], mode="bicubic")


def _scene_of(wanted: int, subject: Subject, generator: torch.Generator) -> torch.Tensor:
    while True:
        scene = LOTS[subject](1, TRAINED_SIZE, generator)
        if int(scene.classes) == wanted:
            return scene.latents()


def sigmas_from(model: Any, share: float) -> torch.Tensor:
    """Return the noise levels of the steps from a share of the sampling on."""
    import comfy.samplers

    sampling = model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, SCHEDULER, STEPS)
    return sigmas[sigmas <= sampling.percent_to_sigma(share)]


def _generator(unit: Unit, picture: int) -> torch.Generator:
    return torch.Generator().manual_seed(unit.seed + picture)


def prompts(model: str, texts: Sequence[str]) -> Conditioning:
    """Return one conditioning with a row for each text, with pooled text if the encoder returns it."""
    rows = [_encoded(model, text) for text in texts]
    pooled = [options["pooled_output"] for _, options in rows if options.get("pooled_output") is not None]
    options = {"pooled_output": torch.cat(pooled)} if pooled else {}
    return [[torch.cat([tokens for tokens, _ in rows]), options]]


@cache
def _encoded(model: str, text: str) -> tuple[torch.Tensor, dict[str, Any]]:
    _, clip, _ = checkpoint(model)
    tokens, options = clip.encode_from_tokens_scheduled(clip.tokenize(text))[0]
    return tokens, options


@cache
def patched(model: str, method: str) -> Any:
    """Return a model with a method applied."""
    return method_of(method)(checkpoint(model)[0])


@cache
def checkpoint(model: str) -> Any:
    """Load a tiny model with its text encoder and autoencoder, in the host, on one thread."""
    import_host()
    torch.set_num_threads(1)

    from megapixel.upscale.form import computes_natively

    from ..tiny import node

    native = computes_natively(torch.bfloat16, torch.device("cpu"))
    return node.load_trained(model, torch.bfloat16 if native else torch.float32)
