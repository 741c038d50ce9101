"""Train the toy world's autoencoder: a TAESD between scene latents and their crisp images.

Run from the repository's root with ComfyUI on the module path; about twenty minutes on one CPU core::

    PYTHONPATH=/path/to/ComfyUI python -m devhost.training.vae assets/tiny/vae.safetensors

The decoder learns from latents as a sampler leaves them (slightly noisy, blurred and scaled); the encoder
learns the latents proper, the mask included. The two share nothing, so they are trained one after the other.

Dimensions: B scenes, H and W in latent pixels.
"""

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from comfy.cli_args import args as host_arguments

from devhost.tiny.scenes import Scenes, random_scenes

host_arguments.cpu = True  # read once, when the next import runs
from comfy.taesd.taesd import TAESD  # noqa: E402

CROP = (12, 12)
BATCH = 8
LEARNING_RATE = 1e-3
WARM_UP = 0.02


def build_autoencoder() -> TAESD:
    """Return the host's TAESD with torch's usual initial weights (the host's layers come without any)."""
    autoencoder = TAESD(latent_channels=4)
    for module in autoencoder.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.Conv2d.reset_parameters(module)
    autoencoder.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return autoencoder.train().requires_grad_(True)


def draw_crops(generator: torch.Generator) -> Scenes:
    """Draw scenes whose objects are as large against the crop as in images up to four times its side."""
    return random_scenes(
        BATCH, CROP, generator, heights=(0.6, 0.9), close_ups=0.75, close_up_heights=(0.9, 3.2)
    )


def degrade(latents: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Blur, scale and disturb latents by amounts drawn per scene, as a short sampling run would."""

    def lot(high: float) -> torch.Tensor:
        return high * torch.rand(len(latents), 1, 1, 1, generator=generator)

    smooth = F.avg_pool2d(F.pad(latents, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    blurred = torch.lerp(latents, smooth, lot(0.6))
    noise = torch.randn(latents.shape, generator=generator)
    return blurred * (0.9 + lot(0.2)) + noise * lot(0.15)


def decoder_loss(autoencoder: TAESD, generator: torch.Generator) -> torch.Tensor:
    """Compare decoded, degraded latents with the images."""
    latents, pictures = draw_crops(generator).pairs()
    return _distance(autoencoder.taesd_decoder(degrade(latents, generator)), pictures)


def encoder_loss(autoencoder: TAESD, generator: torch.Generator) -> torch.Tensor:
    """Compare encoded images with the latents."""
    latents, pictures = draw_crops(generator).pairs()
    return _distance(autoencoder.taesd_encoder(pictures), latents)


def _distance(actual: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    difference = actual.float() - wanted
    return difference.abs().mean() + difference.square().mean()


def learning_rate(progress: float) -> float:
    """Return the rate after a share ``progress`` of the steps: a short rise, then half a cosine to zero."""
    return LEARNING_RATE * min(1.0, progress / WARM_UP) * 0.5 * (1 + math.cos(math.pi * progress))


def train(module: torch.nn.Module, loss: Callable[[], torch.Tensor], steps: int) -> None:
    """Train ``module`` on ``steps`` batches of ``loss``."""
    optimiser = torch.optim.Adam(module.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98))
    start = time.monotonic()
    for step in range(1, steps + 1):
        optimiser.param_groups[0]["lr"] = learning_rate(step / steps)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = loss()
        optimiser.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimiser.step()
        if step % 50 == 0:
            seconds = time.monotonic() - start
            print(f"step {step}/{steps}  loss {value.item():.4f}  {seconds:.0f} s", flush=True)


def save(autoencoder: TAESD, path: Path) -> None:
    """Write the weights in half precision, with the neutral scale and shift that the host expects."""
    state = {name: value.half().contiguous() for name, value in autoencoder.state_dict().items()}
    safetensors.torch.save_file(state, path)


def main() -> None:
    """Train decoder and encoder one after the other and save both."""
    parser = argparse.ArgumentParser(description="Train the autoencoder of the toy world.")
    parser.add_argument("output", type=Path, help="where the weights go (.safetensors)")
    parser.add_argument("--decoder-steps", type=int, default=2600)
    parser.add_argument("--encoder-steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    torch.manual_seed(arguments.seed)
    generator = torch.Generator().manual_seed(arguments.seed)
    autoencoder = build_autoencoder()
    train(autoencoder.taesd_decoder, lambda: decoder_loss(autoencoder, generator), arguments.decoder_steps)
    train(autoencoder.taesd_encoder, lambda: encoder_loss(autoencoder, generator), arguments.encoder_steps)
    save(autoencoder, arguments.output)


if __name__ == "__main__":
    main()
