"""Upscaling through the real server: what a person sees over HTTP, and over the websocket while it runs."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch.nn.functional as F
from PIL import Image

from devhost.photographs import photograph, psnr, reduce_by
from devhost.server import PromptFailure
from devhost.upscale_demo import (
    EXAMPLE,
    draw_comparison,
    read_picture,
    upscale_photographs,
    upscale_prompt,
    write_picture,
)
from devhost.workflow import read_png_text, to_graph

NODE = "3"


@pytest.fixture(scope="module")
def small(server):
    """The name of a reduced photograph in the server's input folder, and the photograph."""
    whole = photograph("astronaut")
    write_picture(reduce_by(whole, 4), server.base / "input" / "small.png")
    return "small.png", whole


@pytest.fixture(scope="module")
def large(server):
    """The name of a picture that takes the server several seconds."""
    write_picture(photograph("astronaut").tile(1, 1, 2, 2), server.base / "input" / "large.png")
    return "large.png"


def test_the_workflow_enlarges_a_photograph_better_than_bicubic_and_its_picture_carries_it(server, small):
    name, whole = small
    prompt = upscale_prompt(name)
    graph = to_graph(prompt, server.object_info())
    [file] = server.images(server.run(prompt, graph))
    ours, given = read_picture(file), read_picture(server.base / "input" / name)
    assert ours.shape == whole.shape == (1, 3, 512, 512)
    bicubic = F.interpolate(given, scale_factor=4, mode="bicubic").clamp(0, 1)
    assert psnr(ours, whole) > psnr(bicubic, whole) + 1.5
    assert json.loads(read_png_text(file)["workflow"]) == graph
    assert re.search(r"Upscale: 128x128 in one piece", server.log.read_text())


def test_the_example_workflow_is_the_one_that_runs_here(server):
    example = json.loads(EXAMPLE.read_text(encoding="utf-8"))
    assert example == to_graph(upscale_prompt(), server.object_info())
    assert EXAMPLE.with_suffix(".jpg").is_file()


def test_the_loader_offers_the_model_that_comes_with_the_pack(server):
    offered = json.dumps(server.object_info()["UpscaleModelLoader"]["input"]["required"]["model_name"])
    assert "megapixel-compact-4x.safetensors" in offered


def test_tiles_give_the_same_picture_to_the_last_bit_but_one(server, small):
    whole, tiled = (
        server.images(server.run(upscale_prompt(small[0], precision="float32", tile_size=size)))[0]
        for size in (0, 56)
    )
    difference = np.asarray(Image.open(whole)).astype(int) - np.asarray(Image.open(tiled)).astype(int)
    assert np.abs(difference).max() <= 1
    assert re.search(r"Upscale: 128x128 in \d\d? tiles of \d+x\d+, exact", server.log.read_text())


def test_progress_and_a_preview_that_fills_come_while_it_runs(watch, large):
    seen = watch(upscale_prompt(large, tile_size=96, scale_by=1.0), NODE)
    assert seen.end == "execution_success"
    assert seen.values == sorted(seen.values)
    assert len(seen.values) >= 4
    assert seen.values[0] < 0.5
    assert seen.values[-1] == 1
    assert len(seen.previews) >= 4
    assert {preview.shape for preview in seen.previews} == {(512, 512, 3)}
    brightness = [preview.mean() for preview in seen.previews]
    assert brightness == sorted(brightness)
    assert brightness[-1] > 2 * brightness[0]


def test_cancelling_stops_it_within_a_tile_and_the_next_prompt_runs(server, watch, large, small):
    seen = watch(upscale_prompt(large, tile_size=64, precision="float32", scale_by=1.1), NODE, cancel_at=0.0)
    assert seen.end == "execution_interrupted"
    assert seen.seconds < 2
    assert seen.values[0] < 0.5
    assert seen.values[-1] < seen.values[0] + 0.2
    assert (
        server.result(server.queue(upscale_prompt(small[0], scale_by=1.5)))["status"]["status_str"]
        == "success"
    )
    with pytest.raises(PromptFailure, match="stopped by a person"):
        server.result(seen.prompt_id)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"width": 65536, "height": 65536, "repeat": 64},
            r"image: expected a result that fits [\d.]+ GB of free memory, got 3072\.0 GB for 64 of 65536x65536\. "
            r"Use a smaller scale factor or fewer frames\.",
        ),
        ({"scale_by": 33.0}, r"Value 33\.0 bigger than max of 32\.0: scale_by"),
    ],
    ids=["too large", "out of range"],
)
def test_bad_input_is_an_error_message_at_the_node_and_the_queue_goes_on(server, small, settings, sentence):
    settings = dict(settings)
    repeat = settings.pop("repeat", 1)
    prompt = upscale_prompt(small[0], **settings)
    prompt["9"] = {"class_type": "RepeatImageBatch", "inputs": {"image": ["1", 0], "amount": repeat}}
    prompt[NODE]["inputs"]["image"] = ["9", 0]
    with pytest.raises(PromptFailure) as refused:
        server.run(prompt)
    [failure] = refused.value.failures
    assert failure.node_type == "MegapixelUpscale"
    assert re.fullmatch(sentence, failure.message)
    assert server.images(server.run(upscale_prompt(small[0], scale_by=1.0 + repeat / 100)))


def test_the_demo_enlarges_a_photograph_and_tells_how_well(server, tmp_path):
    [enlarged] = upscale_photographs(server, server.object_info(), tmp_path, ["coffee"])
    assert enlarged.file == tmp_path / "upscaled_coffee.png"
    assert "workflow" in read_png_text(enlarged.file)
    assert re.fullmatch(r"coffee, 150x100 to 600x400: 2\d\.\d\d dB, bicubic 2\d\.\d\d dB", str(enlarged))
    assert enlarged.quality(enlarged.ours) > enlarged.quality(enlarged.bicubic) + 0.8
    with Image.open(tmp_path / "upscaled.png") as sheet:
        assert np.array_equal(np.asarray(sheet), np.asarray(draw_comparison([enlarged])))
