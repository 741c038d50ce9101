"""The example workflows of today's families through the real server:
only their loaders are replaced, by tiny models.
"""

from __future__ import annotations

import json

import pytest
import torch

from devhost.families_demo import EXAMPLES, LOADERS, example_of, tiny_example
from devhost.segs_demo import UPSCALE
from devhost.upscale_demo import read_picture, write_picture
from devhost.workflow import prompt_node, to_graph


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_the_one_that_runs_here(server, name):
    example = json.loads(example_of(name).read_text(encoding="utf-8"))
    assert example == to_graph(EXAMPLES[name](), server.object_info())
    loaders = {"CheckpointLoaderSimple", "CLIPLoader"} if name == "segs_joint_sdxl" else set(LOADERS)
    assert {node["type"] for node in example["nodes"]} >= loaders
    assert example_of(name).with_suffix(".jpg").is_file()


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs_with_tiny_models_in_place_of_its_loaders(server, name, draw):
    write_picture(draw(1, 3, 64, 96), server.base / "input" / "small.png")
    [file] = server.images(server.run(tiny_example(name, "small.png")), "9")
    picture = read_picture(file)
    assert picture.shape == (1, 3, 128, 192)
    assert bool((picture.std(dim=(-2, -1)) > 0.01).all())
    log = server.log.read_text()
    assert torch.isfinite(picture).all()
    if name == "segs_qwen_image_edit":
        assert "reference_latents: reference 1" in log
        assert "is cropped to each segment" in log


def test_a_size_that_was_typed_for_the_picture_is_reported_at_the_node(server, draw):
    write_picture(draw(1, 3, 64, 96), server.base / "input" / "small.png")
    prompt = tiny_example("segs_z_image", "small.png")
    shift = {"model": ["2", 0], "max_shift": 1.15, "base_shift": 0.5, "width": 2048, "height": 2048}
    prompt["5"] = prompt_node("ModelSamplingFlux", "Shift", **shift)
    result = server.run(prompt)
    [text] = result["outputs"][UPSCALE]["text"]
    assert text.startswith("ModelSamplingFlux (5) is set to 2048x2048, but the crops are ")
    assert text in server.log.read_text()
