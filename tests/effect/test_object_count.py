"""The artefact and its cure, counted: a model that draws one object a picture, at twice its trained size.

Fixed seeds, few pictures, wide margins; `python3 dev.py demo` counts more of them.
"""

from __future__ import annotations

import pytest
import torch
from megapixel.patches.deep_shrink import DeepShrink, apply_deep_shrink

from devhost.sampling import sample
from devhost.tiny.counting import count_objects, summarise
from devhost.tiny.forms import CLASS_TEXTS
from devhost.tiny.node import load_trained_sd15

PICTURES = 24
CLASSES = [number % len(CLASS_TEXTS) for number in range(PICTURES)]


@pytest.fixture(scope="module")
def checkpoint():
    return load_trained_sd15()


def count(model, clip, size):
    def encode(text):
        return clip.encode_from_tokens_scheduled(clip.tokenize(text))[0][0]

    positive = [[torch.cat([encode(CLASS_TEXTS[number]) for number in CLASSES]), {}]]
    latents = sample(
        model, size, batch=PICTURES, steps=20, cfg=2.5, sampler="dpmpp_2m",
        positive=positive, negative=[[encode(""), {}]],
    )  # fmt: skip
    return summarise(count_objects(latents.float(), CLASSES))


def test_one_object_at_the_trained_size(checkpoint):
    model, clip, _ = checkpoint
    assert count(model, clip, (16, 16)).share_whole > 0.8


def test_deep_shrink_keeps_one_object_at_twice_the_size(checkpoint):
    model, clip, _ = checkpoint
    plain = count(model, clip, (32, 32))
    cured = count(apply_deep_shrink(model, DeepShrink(mode="auto", trained_size=128)), clip, (32, 32))
    assert plain.share_whole < 0.85
    assert cured.share_whole > 0.85
    assert cured.mean_count < plain.mean_count
