"""Soft masks as strengths beside the host's own node."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from comfy_extras.nodes_differential_diffusion import DifferentialDiffusion
from megapixel.host.segment_sampler import with_soft_masks
from megapixel.host.sigmas import noise_levels

from devhost.sampling import sample
from devhost.tiny.random_models import conditioning

MASK_FUNCTION = "denoise_mask_function"  # in a model's options, the host's name


def extra(model, sigmas):
    """What the host gives a mask function: its guider holds the model as `inner_model`."""
    return {"model": SimpleNamespace(inner_model=model.model), "sigmas": sigmas}


@pytest.fixture
def mask(draw):
    """(2, 1, 7, 10): soft, with all of 0 and all of 1 somewhere."""
    soft = draw(2, 1, 7, 10)
    soft[..., 0], soft[..., 1] = 0.0, 1.0
    return soft


def test_a_pixel_opens_when_the_share_of_the_run_that_is_left_falls_to_its_mask(mask, sd15):
    open_mask = with_soft_masks(sd15).model_options[MASK_FUNCTION]
    sigmas = noise_levels(sd15, "euler", "normal", 6, 1.0)
    levels = sd15.model.model_sampling.sigmas.numpy()  # one for each of the steps in training
    open_pixels = []
    for level in sigmas[:-1].tolist():
        # literally: where a level lies among those of training, by its logarithm
        time = float(np.interp(np.log(level), np.log(levels), np.arange(len(levels))))
        left = time / (len(levels) - 1)
        opened = open_mask(torch.full((2,), level), mask, extra_options=extra(sd15, sigmas))
        near = (mask - left).abs() < 2e-3  # the host rounds to whole steps of training
        expected = (mask >= left).float()
        assert bool(((opened == expected) | near).all())
        open_pixels.append(int(opened.sum()))
    assert open_pixels == sorted(open_pixels)
    assert open_pixels[0] == int((mask == 1).sum())  # at first only what is to be drawn wholly anew
    assert open_pixels[-1] == mask.numel()


def test_sampling_gives_the_same_bits_as_with_the_hosts_node(sd15, draw):
    latent, mask = draw(2, 4, 9, 6), draw(2, 1, 9, 6, seed=1)
    settings = {"latent": latent, "steps": 4, "batch": 2}

    def run(model):
        return sample_masked(model, mask, **settings)

    host = run(DifferentialDiffusion.execute(sd15).args[0])
    assert torch.equal(run(with_soft_masks(sd15)), host)
    assert not torch.equal(run(sd15), host)


def sample_masked(model, mask, latent, steps, batch):
    import comfy.sample

    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return comfy.sample.sample(
            model, noise, steps, 2.0, "euler", "normal", conditioning(model, 1), conditioning(model, 2), latent,
            denoise=0.6, noise_mask=mask, disable_pbar=True, seed=0,
        )  # fmt: skip


def test_a_model_with_its_own_way_of_taking_masks_keeps_it(sd15):
    own = sd15.clone()
    own.set_model_denoise_mask_function(lambda sigma, mask, extra_options: mask)
    assert with_soft_masks(own) is own


def test_the_model_that_others_hold_stays_as_it_is(sd15):
    before = sample(sd15, (9, 6))
    soft = with_soft_masks(sd15)
    assert soft is not sd15
    assert MASK_FUNCTION in soft.model_options
    assert MASK_FUNCTION not in sd15.model_options
    assert torch.equal(sample(sd15, (9, 6)), before)
    assert torch.equal(sample(soft, (9, 6)), before)  # without a mask nothing changes
