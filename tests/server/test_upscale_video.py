"""Videos through the real server: the workflow, the progress, Cancel, and what the node shows."""

from __future__ import annotations

import json

import pytest
from megapixel.video.file_reader import FileReader

from devhost.server import PromptFailure
from devhost.tiny.videos import sound_of, times_of
from devhost.video_demo import EXAMPLE, NODE, video_prompt, write_example_video
from devhost.workflow import to_graph


@pytest.fixture(scope="module")
def example(server):
    return write_example_video(server.base / "input" / "example.mp4")


@pytest.fixture(scope="module")
def long(server):
    return write_example_video(server.base / "input" / "long.mp4", 180)


def test_the_workflow_writes_a_video_that_carries_it(server, example):
    prompt = video_prompt()
    graph = to_graph(prompt, server.object_info())
    history = server.run(prompt, graph)
    [file] = server.images(history, NODE)
    assert file.parent == server.base / "output" / "megapixel"
    assert history["outputs"][NODE]["animated"] == [True]
    assert times_of(file) == times_of(example)
    assert sound_of(file) == sound_of(example)
    tags = FileReader(str(file)).metadata
    assert json.loads(tags["workflow"]) == graph
    assert json.loads(tags["prompt"]).keys() == prompt.keys()


def test_the_example_workflow_is_the_one_that_runs_here(server, example):
    shipped = json.loads(EXAMPLE.read_text(encoding="utf-8"))
    assert shipped == to_graph(video_prompt(), server.object_info())
    assert EXAMPLE.with_suffix(".jpg").is_file()


def test_progress_and_previews_come_and_cancel_leaves_a_video_that_the_same_prompt_completes(
    server, watch, long
):
    prompt = video_prompt("long.mp4", filename_prefix="cancelled")
    seen = watch(prompt, NODE, cancel_at=0.4)
    assert seen.end == "execution_interrupted"
    assert seen.values == sorted(seen.values)
    assert seen.previews
    partial = server.base / "output" / "cancelled_00001_.mp4"
    shown = times_of(partial)
    assert 60 < len(shown) < 180
    with pytest.raises(PromptFailure, match="stopped by a person"):
        server.result(seen.prompt_id)
    history = server.run(prompt)
    assert "frames were finished by an earlier run" in history["outputs"][NODE]["text"][0]
    assert server.images(history, NODE) == [partial]
    assert times_of(partial) == times_of(long)
