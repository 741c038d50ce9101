"""What other packs may send through a socket that holds no picture, mask, segment or noise level is an error
message at every node.
"""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from megapixel.nodes import NODES
from megapixel.segs.segment import SEG

from devhost.tiny import random_models
from devhost.tiny.random_models import conditioning
from devhost.tiny.random_upscalers import random_upscaler

NAN = float("nan")
BOX = (0, 0, 32, 32)
ODD = {
    "IMAGE": {
        "nothing wide": torch.zeros(1, 48, 0, 3), "no picture": torch.zeros(0, 48, 64, 3), "no batch": torch.zeros(48, 64, 3),
        "a video": torch.zeros(1, 2, 48, 64, 3), "bytes": torch.zeros(1, 48, 64, 3, dtype=torch.uint8), "a list": [torch.zeros(48, 64, 3)],
    },
    "MASK": {
        "nothing wide": torch.zeros(1, 48, 0), "no mask": torch.zeros(0, 48, 64), "a line": torch.zeros(64), "a number": torch.tensor(1.0),
        "a list": [torch.zeros(48, 64)],
    },
    "SEGS": {
        "text": "segs", "nothing": {}, "no size": (None, []), "no picture": ((0, 0), [SEG(None, np.ones((32, 32)), 1.0, BOX, BOX, "", None)]),
    },
    "SIGMAS": {
        "none": torch.zeros(0), "one": torch.ones(1), "no number": torch.tensor([NAN, 0.0]), "a table": torch.ones(2, 3), "a list": [1.0, 0.0],
    },
    "MODEL": {"none": None, "text": "model", "a VAE": random_models.vae()},
    "CONDITIONING": {"none": None, "text": "a cat", "a tensor": torch.zeros(1, 8, 768), "texts": ["a cat"]},
    "CONTROL_NET": {"none": None, "text": "canny", "a list": []},
    "LATENT": {"nothing wide": {"samples": torch.zeros(1, 4, 8, 0)}, "flat": {"samples": torch.zeros(8, 8)}, "empty": {}, "a list": []},
}  # fmt: skip
FACES = {
    "MegapixelInstantIDApply",
    "MegapixelInstantIDAttention",
    "MegapixelInstantIDControlNet",
}  # in their own tests
CASES = [
    (node, socket.id, name, value)
    for node in NODES
    if node.__name__ not in FACES
    for socket in node.define_schema().inputs
    for name, value in ODD.get(socket.io_type, {}).items()
    if value is not None or not socket.optional
]


@pytest.fixture(scope="module")
def usual(sd15, face_analysis):
    """What the sockets are usually given, by their ids."""
    texts, image = [conditioning(sd15, seed, tokens=8) for seed in (1, 2)], torch.full((1, 48, 64, 3), 0.5)
    vae, size = random_models.vae(), (48, 64)
    return {
        "model": sd15, "vae": vae, "positive": texts[0], "negative": texts[1], "basic_pipe": (sd15, None, vae, *texts),
        "image": image, "result": image, "results": image, "mask": torch.ones(1, *size), "sigmas": torch.tensor([9.0, 1.0, 0.0]),
        "segs": (size, [SEG(None, np.ones((32, 32), np.float32), 0.9, BOX, BOX, "", None)]), "faceanalysis": face_analysis,
        "latent_image": {"samples": torch.zeros(1, 4, 32, 32)}, "upscale_model": random_upscaler("Compact 16x4"), "steps": 1,
        "clip": None, "captions": "a caption", "sampler_name": "euler", "scheduler": "normal", "rescale_factor": 1.0, "tile_size": 0,
    }  # fmt: skip


def inputs_of(node, usual):
    """The usual inputs of a node, without the optional sockets, and its widgets at their defaults."""
    values = {}
    for socket in node.define_schema().inputs:
        default, options = getattr(socket, "default", None), getattr(socket, "options", None)
        if socket.id in usual and (
            not socket.optional or default is not None or socket.id in ("results", "model")
        ):
            values[socket.id] = usual[socket.id]
        elif default is not None or options:
            values[socket.id] = default if default is not None else options[0]
    taken = inspect.signature(node.execute).parameters
    if any(each.kind is each.VAR_KEYWORD for each in taken.values()):
        return values
    return {name: value for name, value in values.items() if name in taken}


def as_the_host_gives(node, values):
    """A node that takes whole lists gets one for each socket."""
    return {name: [value] for name, value in values.items()} if node.define_schema().is_input_list else values


@pytest.mark.parametrize(
    ("node", "socket", "name", "value"),
    CASES,
    ids=[f"{node.__name__}.{socket}: {name}" for node, socket, name, _ in CASES],
)
def test_it_is_an_error_message(node, socket, name, value, usual):
    with (
        pytest.raises(ValueError, match=r"^(more_)?\w+: expected .+, got .+\. ") as raised,
        torch.inference_mode(),
    ):
        node.execute(**as_the_host_gives(node, {**inputs_of(node, usual), socket: value}))
    assert "\n" not in str(raised.value)
