"""The pack in the real front end, in a real browser: searched for, opened, run, and read about."""

from __future__ import annotations

import json

import pytest

from devhost.browser import open_front_end
from devhost.demo import workflow_prompt
from devhost.environment import ROOT
from devhost.known_nodes import KNOWN
from devhost.segs_demo import UPSCALE, draw_figures, tiny_prompt as tiny_prompt_of_segs
from devhost.upscale_demo import write_picture
from devhost.video_demo import HEIGHT, WIDTH, video_prompt
from devhost.workflow import prompt_node, to_graph

EXAMPLES = sorted((ROOT / "example_workflows").glob("*.json"))
KNOWN_NAMES = {
    "PatchModelAddDownscale": "MegapixelDeepShrink",
    "HiDiffusion": "MegapixelHiDiffusion",
    "ApplyRAUNet": "MegapixelRAUNet",
    "ApplyRAUNetSimple": "MegapixelRAUNetSimple",
    "ApplyMSWMSAAttention": "MegapixelMSWMSA",
    "ApplyMSWMSAAttentionSimple": "MegapixelMSWMSASimple",
    "ImageUpscaleWithModel": "MegapixelUpscale",
    "SEGSUpscaler": "MegapixelSEGSUpscale",
    "SEGSUpscalerPipe": "MegapixelSEGSUpscalePipe",
    "InstantIDModelLoader": "MegapixelInstantIDLoader",
    "InstantIDFaceAnalysis": "MegapixelFaceAnalysis",
    "ApplyInstantID": "MegapixelInstantIDApply",
    "ApplyInstantIDAdvanced": "MegapixelInstantIDApply",
    "InstantIDAttentionPatch": "MegapixelInstantIDAttention",
    "ApplyInstantIDControlNet": "MegapixelInstantIDControlNet",
    "FaceKeypointsPreprocessor": "MegapixelFaceKeypoints",
}

NEIGHBOURS = {
    "DistributedCollector"
}  # the nodes of other packs that an example needs; none of them is installed here


def tiny_prompt(**settings):
    """A picture of the tiny model with HiDiffusion as an API prompt."""
    return workflow_prompt(
        ("hidiffusion",), checkpoint="tiny_sd15.safetensors", checkpoint_class="MegapixelDevCheckpoint",
        text="a red person", negative_text="", steps=3, cfg=2.5, scheduler="normal", trained_size=128, **settings,
    )  # fmt: skip


def named_links(graph):
    """The links of a saved graph as (node, output, node, input), sockets by name:
    the front end moves them.
    """
    nodes = {node["id"]: node for node in graph["nodes"]}
    return {
        (source, nodes[source]["outputs"][output]["name"], target, nodes[target]["inputs"][place]["name"])
        for _, source, output, target, place, _ in graph["links"]
    }


def drawn_nodes(graph):
    """The nodes of a saved graph without their sizes: a node grows as its picture arrives."""
    return {node["id"]: (node["type"], node["title"], node["pos"]) for node in graph["nodes"]}


def widget_values(graph):
    return {node["id"]: node.get("widgets_values", []) for node in graph["nodes"]}


def meaning(graph):
    return drawn_nodes(graph), named_links(graph), widget_values(graph)


def assert_opens_whole(front_end, file, expected):
    front_end.drop(file)
    opened = front_end.graph()
    assert set(front_end.unknown_nodes()) <= NEIGHBOURS
    assert front_end.red_links() == []
    assert named_links(opened) == named_links(expected)
    assert drawn_nodes(opened) == drawn_nodes(expected)
    for node, values in widget_values(expected).items():  # upload buttons come after what is saved
        assert widget_values(opened)[node][: len(values)] == values


def test_search_finds_each_node_by_its_known_name(server, front_end):
    schemas = server.object_info()
    front_end.open_search()
    for name, ours in KNOWN_NAMES.items():
        front_end.find(name, schemas[ours]["display_name"])


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda file: file.stem)
def test_an_example_opens_whole_and_is_the_same_after_a_round_trip(front_end, example, tmp_path):
    assert_opens_whole(front_end, example, json.loads(example.read_text(encoding="utf-8")))
    saved = front_end.graph()
    again = tmp_path / "again.json"
    again.write_text(json.dumps(saved), encoding="utf-8")
    front_end.drop(again)
    assert meaning(front_end.graph()) == meaning(saved)


def test_a_graph_with_an_input_that_a_node_had_once_opens_whole(front_end, tmp_path):
    """`remove_mottle` was the last widget of Deep Shrink before the first release."""
    graph = json.loads((ROOT / "example_workflows" / "deep_shrink.json").read_text(encoding="utf-8"))
    [shrink] = [node for node in graph["nodes"] if node["type"] == "MegapixelDeepShrink"]
    expected = [*shrink["widgets_values"]]
    shrink["inputs"].append(
        {"name": "remove_mottle", "type": "BOOLEAN", "link": None, "widget": {"name": "remove_mottle"}}
    )
    shrink["widgets_values"].append(True)
    file = tmp_path / "once.json"
    file.write_text(json.dumps(graph), encoding="utf-8")
    front_end.drop(file)
    assert front_end.unknown_nodes() == front_end.red_links() == []
    assert widget_values(front_end.graph())[shrink["id"]][: len(expected)] == expected


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda file: file.stem)
def test_the_picture_of_an_example_opens_as_its_graph(front_end, example):
    picture = ROOT / "assets" / f"{example.stem}.png"
    assert_opens_whole(front_end, picture, json.loads(example.read_text(encoding="utf-8")))


def test_a_shipped_picture_runs_as_it_is_and_the_result_appears_in_the_page(fresh_front_end):
    fresh_front_end.drop(ROOT / "assets" / "upscale.png")
    fresh_front_end.press_run()
    assert fresh_front_end.wait_for_picture() == (4 * 32, 4 * 48)


def test_an_enlarged_video_plays_at_the_node(server, fresh_front_end, tmp_path):
    file = tmp_path / "video.json"
    file.write_text(json.dumps(to_graph(video_prompt(), server.object_info())))
    fresh_front_end.drop(file)
    fresh_front_end.press_run()
    assert fresh_front_end.wait_for_video() == (2 * HEIGHT, 2 * WIDTH)


def test_a_sampled_picture_and_its_plan_appear_in_the_page(server, fresh_front_end, tmp_path):
    file = tmp_path / "tiny.json"
    file.write_text(json.dumps(to_graph(tiny_prompt(size=256), server.object_info())))
    fresh_front_end.drop(file)
    fresh_front_end.press_run()
    assert fresh_front_end.wait_for_picture() == (256, 256)


def test_a_wrong_input_is_told_by_an_error_message_at_the_node(server, fresh_front_end, tmp_path):
    prompt = tiny_prompt(size=256)
    [key] = [key for key, node in prompt.items() if node["class_type"] == "MegapixelHiDiffusion"]
    prompt[key] = prompt_node(
        "MegapixelRAUNet", "The wrong one", model=["1", 0], input_blocks="3", output_blocks="9"
    )
    file = tmp_path / "wrong.json"
    file.write_text(json.dumps(to_graph(prompt, server.object_info())))
    fresh_front_end.drop(file)
    fresh_front_end.press_run()
    sentence = "output_blocks: expected 8 for input_blocks 3, got 9."
    fresh_front_end.wait_for_error("The wrong one", sentence)


OLD = {  # a graph with nodes of other packs, which of them, and what their widgets say after the replacement
    "RAU-Net": (
        "ApplyRAUNetSimple", "MegapixelRAUNetSimple", ["auto", "high (1536-2048)", "bilinear", "default", "known"],
    ),
    "SEGS": (
        "SEGSUpscaler", "MegapixelSEGSUpscale",
        [4.0, "nearest", "true", 8, 7, "randomize", 2, 3.0, "euler", "karras", 0.4, 5, False, 20, "in order", 0, 8, 0, True, 0, 1536,
         "auto", "all", False],
    ),
}  # fmt: skip


def old_segs_prompt(folder):
    """A prompt with the other packs' nodes for segments; its pictures lie in `folder`."""
    drawn = draw_figures()
    write_picture(drawn.small, folder / "old.png")
    write_picture(drawn.mask.expand(1, 3, -1, -1), folder / "old_mask.png")
    prompt = tiny_prompt_of_segs("old.png", "old_mask.png", seed=7, steps=2, resampling_method="nearest")
    for key, known in {"6": "MaskToSEGS", UPSCALE: "SEGSUpscaler"}.items():
        inputs = KNOWN[known][0]
        names = {**inputs["required"], **inputs.get("optional", {})}
        given = {name: value for name, value in prompt[key]["inputs"].items() if name in names}
        prompt[key] = prompt_node(known, known, **given)
    return prompt


def old_rau_net_prompt():
    prompt = tiny_prompt(size=256)
    [key] = [key for key, node in prompt.items() if node["class_type"] == "MegapixelHiDiffusion"]
    settings = {"model_type": "auto", "res_mode": "high (1536-2048)", "upscale_mode": "bilinear"}
    prompt[key] = prompt_node(
        "ApplyRAUNetSimple", "Old", model=["1", 0], ca_upscale_mode="default", **settings
    )
    return prompt


@pytest.mark.parametrize("old", OLD)
def test_a_workflow_of_other_packs_runs_after_a_click_on_replace(server, fresh_front_end, tmp_path, old):
    prompt = old_rau_net_prompt() if old == "RAU-Net" else old_segs_prompt(server.base / "input")
    known, ours, values = OLD[old]
    schemas = {name: {"input": inputs, "output": outputs, "output_name": outputs}
               for name, (inputs, outputs) in KNOWN.items()}  # fmt: skip
    graph = to_graph(prompt, server.object_info() | schemas)
    file = tmp_path / "old.json"
    file.write_text(json.dumps(graph), encoding="utf-8")
    fresh_front_end.drop(file)
    assert known in fresh_front_end.unknown_nodes()
    fresh_front_end.replace_nodes()
    assert fresh_front_end.red_links() == []
    opened = fresh_front_end.graph()
    assert named_links(opened) == named_links(graph)
    [node] = [node for node in opened["nodes"] if node["type"] == ours]
    assert node["widgets_values"] == values
    assert (
        fresh_front_end.run() == "execution_success"
    )  # front end 1.58 draws nothing more after Replace, so no picture is waited for


def test_what_a_language_does_not_have_is_shown_in_english(server, browser):
    schema = server.object_info()["MegapixelUpscale"]
    words = {"MegapixelUpscale": {"display_name": "放大", "inputs": {"image": {"name": "图像"}}}}
    with open_front_end(browser, server.address, "zh", words) as front_end:
        shown = front_end.texts_of("MegapixelUpscale")
    assert shown["title"] == "放大"
    assert shown["description"] == schema["description"]
    names = [name for group in schema["input_order"].values() for name in group]
    expected = {name: "图像" if name == "image" else name for name in names}
    assert shown["inputs"].items() >= expected.items()
