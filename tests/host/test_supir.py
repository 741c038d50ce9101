"""SUPIR of the host on SDXL in segments: each is restored as its crop would be alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from comfy_extras.nodes_model_patch import SUPIRApply
from megapixel.host.segment_sampler import Sampling
from megapixel.host.segs import Enlargement, Pasting, upscale_segments
from megapixel.segs.segment import SEG

from devhost.tiny import random_models
from devhost.tiny.random_models import conditioning
from devhost.tiny.supir import LocalVae, model_patch

SIZE = (64, 128)
BOXES = [(0, 0, 64, 64), (64, 0, 128, 64)]
SEED = 5


@pytest.fixture(scope="module")
def picture(draw):
    return draw(1, *SIZE, 3)


@pytest.fixture(scope="module")
def small_sdxl():
    return random_models.sdxl(
        transformer_depth=[0, 0, 1, 1, 1, 1], transformer_depth_output=[0, 0, 0, 1, 1, 1, 1, 1, 1], transformer_depth_middle=1
    )  # fmt: skip


@pytest.fixture(scope="module")
def restorer():
    return model_patch()


def restored(model, restorer, image, restore=4.0):
    """Return the model with SUPIR on it, as the host's node makes it for a picture."""
    strengths = {
        "strength_start": 1.0,
        "strength_end": 1.0,
        "restore_cfg": restore,
        "restore_cfg_s_tmin": 0.05,
    }
    return SUPIRApply.execute(
        model=model, model_patch=restorer, vae=LocalVae(), image=image, **strengths
    ).args[0]


def refine(model, image, boxes, seed=SEED, batch_size=1):
    text = conditioning(model, tokens=8)
    sampling = Sampling(
        model, LocalVae(), text, text, seed, 2, 2.0, "euler", "normal", 0.6, noise_mask_feather=0, batch_size=batch_size
    )  # fmt: skip
    found = [
        SEG(None, np.ones((y2 - y1, x2 - x1), np.float32), 1.0, (x1, y1, x2, y2), (x1, y1, x2, y2), "", None)
        for x1, y1, x2, y2 in boxes
    ]
    size = image.shape[1], image.shape[2]
    with torch.inference_mode():
        return upscale_segments(
            image, (size, found), Enlargement(1.0), sampling, Pasting(feather=0, smallest_crop=8)
        )[0]


@pytest.mark.parametrize("restore", [4.0, 0.0], ids=["pulled to the picture", "not pulled"])
def test_each_segment_is_restored_as_its_crop_alone(restore, small_sdxl, restorer, picture):
    result = refine(restored(small_sdxl, restorer, picture, restore), picture, BOXES)
    for number, (x1, y1, x2, y2) in enumerate(BOXES):
        crop = picture[:, y1:y2, x1:x2].contiguous()
        alone = refine(restored(small_sdxl, restorer, crop, restore), crop, [(0, 0, 64, 64)], SEED + number)
        torch.testing.assert_close(result[:, y1:y2, x1:x2], alone, rtol=0, atol=1e-5)


def test_it_acts_and_goes_in_batches_and_leaves_the_model_as_it_was(small_sdxl, restorer, picture):
    before = refine(small_sdxl, picture, BOXES)
    model = restored(small_sdxl, restorer, picture)
    single, together = (refine(model, picture, BOXES, batch_size=size) for size in (1, 2))
    torch.testing.assert_close(together, single, rtol=0, atol=1e-4)
    assert (single - before).abs().mean() > 0.01
    assert torch.equal(refine(small_sdxl, picture, BOXES), before)
