"""The shipped workflow through the real server: what a person sees, over HTTP."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image

from devhost.demo import workflow_prompt
from devhost.server import PromptFailure
from devhost.workflow import read_png_text, to_graph

TINY = {
    "checkpoint": "tiny_sd15.safetensors", "checkpoint_class": "MegapixelDevCheckpoint", "text": "a red person",
    "negative_text": "", "size": 256, "steps": 4, "cfg": 2.5, "scheduler": "normal", "trained_size": 128,
}  # fmt: skip


def tiny_prompt(**settings):
    """The shipped workflow on the tiny model; keywords replace inputs of the Deep Shrink node."""
    prompt = workflow_prompt(("plain", "deep_shrink"), **TINY)
    shrink = next(node for node in prompt.values() if node["class_type"] == "MegapixelDeepShrink")
    shrink["inputs"] |= settings
    return prompt


def pixels(path):
    return np.asarray(Image.open(path))


def test_the_workflow_runs_and_its_pictures_carry_it(server):
    prompt = tiny_prompt()
    graph = to_graph(prompt, server.object_info())
    deep, plain = sorted(server.images(server.run(prompt, graph)))
    assert "deep_shrink" in deep.name
    assert "plain" in plain.name
    assert pixels(deep).shape == pixels(plain).shape == (256, 256, 3)
    assert not np.array_equal(pixels(deep), pixels(plain))
    assert pixels(deep).std() > 10
    for picture in (deep, plain):
        text = read_png_text(picture)
        assert json.loads(text["workflow"]) == graph
        assert {node["class_type"] for node in json.loads(text["prompt"]).values()} >= {"MegapixelDeepShrink"}
        assert picture.read_bytes().count(b"tEXt") >= 2


def test_the_log_says_what_auto_chose(server):
    server.run(tiny_prompt())
    assert re.search(
        r"Deep Shrink: block_number 3, downscale_factor 2, .* latent 32x32", server.log.read_text()
    )


def test_a_prompt_with_an_input_that_the_node_had_once_runs_as_without_it(server):
    """`remove_mottle` was the last input before the first release."""
    now, once = (
        sorted(server.images(server.run(tiny_prompt(**old)))) for old in ({}, {"remove_mottle": True})
    )
    assert all(np.array_equal(pixels(a), pixels(b)) for a, b in zip(now, once, strict=True))


def test_the_same_seed_gives_the_same_picture(server):
    first, second = (sorted(server.images(server.run(tiny_prompt(end_percent=end)))) for end in (0.4, 0.41))
    for a, b in zip(first, second, strict=True):  # in auto end_percent does not count, but the cache is cold
        assert np.array_equal(pixels(a), pixels(b))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"mode": "manual", "block_number": 20}, "block_number: expected 1 to 11 for this UNet, got 20. "),
        (
            {"mode": "manual", "start_percent": 0.5, "end_percent": 0.2},
            "start_percent: expected at most end_percent (0.2), got 0.5. ",
        ),
    ],
)
def test_bad_input_is_an_error_message_at_the_node_and_the_queue_goes_on(server, settings, sentence):
    with pytest.raises(PromptFailure) as refused:
        server.run(tiny_prompt(**settings))
    [failure] = refused.value.failures
    assert failure.node_type == "MegapixelDeepShrink"
    assert failure.message.startswith(sentence)
    assert "\n" not in failure.message
    assert server.images(server.run(tiny_prompt()))


def test_the_pack_adds_no_warning_to_the_start(server):
    log = server.log.read_text()
    assert not re.search(r"(Traceback|Cannot import|IMPORT FAILED|invalid).*megapixel", log, re.IGNORECASE)
    assert server.object_info()["MegapixelDeepShrink"]["python_module"] == "custom_nodes.megapixel"
