"""Segments through the real server: found in a mask, shown, refined one by one,
and kept when a person cancels.
"""

from __future__ import annotations

import json
import re

import pytest
import torch
import torch.nn.functional as F

from devhost.demo import EXAMPLE_CHECKPOINT, EXAMPLE_MODEL
from devhost.segs_demo import (
    DENOISE_SMALL,
    EXAMPLE,
    SCALE,
    TRAINED,
    UPSCALE,
    draw_figures,
    example_prompt,
    small_prompt,
    tiny_prompt,
)
from devhost.server import PromptFailure
from devhost.upscale_demo import read_picture, write_picture
from devhost.workflow import read_png_text, to_graph

STEPS = 8
LONG = 12  # steps of a run that is cancelled: each segment takes a second or more


@pytest.fixture(scope="module")
def figures(server):
    """The figures, with their picture and mask in the server's input folder."""
    drawn = draw_figures()
    write_picture(drawn.small, server.base / "input" / "figures.png")
    write_picture(drawn.mask.expand(1, 3, -1, -1), server.base / "input" / "figures_mask.png")
    return drawn


def prompt_of(**settings):
    return tiny_prompt("figures.png", "figures_mask.png", **{"steps": STEPS, **settings})


def without_segments():
    """Return a prompt that only enlarges."""
    prompt = prompt_of()
    prompt["6"]["inputs"]["drop_size"] = 1000
    return prompt


def refined(server, prompt):
    """Return the saved picture (1, 3, H, W) and its file."""
    [file] = server.images(server.run(prompt), "9")
    return read_picture(file), file


def changed_figures(picture, plain, mask):
    """Return for each figure of the grid whether it was refined."""
    changed = (picture != plain).any(dim=1)[0]
    where = F.interpolate(mask[None, None], scale_factor=SCALE)[0, 0] > 0
    rows, columns = (side // count for side, count in zip(changed.shape, (2, 2), strict=True))
    cells = [
        (slice(r * rows, (r + 1) * rows), slice(c * columns, (c + 1) * columns))
        for r in range(2)
        for c in range(2)
    ]
    return [bool(changed[cell][where[cell]].any()) for cell in cells]


def edge_strength(picture, mask):
    """Return the mean of the steepest edges inside a mask, in steps of brightness between pixels."""
    grey = picture.mean(dim=1)[0]
    steps = torch.maximum(grey.diff(dim=0).abs()[:, :-1], grey.diff(dim=1).abs()[:-1])
    inside = F.interpolate(mask[None, None], scale_factor=SCALE)[0, 0][:-1, :-1] > 0
    return steps[inside].topk(1500).values.mean().item()


def test_small_figures_come_back_sharp_and_the_rest_keeps_its_bits(server, figures):
    prompt = prompt_of()
    graph = to_graph(prompt, server.object_info())
    [file] = server.images(server.run(prompt, graph), "9")
    picture = read_picture(file)
    plain, _ = refined(server, without_segments())
    assert picture.shape == figures.truth.shape
    assert all(changed_figures(picture, plain, figures.mask))
    far = F.max_pool2d(figures.mask[None, None], 17, 1, 8)
    outside = F.interpolate(far, scale_factor=SCALE)[0, 0] == 0
    assert torch.equal(picture[..., outside], plain[..., outside])
    assert edge_strength(picture, figures.mask) > 1.3 * edge_strength(plain, figures.mask)
    assert json.loads(read_png_text(file)["workflow"]) == graph


def test_small_figures_stay_figures_where_they_are_sampled_at_the_model_s_size(server, figures):
    truth = F.interpolate(figures.truth, scale_factor=0.5, mode="area")
    inside = F.interpolate(figures.mask[None, None], scale_factor=2)[0, 0] > 0

    def error(target_size):
        prompt = small_prompt(DENOISE_SMALL, target_size)
        prompt[UPSCALE]["inputs"]["steps"] = STEPS
        return (refined(server, prompt)[0] - truth)[..., inside].abs().mean().item()

    assert error(TRAINED) < 0.5 * error(0)


def test_the_preview_node_draws_every_segment(server, figures):
    result = server.run(prompt_of(steps=1))
    [file] = server.images(result, "7")
    drawn = read_picture(file)
    assert (
        drawn.shape[-2] % figures.small.shape[-2] == 0
    )  # small pictures are drawn larger, so that the words fit
    assert drawn.shape[-1] >= 512
    assert (drawn.std(dim=1) > 0.2).float().mean() > 0.05  # lines and masks in strong colours


def test_progress_and_previews_of_the_whole_picture_come_while_it_runs(watch, figures):
    seen = watch(prompt_of(seed=3, steps=4), UPSCALE)
    assert seen.end == "execution_success"
    assert seen.values == sorted(seen.values)
    assert seen.values[-1] == 1
    assert len(seen.values) >= 10
    assert seen.previews
    height, width = seen.previews[-1].shape[:2]
    assert width / height == pytest.approx(figures.truth.shape[-1] / figures.truth.shape[-2], rel=0.01)


def test_cancelling_in_the_middle_gives_what_was_finished_and_the_graph_goes_on(server, watch, figures):
    seen = watch(prompt_of(seed=4, steps=LONG), UPSCALE, cancel_at=0.5)
    assert seen.end == "execution_success"
    [file] = server.images(server.result(seen.prompt_id), "9")
    plain, _ = refined(server, without_segments())
    done = changed_figures(read_picture(file), plain, figures.mask)
    assert 0 < sum(done) < len(done)
    assert re.search(r"SEGS: interrupted; \d of 4 segments are refined", server.log.read_text())


def test_the_same_prompt_after_cancelling_finishes_the_picture(server, watch, figures):
    prompt = prompt_of(seed=9, steps=LONG)
    seen = watch(prompt, UPSCALE, cancel_at=0.5)
    cancelled = read_picture(server.images(server.result(seen.prompt_id), "9")[0])
    log_before = server.log.read_text().count("were already sampled by the interrupted run")
    again, _ = refined(server, prompt)
    assert server.log.read_text().count("were already sampled by the interrupted run") == log_before + 1
    renamed = {"whole" if key == UPSCALE else key: node for key, node in prompt.items()}
    renamed["9"] = {**prompt["9"], "inputs": {**prompt["9"]["inputs"], "images": ["whole", 0]}}
    whole, _ = refined(server, renamed)
    assert not torch.equal(cancelled, whole)
    assert torch.equal(again, whole)


def test_cancelling_stops_at_once_where_that_is_wanted(server, watch, figures):
    seen = watch(prompt_of(seed=5, steps=LONG, keep_on_interrupt=False), UPSCALE, cancel_at=0.3)
    assert seen.end == "execution_interrupted"
    assert refined(server, prompt_of(seed=6, steps=1))[0].shape == figures.truth.shape


def test_workers_that_share_the_segments_give_the_same_picture_as_one(server, figures):
    whole, _ = refined(server, prompt_of(seed=7, steps=3))
    prompt = prompt_of(seed=7, steps=3)
    base = prompt.pop(UPSCALE)["inputs"]
    prompt["plain"] = {"class_type": "MegapixelSEGSUpscale", "inputs": {**base, "segs": ["none", 0]}}
    prompt["none"] = {
        "class_type": "MegapixelSEGSFilter",
        "inputs": {
            "segs": ["6", 0], "labels": "nothing", "order": "as found", "reverse": False,
            "min_confidence": 0.0, "min_size": 0, "max_size": 0, "first": 0, "count": 0,
        },
    }  # fmt: skip
    for index in range(2):
        prompt[f"slice{index}"] = {
            "class_type": "MegapixelSEGSSlice",
            "inputs": {"segs": ["6", 0], "index": index, "count": 2, "keep_together": False},
        }
        inputs = {**base, "segs": [f"slice{index}", 0]}
        prompt[f"worker{index}"] = {"class_type": "MegapixelSEGSUpscale", "inputs": inputs}
    prompt["both"] = {
        "class_type": "ImageBatch",
        "inputs": {"image1": ["worker0", 0], "image2": ["worker1", 0]},
    }
    prompt["merge"] = {
        "class_type": "MegapixelSEGSMerge",
        "inputs": {"image": ["plain", 0], "results": ["both", 0], "tolerance": 0.0},
    }
    prompt["9"]["inputs"]["images"] = ["merge", 0]
    assert torch.equal(refined(server, prompt)[0], whole)


def test_the_example_workflow_is_the_one_that_can_run_here(server):
    example = json.loads(EXAMPLE.read_text(encoding="utf-8"))
    [loader] = [node for node in example["nodes"] if node["type"] == "CheckpointLoaderSimple"]
    assert loader["properties"].pop("models") == [EXAMPLE_MODEL]
    assert example == to_graph(example_prompt(EXAMPLE_CHECKPOINT), server.object_info())
    assert EXAMPLE.with_suffix(".jpg").is_file()


def test_bad_segments_are_one_sentence_at_the_node_and_the_queue_goes_on(server, figures):
    prompt = prompt_of()
    prompt["6"] = {
        "class_type": "MegapixelTilesToSEGS",
        "inputs": {"image": ["1", 0], "tile_size": 64, "overlap": 64},
    }
    with pytest.raises(PromptFailure) as refused:
        server.run(prompt)
    [failure] = refused.value.failures
    assert failure.node_type == "MegapixelTilesToSEGS"
    assert re.fullmatch(r"overlap: expected less than tile_size 64, got 64\. .*", failure.message)
    assert refined(server, prompt_of(seed=8, steps=1))[0].shape == figures.truth.shape
