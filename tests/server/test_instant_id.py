"""InstantID through the real server: a picture of a face, analysis, apply, sampler, picture."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image

from devhost.instant_id_demo import APPLY, EXAMPLE, TINY, instant_id_prompt, put_portraits, put_tiny_models
from devhost.server import PromptFailure
from devhost.tiny.faces import Portrait
from devhost.workflow import prompt_node, read_png_text, to_graph

ALICE, BOB = Portrait(1, (130, 100), 90), Portrait(2, (130, 100), 90)


@pytest.fixture(scope="module")
def faces(server):
    """The names of pictures in the server's input folder, by whom they show."""
    put_tiny_models(server.base)
    (server.base / "models" / "instantid" / "cut.safetensors").write_bytes(b"\x10\x00\x00")
    return {
        "alice": put_portraits(server.base, "alice.png", ALICE),
        "bob": put_portraits(server.base, "bob.png", BOB),
        "nobody": put_portraits(server.base, "nobody.png"),
    }


def tiny_prompt(face, **settings):
    return instant_id_prompt(face, **TINY | settings)


def picture(server, prompt, graph=None):
    [file] = server.images(server.run(prompt, graph))
    return np.asarray(Image.open(file)).astype(int)


def test_the_workflow_runs_and_its_picture_follows_the_face(server, faces):
    prompt = tiny_prompt(faces["alice"])
    graph = to_graph(prompt, server.object_info())
    [file] = server.images(server.run(prompt, graph))
    assert json.loads(read_png_text(file)["workflow"]) == graph
    alice = np.asarray(Image.open(file)).astype(int)
    assert alice.shape == (136, 176, 3)
    bob = picture(server, tiny_prompt(faces["bob"]))
    plain = picture(server, tiny_prompt(faces["alice"], weight=0.0))
    for one, other in ((alice, bob), (alice, plain), (bob, plain)):
        assert np.abs(one - other).mean() > 1
    assert re.search(
        r"InstantID: weight 0\.8, start_at 0, end_at 1, everywhere, 70 layers", server.log.read_text()
    )


def test_a_change_behind_it_gives_what_a_fresh_start_gives(server, faces):
    """The original pack adds the face once more whenever its model is taken from the cache."""
    fresh = picture(server, tiny_prompt(faces["alice"], seed=5))
    picture(server, tiny_prompt(faces["alice"], seed=6))
    again = tiny_prompt(faces["alice"], seed=5)
    again["12"]["inputs"]["filename_prefix"] = "megapixel/again"
    assert np.array_equal(picture(server, again), fresh)


def test_two_people_and_the_attention_apart_from_the_controlnet(server, faces):
    prompt = tiny_prompt(faces["alice"])
    applied = prompt[APPLY]["inputs"]
    prompt |= {
        "20": prompt_node("LoadImage", "Bob", image=faces["bob"]),
        "21": prompt_node("SolidMask", "Right", value=1.0, width=176, height=136),
        "22": prompt_node(
            "MegapixelInstantIDAttention", "Bob", instantid=["5", 0], insightface=["6", 0], image=["20", 0],
            model=[APPLY, 0], weight=0.7, start_at=0.0, end_at=0.9, noise=0.1, mask=["21", 0],
        ),
        "23": prompt_node("MegapixelFaceKeypoints", "Keypoints", faceanalysis=["6", 0], image=["20", 0]),
        "24": prompt_node(
            "MegapixelInstantIDControlNet", "Pose", face_embeds=["22", 1], control_net=applied["control_net"],
            image_kps=["23", 0], positive=[APPLY, 1], negative=[APPLY, 2], strength=0.6, start_at=0.0, end_at=1.0,
        ),
    }  # fmt: skip
    prompt["10"]["inputs"] |= {"model": ["22", 0], "positive": ["24", 0], "negative": ["24", 1]}
    both = picture(server, prompt)
    assert np.abs(both - picture(server, tiny_prompt(faces["alice"]))).mean() > 1
    assert "InstantID: weight 0.7, start_at 0, end_at 0.9, in the mask, 70 layers" in server.log.read_text()


@pytest.mark.parametrize(
    ("who", "settings", "node", "sentence"),
    [
        ("nobody", {}, "MegapixelInstantIDApply",
         r"image: expected the chosen face, got none in image 1 of 1 \(0 found\)\. .*"),
        ("alice", {"instant_id": "cut.safetensors"}, "MegapixelInstantIDLoader",
         r"instantid_file: expected a complete file of weights, got cut\.safetensors, which is damaged or incomplete\. .*"),
        ("alice", {"checkpoint": "tiny_sd15.safetensors"}, "MegapixelInstantIDApply",
         r"model: expected an SDXL model \(70 cross-attention layers .*, got SceneSD15 with 16 for tokens of 64 values\. .*"),
        ("alice", {"control_net": "tiny_sd15.safetensors"}, "MegapixelInstantIDApply",
         r"control_net: expected InstantID's ControlNet for SDXL, got one that reads tokens of 64 instead of 2048 values\. .*"),
    ],
    ids=["no face", "truncated file", "SD1.5", "ControlNet of SD1.5"],
)  # fmt: skip
def test_bad_input_is_an_error_message_at_the_node_and_the_queue_goes_on(
    server, faces, who, settings, node, sentence
):
    with pytest.raises(PromptFailure) as refused:
        server.run(tiny_prompt(faces[who], **settings))
    [failure] = refused.value.failures
    assert failure.node_type == node
    assert re.fullmatch(sentence, failure.message)
    assert picture(server, tiny_prompt(faces["alice"], seed=7)).shape == (136, 176, 3)


def test_the_loader_lists_what_is_in_the_folder(server, faces):
    [_, options] = server.object_info()["MegapixelInstantIDLoader"]["input"]["required"]["instantid_file"]
    assert options["options"] == ["cut.safetensors", "tiny.safetensors"]


def test_the_example_workflow_is_the_one_that_runs_here(server):
    example = json.loads(EXAMPLE.read_text(encoding="utf-8"))
    assert example == to_graph(instant_id_prompt(), server.object_info())
    assert EXAMPLE.with_suffix(".jpg").is_file()
