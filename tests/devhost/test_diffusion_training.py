"""The trainer of the tiny models: what is trained is what the host samples,
and batches hold what the card says.
"""

from __future__ import annotations

import pytest
import torch

from devhost.tiny.forms import EMPTY_CLASS, FIRST_CROWD, TEXTS
from devhost.tiny.model_file import load_model
from devhost.tiny.node import ASSETS
from devhost.tiny.text import build_clip
from devhost.training import diffusion


@pytest.mark.parametrize("arch", ["sd15", "sdxl"])
def test_the_host_predicts_what_was_trained(tmp_path, arch):
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        trained = diffusion.Model(arch)
    with torch.no_grad():
        for weight in trained.parameters():  # half precision on disk; nothing is zero any more
            weight.copy_((weight + 0.02 * torch.randn(weight.shape, generator=generator)).half())
        trained.prompts.words.copy_(trained.prompts.words.half())
    diffusion.save(trained, tmp_path / "model.safetensors", seen=320)

    tiny = load_model(tmp_path / "model.safetensors")
    model, class_tokens = tiny.patcher, tiny.class_tokens
    assert (tiny.facts.seen, tiny.facts.names) == (320, TEXTS)
    noisy, timestep = torch.randn(1, 4, 16, 16, generator=generator), 400
    with torch.no_grad():
        expected = trained(
            noisy, torch.tensor([float(timestep)]), torch.tensor([3]), torch.tensor([[128.0, 128.0]])
        )
        sampling = model.model.model_sampling
        sigma = sampling.sigma(torch.tensor([timestep]))
        extra = {}
        if arch == "sdxl":
            clip = build_clip(class_tokens)
            [[_, options]] = clip.encode_from_tokens_scheduled(clip.tokenize("a red ring"))
            extra["y"] = model.model.encode_adm(
                pooled_output=options["pooled_output"], width=128, height=128, device="cpu"
            )
        scaled = noisy * (sigma**2 + 1) ** 0.5  # the host divides by this before the network
        denoised = model.model.apply_model(scaled, sigma, c_crossattn=class_tokens[3:4], **extra)
    predicted = (scaled - denoised) / sigma
    torch.testing.assert_close(predicted, expected, atol=5e-3, rtol=5e-3)


def test_the_schedule_is_the_hosts():
    model = load_model(ASSETS / "sd15.safetensors").patcher
    shares = diffusion.signal_shares()
    sigmas = ((1 - shares) / shares).sqrt()
    torch.testing.assert_close(sigmas, model.model.model_sampling.sigmas, rtol=1e-4, atol=1e-5)


def test_batches_show_windows_of_the_less_noisy_steps_alone():
    generator = torch.Generator().manual_seed(0)
    batches = [diffusion.draw_batch(generator) for _ in range(40)]
    timesteps, classes = (
        torch.cat([getattr(batch, name) for batch in batches]) for name in ("timesteps", "classes")
    )
    latents = torch.cat([batch.latents for batch in batches])
    assert all((batch.timesteps.sort().values.diff() <= 64).all() for batch in batches)  # spread evenly
    single = (classes < FIRST_CROWD) & (classes != EMPTY_CLASS)
    filled = (latents[:, 3] > 0).float().mean((1, 2))
    whole = filled[single & (timesteps >= diffusion.WINDOWS_BELOW)]
    seen = filled[single & (timesteps < diffusion.WINDOWS_BELOW)]
    assert 0.12 < whole.min() < whole.max() < 0.35
    assert seen.min() < 0.05  # a corner that the object does not reach
    assert seen.max() > 0.4
    assert 0.1 < (classes == EMPTY_CLASS).float().mean() < 0.2


def test_the_network_is_told_the_mean_of_its_noise():
    """Group norm over single channels would hide it; then the start noise would have to be whitened."""
    tiny = load_model(ASSETS / "sd15.safetensors")
    model, class_tokens = tiny.patcher, tiny.class_tokens
    sampling = model.model.model_sampling
    sigma = sampling.sigma(torch.tensor([900]))
    noise = torch.randn(8, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    shift = torch.linspace(-0.5, 0.5, 8)[:, None, None, None]
    with torch.no_grad():
        noisy = (noise + shift) * sigma
        denoised = model.model.apply_model(
            noisy, sigma.expand(8), c_crossattn=class_tokens[:1].expand(8, -1, -1)
        )
    told = ((noisy - denoised) / sigma).mean((1, 2, 3))
    assert torch.corrcoef(torch.stack([told, shift.flatten()]))[0, 1] > 0.99
    assert told[-1] - told[0] > 0.4  # of 1: such shifts are rare in its training
