"""HiDiffusion and the picture of its plan through the real server: what a person sees, over HTTP."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from devhost.demo import workflow_prompt
from devhost.server import PromptFailure

TINY = {
    "checkpoint": "tiny_sd15.safetensors", "checkpoint_class": "MegapixelDevCheckpoint", "text": "a red person",
    "negative_text": "", "size": 256, "steps": 5, "cfg": 2.5, "scheduler": "normal", "trained_size": 128,
}  # fmt: skip


def tiny_prompt(**settings):
    """The shipped workflow on the tiny model; keywords replace inputs of every sampler or of the plan."""
    prompt = workflow_prompt(("plain", "hidiffusion"), **TINY)
    for node in prompt.values():
        if node["class_type"] in ("KSampler", "MegapixelPlan"):
            node["inputs"] |= {key: value for key, value in settings.items() if key in node["inputs"]}
    return prompt


def titled(prompt, title):
    [key] = [key for key, node in prompt.items() if node["_meta"]["title"] == title]
    return key


def pixels(server, history, key):
    [file] = server.images(history, key)
    return np.asarray(Image.open(file))


def test_the_workflow_runs_shows_its_plan_and_says_what_it_chose(server):
    prompt = tiny_prompt()
    history = server.run(prompt)
    ours, plain = (
        pixels(server, history, titled(prompt, f"Save: {branch}")) for branch in ("HiDiffusion", "Plain")
    )
    assert ours.shape == plain.shape == (256, 256, 3)
    assert not np.array_equal(ours, plain)
    assert pixels(server, history, titled(prompt, "Plan Preview")).shape[1] == 1280
    assert re.search(
        r"Deep Shrink: block_number 3, downscale_factor 2, .* latent 32x32, .* \| MSW-MSA: input_blocks 1,2, .* windows native",
        server.log.read_text(),
    )


def test_a_run_that_is_too_short_to_have_a_step_is_an_error_message_and_the_queue_goes_on(server):
    prompt = tiny_prompt()
    plan = titled(prompt, "Plan Preview")
    prompt["91"] = {"class_type": "SplitSigmas", "inputs": {"sigmas": ["92", 0], "step": 0}}
    prompt["92"] = {
        "class_type": "BasicScheduler",
        "inputs": {"model": ["1", 0], "scheduler": "normal", "steps": 4, "denoise": 1.0},
    }
    prompt[plan]["inputs"]["sigmas"] = ["91", 0]
    with pytest.raises(PromptFailure) as refused:
        server.run(prompt)
    [failure] = refused.value.failures
    assert failure.node_type == "MegapixelPlan"
    assert failure.message.startswith("sigmas: expected at least 2 noise levels, got 1. ")
    assert server.images(server.run(tiny_prompt(seed=7)))
