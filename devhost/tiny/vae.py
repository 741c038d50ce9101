"""The toy world's autoencoder: scene latents to crisp images and back, 8 pixels a latent pixel.

A TAESD of the host with own weights (see ``devhost/training/vae.py``). It works on latents as the sampler
leaves them, so its scale and shift are neutral.
"""

from pathlib import Path

import comfy.sd
from safetensors.torch import load_file


def load_vae(path: Path) -> comfy.sd.VAE:
    """Load the autoencoder as the host's VAE."""
    state = {name: value.float() for name, value in load_file(path).items()}
    return comfy.sd.VAE(sd=state)
