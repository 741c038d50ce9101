"""Two real servers share the segments of a picture.

What the worker made goes over HTTP in PNGs of 8 bits, which SaveImage truncates.
"""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest
import torch
import torch.nn.functional as F

from devhost.demo import EXAMPLE_CHECKPOINT, EXAMPLE_MODEL, PACK, TINY_PACK
from devhost.segs_demo import SCALE, UPSCALE, draw_figures, tiny_prompt
from devhost.server import PromptFailure, current_environment, running_server
from devhost.tiny.videos import sound_of, times_of
from devhost.upscale_demo import read_picture, write_picture
from devhost.video_demo import write_example_video
from devhost.workers_demo import (
    COLLECT,
    EXAMPLE,
    MERGE,
    SAVE,
    SEND,
    VIDEO_EXAMPLE,
    with_collector,
    workers_prompt,
    workers_video_prompt,
)
from devhost.workflow import prompt_node, to_graph

pytestmark = pytest.mark.slow
WORKERS = 2


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    """A second server."""
    base = tmp_path_factory.mktemp("worker")
    with running_server(current_environment(), {**PACK, **TINY_PACK}, base=base) as running:
        yield running


@pytest.fixture(scope="module")
def figures(server, worker):
    drawn = draw_figures()
    for each in (server, worker):
        write_picture(drawn.small, each.base / "input" / "figures.png")
        write_picture(drawn.mask.expand(1, 3, -1, -1), each.base / "input" / "figures_mask.png")
    return drawn


def enlarged_prompt(save):
    """Return the picture enlarged as "plain", its segments as "6", and what is to be saved."""
    prompt = tiny_prompt("figures.png", "figures_mask.png", steps=4, rescale_factor=1.0, seed=7)
    prompt["plain"] = prompt_node(
        "ImageScaleBy", "Enlarged", image=["1", 0], upscale_method="lanczos", scale_by=float(SCALE)
    )
    prompt[UPSCALE]["inputs"]["image"] = ["plain", 0]
    prompt["9"]["inputs"]["images"] = [save, 0]
    del prompt["7"]
    return prompt


def sliced_prompt(index, save="send"):
    """Return the same, refining one slice, with what is sent as "send"."""
    prompt = enlarged_prompt(save)
    prompt["slice"] = prompt_node(
        "MegapixelSEGSSlice", "Slice", segs=["6", 0], index=index, count=WORKERS, keep_together=False
    )
    prompt[UPSCALE]["inputs"]["segs"] = ["slice", 0]
    prompt["send"] = prompt_node(
        "MegapixelSEGSSend", "Send", image=["plain", 0], result=[UPSCALE, 0], segs=["slice", 0]
    )
    return prompt


def saved(server, prompt):
    """Return the one picture (1, 3, H, W) that a prompt saves."""
    [file] = server.images(server.run(prompt), "9")
    return read_picture(file)


def share(worker, server, files):
    """Bring pictures from one server to the other over HTTP, and return their names there."""

    async def bring():
        names = []
        async with aiohttp.ClientSession() as session:
            for file in files:
                place = {"filename": file.name, "subfolder": file.parent.name, "type": "output"}
                async with session.get(f"{worker.address}/view", params=place) as answer:
                    picture = await answer.read()
                form = aiohttp.FormData()
                form.add_field("image", picture, filename=f"sent_{file.name}", content_type="image/png")
                async with session.post(f"{server.address}/upload/image", data=form) as answer:
                    names.append((await answer.json())["name"])
        return names

    return asyncio.run(bring())


@pytest.fixture(scope="module")
def sent(server, worker, figures):
    """The names, on the first server, of the frames that the second sent: slice 1 of 2."""
    return share(worker, server, worker.images(worker.run(sliced_prompt(1)), "9"))


@pytest.fixture(scope="module")
def whole(server, figures):
    """One worker's picture."""
    return saved(server, enlarged_prompt(UPSCALE))


def with_batch(prompt, *sources):
    """Add a batch of sources (node ids, names of files), merged, as "merge"."""
    last = None
    for number, source in enumerate(sources):
        node = source
        if source.endswith(".png"):
            node = f"load{number}"
            prompt[node] = prompt_node("LoadImage", "Sent", image=source)
        if last is not None:
            prompt[f"batch{number}"] = prompt_node("ImageBatch", "Batch", image1=[last, 0], image2=[node, 0])
            node = f"batch{number}"
        last = node
    prompt["merge"] = prompt_node("MegapixelSEGSMerge", "Merge", results=[last, 0], tolerance=0.0)
    prompt["9"]["inputs"]["images"] = ["merge", 0]
    return prompt


def test_a_master_and_a_worker_make_the_picture_of_one(server, sent, whole):
    prompt = with_batch(sliced_prompt(0), "send", *sent)
    prompt["merge"]["inputs"] |= {"image": ["plain", 0], "segs": ["6", 0]}
    assert torch.equal(saved(server, prompt), whole)


def test_a_master_that_only_orchestrates_needs_nothing_but_what_was_sent(server, worker, sent, whole):
    first = share(worker, server, worker.images(worker.run(sliced_prompt(0)), "9"))
    prompt = with_batch({"9": enlarged_prompt("merge")["9"]}, *first, *sent)
    difference = saved(server, prompt) - whole
    assert difference.abs().max() <= 1.01 / 255
    assert difference.mean().abs() < 2e-4


def test_what_a_lost_worker_should_have_refined_is_refined_by_the_master(server, figures, whole):
    prompt = with_batch(sliced_prompt(0), "send")
    prompt["merge"]["inputs"] |= {"image": ["plain", 0], "segs": ["6", 0]}
    inputs = {**prompt[UPSCALE]["inputs"], "image": ["merge", 0], "segs": ["merge", 1]}
    prompt["rest"] = prompt_node("MegapixelSEGSUpscale", "The missing ones", **inputs)
    prompt["9"]["inputs"]["images"] = ["rest", 0]
    picture, plain = saved(server, prompt), saved(server, enlarged_prompt("plain"))
    mask = F.interpolate(figures.mask[None, None], scale_factor=SCALE)[0, 0] > 0
    rows, columns = (side // 2 for side in mask.shape)
    for row in (slice(0, rows), slice(rows, None)):
        for column in (slice(0, columns), slice(columns, None)):
            refined, single = ((each - plain)[..., row, column].abs() for each in (picture, whole))
            inside = mask[row, column]
            assert refined[..., inside].mean() == pytest.approx(single[..., inside].mean(), rel=0.5)
    far = F.max_pool2d(figures.mask[None, None], 17, 1, 8)
    outside = F.interpolate(far, scale_factor=SCALE)[0, 0] == 0
    assert torch.equal(picture[..., outside], plain[..., outside])
    assert "slice 1 of 0 to 1 is missing" in server.log.read_text()


def test_a_lost_worker_ends_the_run_where_nobody_can_refine(server, sent):
    with pytest.raises(PromptFailure, match="slice 0 of 0 to 1 is missing"):
        server.run(with_batch({"9": enlarged_prompt("merge")["9"]}, *sent))


def runs_alone(make, source):
    """Return an example's prompt on the tiny model, without the collector that no server here has."""
    prompt = make("tiny_sd15.safetensors", source, steps=1)
    prompt["2"]["class_type"] = "MegapixelDevCheckpoint"
    del prompt[COLLECT]
    prompt[MERGE]["inputs"]["results"] = [SEND, 0]
    return prompt


@pytest.mark.parametrize(
    ("file", "make"),
    [(EXAMPLE, workers_prompt), (VIDEO_EXAMPLE, workers_video_prompt)],
    ids=["picture", "video"],
)
def test_the_example_is_the_prompt(file, make, server):
    example = json.loads(file.read_text(encoding="utf-8"))
    [loader] = [node for node in example["nodes"] if node["type"] == "CheckpointLoaderSimple"]
    assert loader["properties"].pop("models") == [EXAMPLE_MODEL]
    assert example == to_graph(make(EXAMPLE_CHECKPOINT), with_collector(server.object_info()))


def test_the_example_of_a_picture_runs(server, figures):
    result = server.run(runs_alone(workers_prompt, "figures.png"))
    [file] = server.images(result, SAVE)
    assert read_picture(file).shape[-2:] == tuple(2 * side for side in figures.small.shape[-2:])


def test_the_example_of_a_video_runs(server):
    given = write_example_video(server.base / "input" / "workers.mp4", 3)
    result = server.run(runs_alone(workers_video_prompt, "workers.mp4"))
    [file] = server.images(result, SAVE)
    assert len(times_of(file)) == len(times_of(given)) == 3
    assert sound_of(file)
