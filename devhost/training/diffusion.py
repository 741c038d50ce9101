"""Train the diffusion models of the toy world: SD 1.5's and SDXL's topology at a tenth of the width.

Run from the repository's root with ComfyUI on the module path; about forty minutes on one CPU core each::

    PYTHONPATH=/path/to/ComfyUI python -m devhost.training.diffusion sd15 assets/tiny/sd15.safetensors

The models learn to draw one person, one ring or some balls in a frame of 16 x 16 latent pixels. So that they
learn detail of every size, as a real model does, half of the samples at the less noisy steps are windows of
scenes up to three times as large; at the noisy steps, which decide the composition, all samples are whole
scenes.

Dimensions: B scenes, K classes, T tokens, D their width.
"""

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from comfy.cli_args import args as host_arguments
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from devhost.tiny.forms import EMPTY_CLASS, TEXTS
from devhost.tiny.scenes import random_scenes, random_several_objects

host_arguments.cpu = True  # read once, when the next imports run
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel  # noqa: E402
from comfy.ldm.modules.diffusionmodules.util import timestep_embedding  # noqa: E402

from devhost.tiny.model_file import Facts, save_model  # noqa: E402
from devhost.tiny.unet import SceneOperations  # noqa: E402

TOKENS, CONTEXT = 4, 64

SIZE = (16, 16)
SAMPLES = 4
"""Points a side that each latent pixel is the mean of."""
SEVERAL_OBJECTS = 0.2
"""Share of scenes with several objects."""
TIMESTEPS = 1000
WINDOWS, WINDOWS_BELOW, ZOOMS = 0.5, 600, (1.2, 3.2)
"""Share of scenes seen through a window, the timestep below which they are, and their size."""
EMPTY_PROMPTS = 0.15
FRAME_SIZES = (64, 512)
"""Sides in pixels that SDXL's model is told at random, so that it takes no notice of them."""

STEPS = {"sd15": 6000, "sdxl": 4000}
BATCH = 32
LEARNING_RATE = 1e-3
WARM_UP, CONSTANT = 60, 0.4
"""Steps of the rise, and the share of the steps after which half a cosine falls to nearly zero."""
AVERAGE = 0.998
REPORT = 100
SAVE = 1000


@dataclass(frozen=True)
class Batch:
    """The data of one training step: latents (B, 4, H, W), class ids (B,) and timesteps (B,)."""

    latents: torch.Tensor
    classes: torch.Tensor
    timesteps: torch.Tensor


class Prompts(torch.nn.Module):
    """The class table (K, T, D), with one learnt vector for each word and one for the end."""

    def __init__(self) -> None:
        super().__init__()
        texts = [*(f"{text} ." for text in TEXTS), ". . . ."]
        words = sorted({word for text in texts for word in text.split()})
        self.rows: torch.Tensor
        self.register_buffer(
            "rows", torch.tensor([[words.index(word) for word in text.split()] for text in texts])
        )
        self.words = torch.nn.Parameter(torch.randn(len(words), CONTEXT) * 0.5)
        self.places = torch.nn.Parameter(torch.randn(TOKENS, CONTEXT) * 0.1)

    def forward(self) -> torch.Tensor:
        """Return the table; its last row is the empty prompt."""
        return self.words[self.rows] + self.places


class Model(torch.nn.Module):
    """A UNet with the class table that it is trained with."""

    def __init__(self, arch: str) -> None:
        super().__init__()
        self.arch = arch
        topology = facts_of(arch, 0).topology
        self.unet = UNetModel(**topology, dtype=torch.float32, operations=SceneOperations)
        self.prompts = Prompts()
        self.takes_sizes = topology["adm_in_channels"] is not None
        _initialise(self.unet)
        self.requires_grad_(True).train()

    def forward(
        self, noisy: torch.Tensor, timesteps: torch.Tensor, classes: torch.Tensor, sizes: torch.Tensor
    ) -> torch.Tensor:
        """Predict the noise of latents (B, 4, H, W); ``sizes`` (B, 2) are the frame's
        sides that SDXL is told.
        """
        context = self.prompts()[classes]
        pooled = _with_sizes(context.mean(1), sizes) if self.takes_sizes else None
        return self.unet(noisy, timesteps, context=context, y=pooled)


def _with_sizes(pooled: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """Join the pooled text (B, D) with the six numbers of SDXL: size,
    corner of the crop, size of the target.
    """
    numbers = torch.cat([sizes, torch.zeros_like(sizes), sizes], dim=1)
    embedded = timestep_embedding(numbers.flatten(), 256).reshape(len(sizes), -1)
    return torch.cat([pooled, embedded], dim=1)


def _initialise(unet: torch.nn.Module) -> None:
    """Give torch's usual weights (the host's layers come without any), and zero where a residual begins."""
    for name, module in unet.named_modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            torch.nn.init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            if module.bias is not None:
                bound = module.weight[0].numel() ** -0.5
                torch.nn.init.uniform_(module.bias, -bound, bound)
            if name == "out.2" or name.endswith(("out_layers.3", "proj_out")):
                for value in module.parameters():
                    torch.nn.init.zeros_(value)
        elif isinstance(module, torch.nn.GroupNorm | torch.nn.LayerNorm):
            torch.nn.init.ones_(module.weight)
            torch.nn.init.zeros_(module.bias)


def draw_batch(generator: torch.Generator) -> Batch:
    """Draw scenes and timesteps; the timesteps are spread evenly over the schedule."""
    spread = (torch.arange(BATCH) + torch.rand(BATCH, generator=generator)) / BATCH * TIMESTEPS
    timesteps = spread.long()[torch.randperm(BATCH, generator=generator)]
    windows = torch.rand(BATCH, generator=generator) < WINDOWS * (timesteps < WINDOWS_BELOW)
    zooms = ZOOMS[0] + (ZOOMS[1] - ZOOMS[0]) * torch.rand(BATCH, generator=generator)
    zoom = torch.where(windows, zooms, 1.0)[:, None, None]
    several_objects = round(SEVERAL_OBJECTS * BATCH)
    drawn = (
        random_several_objects(several_objects, SIZE, generator).cropped(zoom[:several_objects], generator),
        random_scenes(BATCH - several_objects, SIZE, generator).cropped(zoom[several_objects:], generator),
    )
    classes = torch.cat([scenes.classes for scenes in drawn])
    empty = torch.rand(BATCH, generator=generator) < EMPTY_PROMPTS
    latents = torch.cat([scenes.latents(SAMPLES) for scenes in drawn])
    return Batch(latents, classes.masked_fill(empty, EMPTY_CLASS), timesteps)


def signal_shares() -> torch.Tensor:
    """Return the share of signal in the variance at each timestep (1000,): SD's scaled linear schedule."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, TIMESTEPS, dtype=torch.float64) ** 2
    return (1 - betas).cumprod(0).float()


def noise_loss(model: Model, batch: Batch, shares: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return the mean squared error of the predicted noise of each scene, (B,)."""
    noise = torch.randn(batch.latents.shape, generator=generator)
    sizes = torch.randint(FRAME_SIZES[0], FRAME_SIZES[1] + 1, (BATCH, 2), generator=generator)
    share = shares[batch.timesteps][:, None, None, None]
    noisy = share.sqrt() * batch.latents + (1 - share).sqrt() * noise
    with torch.autocast("cpu", dtype=torch.bfloat16):
        predicted = model(noisy, batch.timesteps.float(), batch.classes, sizes.float())
    return (predicted.float() - noise).square().mean((1, 2, 3))


def learning_rate(step: int, steps: int) -> float:
    """Return the rate of a step: a short rise, a plateau, half a cosine down to a fiftieth."""
    progress = step / steps
    fall = 0.5 * (1 + math.cos(math.pi * max(0.0, progress - CONSTANT) / (1 - CONSTANT)))
    return LEARNING_RATE * min(1.0, (step + 1) / WARM_UP) * (0.98 * fall + 0.02)


def train(model: Model, steps: int, generator: torch.Generator, output: Path) -> None:
    """Train on ``steps`` batches and save the running average of the weights,
    from time to time and at the end.
    """
    optimiser = torch.optim.AdamW(model.parameters(), LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(AVERAGE))
    shares, losses, start = signal_shares(), torch.zeros(0), time.monotonic()
    for step in range(1, steps + 1):
        optimiser.param_groups[0]["lr"] = learning_rate(step, steps)
        loss = noise_loss(model, draw_batch(generator), shares, generator)
        optimiser.zero_grad()
        loss.mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        average.update_parameters(model)
        losses = torch.cat([losses, loss.detach()])
        if step % REPORT == 0:
            print(
                f"step {step}/{steps}  loss {losses.mean():.4f}  {time.monotonic() - start:.0f} s", flush=True
            )
            losses = torch.zeros(0)
        if step % SAVE == 0 or step == steps:
            save(cast(Model, average.module), output, seen=step * BATCH)


def facts_of(arch: str, seen: int) -> Facts:
    """Return the metadata of a model's file after `seen` images."""
    return Facts(arch, width=32, heads=2, context=CONTEXT, trained_side=128, names=TEXTS, seen=seen)


def save(model: Model, path: Path, seen: int) -> None:
    """Write the weights, the class table and the metadata that a loader needs."""
    save_model(path, model.unet.state_dict(), model.prompts(), facts_of(model.arch, seen))


def main() -> None:
    """Train one model from random weights."""
    parser = argparse.ArgumentParser(description="Train a diffusion model of the toy world.")
    parser.add_argument("model", choices=STEPS)
    parser.add_argument("output", type=Path, help="where the weights go (.safetensors)")
    parser.add_argument("--steps", type=int, help="default: those of the shipped weights")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    torch.manual_seed(arguments.seed)
    generator = torch.Generator().manual_seed(arguments.seed)
    model = Model(arguments.model)
    train(model, arguments.steps or STEPS[arguments.model], generator, arguments.output)


if __name__ == "__main__":
    main()
