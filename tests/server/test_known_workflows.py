"""Prompts of other packs' nodes, posted as scripts post them: without those packs, and beside them."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

import pytest

from devhost.demo import PACK, TINY_PACK, workflow_prompt
from devhost.instant_id_demo import APPLY, TINY, instant_id_prompt, put_portraits, put_tiny_models
from devhost.known_nodes import HIDIFFUSION, INSTANT_ID, write_pack
from devhost.segs_demo import UPSCALE, draw_figures, tiny_prompt as segs_prompt
from devhost.server import current_environment, running_server
from devhost.tiny.faces import Portrait
from devhost.upscale_demo import write_picture

EFFECT = "5"  # the node between checkpoint and sampler
SIMPLE = {"model": ["1", 0], "model_type": "SD15", "res_mode": "high (1536-2048)",
          "upscale_mode": "default", "ca_upscale_mode": "bilinear"}  # fmt: skip
ADVANCED = {
    "model": ["1", 0], "input_blocks": "3", "output_blocks": "8", "time_mode": "percent",
    "start_time": 0.0, "end_time": 0.45, "upscale_mode": "bicubic", "ca_start_time": 0.0, "ca_end_time": 0.3,
    "ca_input_blocks": "1", "ca_output_blocks": "11", "ca_upscale_mode": "bicubic",
    "ca_downscale_mode": "avg_pool2d", "ca_downscale_factor": 2.0, "two_stage_upscale_mode": "disabled",
}  # fmt: skip
WINDOWS = {"input_blocks": "1,2", "middle_blocks": "", "output_blocks": "9,10,11", "time_mode": "percent",
           "start_time": 0.2, "end_time": 1.0, "model": [EFFECT, 0]}  # fmt: skip
YAML = {"yaml_parameters": "ca_fadeout_start_time: 0.2\nverbose: 1"}
FACE = {"instantid": ["5", 0], "insightface": ["6", 0], "image": ["4", 0], "model": ["1", 0],
        "start_at": 0.0, "end_at": 0.9}  # fmt: skip
POSE = {"control_net": ["7", 0], "positive": ["2", 0], "negative": ["3", 0]}
KPS, MASK = {"image_kps": ["21", 0]}, {"mask": ["22", 0]}
LOOK = {"middle_block": False}
SEGS = {"overlaps": "in order", "smallest_crop": 8}


def node(class_type, **inputs):
    """A node as a script writes it: without a title."""
    return {"class_type": class_type, "inputs": inputs}


def untitled(prompt):
    return {key: node(entry["class_type"], **entry["inputs"]) for key, entry in prompt.items()}


def run(server, prompt):
    """Post a prompt as it is, and return its history and what ran for each node: (id, inputs)."""
    body = json.dumps({"prompt": prompt}).encode()
    request = urllib.request.Request(f"{server.address}/prompt", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        history = server.result(json.load(answer)["prompt_id"])
    return history, {key: (ran["class_type"], ran["inputs"]) for key, ran in history["prompt"][2].items()}


def large_prompt(*effects):
    """A picture at twice the tiny model's size, with effects behind each other ahead of the sampler."""
    prompt = untitled(workflow_prompt(
        ("plain",), checkpoint="tiny_sd15.safetensors", checkpoint_class="MegapixelDevCheckpoint",
        text="a red person", negative_text="", size=256, steps=2, scheduler="normal",
    ))  # fmt: skip
    prompt |= {str(int(EFFECT) + place): effect for place, effect in enumerate(effects)}
    [sampler] = [entry for entry in prompt.values() if entry["class_type"] == "KSampler"]
    sampler["inputs"]["model"] = [str(int(EFFECT) + len(effects) - 1), 0]
    return prompt


@pytest.mark.parametrize("further", [{}, YAML], ids=["without yaml_parameters", "with yaml_parameters"])
def test_the_two_effects_of_hidiffusion_run_on_ours(server, further):
    windows = {**WINDOWS, "yaml_parameters": "last_shift_mode: global"} if further else WINDOWS
    prompt = large_prompt(node("ApplyRAUNet", **ADVANCED, **further), node("ApplyMSWMSAAttention", **windows))
    history, ran = run(server, prompt)
    assert ran["5"] == ("MegapixelRAUNet", {**ADVANCED, **further})
    assert ran["6"] == ("MegapixelMSWMSA", windows)
    assert server.images(history)


def test_the_two_simple_effects_run_on_ours(server):
    windows = {"model_type": "auto", "model": [EFFECT, 0]}
    prompt = large_prompt(node("ApplyRAUNetSimple", **SIMPLE), node("ApplyMSWMSAAttentionSimple", **windows))
    history, ran = run(server, prompt)
    assert ran["5"] == ("MegapixelRAUNetSimple", SIMPLE)
    assert ran["6"] == ("MegapixelMSWMSASimple", windows)
    assert server.images(history)


@pytest.fixture(scope="module")
def portrait(server):
    put_tiny_models(server.base)
    return put_portraits(server.base, "known.png", Portrait(1, (130, 100), 90))


def face_prompt(portrait, **nodes):
    """The InstantID workflow with the known loaders and these nodes."""
    prompt = untitled(instant_id_prompt(portrait, **TINY))
    prompt["5"]["class_type"], prompt["6"]["class_type"] = "InstantIDModelLoader", "InstantIDFaceAnalysis"
    prompt["21"] = node("FaceKeypointsPreprocessor", faceanalysis=["6", 0], image=["4", 0])
    prompt["22"] = node("SolidMask", value=1.0, width=176, height=136)
    return prompt | nodes


@pytest.mark.parametrize("further", [{}, KPS | MASK], ids=["nothing optional", "keypoints and mask"])
@pytest.mark.parametrize(
    ("known", "given", "ours"),
    [
        ("ApplyInstantID", {"weight": 0.7}, {"weight": 0.7}),
        (
            "ApplyInstantIDAdvanced",
            {"ip_weight": 0.7, "cn_strength": 0.6, "noise": 0.2, "combine_embeds": "norm average"},
            {"weight": 0.7, "cn_strength": 0.6, "noise": 0.2, "combine_embeds": "norm average"},
        ),
        (  # as it was before it could combine faces
            "ApplyInstantIDAdvanced",
            {"ip_weight": 0.7, "cn_strength": 0.6, "noise": 0.2},
            {"weight": 0.7, "cn_strength": 0.6, "noise": 0.2},
        ),
    ],
    ids=["simple", "advanced", "older advanced"],
)
def test_a_face_is_applied_by_ours(server, portrait, known, given, ours, further):
    shared = FACE | POSE | further
    history, ran = run(server, face_prompt(portrait, **{APPLY: node(known, **shared, **given)}))
    assert ran[APPLY] == ("MegapixelInstantIDApply", shared | ours | LOOK)
    assert ran["5"][0] == "MegapixelInstantIDLoader"
    assert ran["6"] == ("MegapixelFaceAnalysis", {"provider": "CPU"})
    assert server.images(history)


@pytest.mark.parametrize("further", [{}, MASK], ids=["without masks", "with masks"])
def test_a_face_and_its_pose_apart_run_on_ours(server, portrait, further):
    attention = FACE | {"weight": 0.7, "noise": 0.1} | further
    pose = POSE | KPS | {"face_embeds": ["20", 1], "strength": 0.6, "start_at": 0.0, "end_at": 1.0} | further
    prompt = face_prompt(
        portrait,
        **{
            "20": node("InstantIDAttentionPatch", **attention),
            APPLY: node("ApplyInstantIDControlNet", **pose),
        },
    )
    prompt["10"]["inputs"] |= {"model": ["20", 0], "positive": [APPLY, 0], "negative": [APPLY, 1]}
    history, ran = run(server, prompt)
    assert ran["20"] == ("MegapixelInstantIDAttention", attention)
    assert ran[APPLY] == ("MegapixelInstantIDControlNet", pose)
    assert ran["21"] == ("MegapixelFaceKeypoints", {"faceanalysis": ["6", 0], "image": ["4", 0]})
    assert server.images(history)


ADDITIONS = {"overlaps", "match_colours", "smallest_crop", "batch_size", "keep_on_interrupt"}


def figures_prompt(server):
    """Refining what a mask shows, with the original nodes."""
    drawn = draw_figures()
    write_picture(drawn.small, server.base / "input" / "known_figures.png")
    write_picture(drawn.mask.expand(1, 3, -1, -1), server.base / "input" / "known_mask.png")
    prompt = untitled(segs_prompt("known_figures.png", "known_mask.png", steps=1))
    for key, known in (("6", "MaskToSEGS"), (UPSCALE, "SEGSUpscaler")):
        inputs = prompt[key]["inputs"]
        kept = {name: value for name, value in inputs.items() if name not in ADDITIONS | {"label"}}
        prompt[key] = node(known, **kept)
    return prompt


def test_segments_of_a_mask_are_refined_by_ours(server):
    prompt = figures_prompt(server)
    prompt[UPSCALE]["inputs"]["upscaler_hook_opt"] = ["20", 0]
    prompt["20"] = node("MegapixelSaveProgressHook", filename_prefix="known", seconds=30.0)
    history, ran = run(server, prompt)
    assert ran["6"] == ("MegapixelMaskToSEGS", prompt["6"]["inputs"])
    assert ran[UPSCALE] == ("MegapixelSEGSUpscale", prompt[UPSCALE]["inputs"] | SEGS)
    assert server.images(history, "9")


def test_a_known_node_without_its_required_inputs_is_named_like_any_other(server):
    inputs = {name: value for name, value in SIMPLE.items() if name != "res_mode"}
    with pytest.raises(urllib.error.HTTPError) as refused:
        run(server, large_prompt(node("ApplyRAUNetSimple", **inputs)))
    assert refused.value.code == 400
    [failure] = json.load(refused.value)["node_errors"]["5"]["errors"]
    assert (failure["type"], failure["details"]) == ("required_input_missing", "res_mode")


PIPE = """
class ToBasicPipe:
    INPUT_TYPES = classmethod(lambda cls: {"required": {
        "model": ["MODEL"], "clip": ["CLIP"], "vae": ["VAE"],
        "positive": ["CONDITIONING"], "negative": ["CONDITIONING"],
    }})
    RETURN_TYPES = ("BASIC_PIPE",)
    FUNCTION = "run"
    CATEGORY = "known"

    def run(self, model, clip, vae, positive, negative):
        return ((model, clip, vae, positive, negative),)


NODE_CLASS_MAPPINGS["ToBasicPipe"] = ToBasicPipe
"""


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory):
    """A server on which two more packs own the nodes of HiDiffusion and InstantID; one makes pipes, too."""
    folder = tmp_path_factory.mktemp("packs")
    owner = write_pack(folder / "z_pack", INSTANT_ID)
    with (owner / "__init__.py").open("a", encoding="utf-8") as code:
        code.write(PIPE)
    packs = {**PACK, **TINY_PACK, "a_pack": write_pack(folder / "a_pack", HIDIFFUSION), "z_pack": owner}
    with running_server(current_environment(), packs, base=tmp_path_factory.mktemp("base")) as running:
        yield running


def test_packs_that_own_known_nodes_keep_them_and_ours_run_beside_them(shared_server):
    prompt = large_prompt(node("ApplyRAUNetSimple", **SIMPLE), node("MegapixelRAUNetSimple", **SIMPLE))
    prompt["6"]["inputs"]["model"] = ["5", 0]
    history, ran = run(shared_server, prompt)
    assert [ran["5"][0], ran["6"][0]] == ["ApplyRAUNetSimple", "MegapixelRAUNetSimple"]
    assert shared_server.images(history)
    log = shared_server.log.read_text()
    assert log.count("original node ran: ApplyRAUNetSimple") == 1
    assert "RAU-Net" in log
    known = shared_server.object_info()
    assert {known[name]["python_module"] for name in HIDIFFUSION} == {"custom_nodes.a_pack"}
    assert {known[name]["python_module"] for name in INSTANT_ID} == {"custom_nodes.z_pack"}


def test_what_no_pack_owns_runs_on_ours_beside_them(shared_server):
    prompt = figures_prompt(shared_server)
    inputs = prompt[UPSCALE]["inputs"]
    pipe = {name: inputs.pop(name) for name in ("model", "clip", "vae", "positive", "negative")}
    prompt["20"] = node("ToBasicPipe", **pipe)
    prompt[UPSCALE] = node("SEGSUpscalerPipe", **inputs, basic_pipe=["20", 0])
    history, ran = run(shared_server, prompt)
    assert ran[UPSCALE] == ("MegapixelSEGSUpscalePipe", prompt[UPSCALE]["inputs"] | SEGS)
    assert shared_server.images(history, "9")
