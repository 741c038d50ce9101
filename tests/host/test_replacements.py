"""What ComfyUI is told of original nodes, against those nodes: inputs, order of saved values, outputs."""

from __future__ import annotations

import asyncio
import copy
import os

import pytest
from comfy_api.latest import io
from megapixel.host.replacements import REPLACEMENTS, offer_replacements
from megapixel.nodes import NODES

import nodes as host_nodes
from devhost.known_nodes import KNOWN, SEED_CONTROL, saved_widgets

OURS = {node.__name__: node for node in NODES}
BY_KNOWN = {entry.old_node_id: entry for entry in REPLACEMENTS}
HOST_LISTS = {"sampler_name", "scheduler", "instantid_file"}  # the options are those of a machine

each = pytest.mark.parametrize("known", KNOWN)


def known_inputs(known):
    """Return {name: (kind, options)} of a original node."""
    groups = KNOWN[known][0].values()
    return {name: (kind, *rest) for group in groups for name, (kind, *rest) in group.items()}


def our_inputs(entry, *groups):
    info = OURS[entry.new_node_id].GET_SCHEMA().get_v1_info(OURS[entry.new_node_id])
    return {name: socket for group in groups for name, socket in info.input.get(group, {}).items()}


def renamed(entry):
    return {mapped["old_id"]: mapped["new_id"] for mapped in entry.input_mapping if "old_id" in mapped}


def test_every_known_node_has_one_replacement():
    assert sorted(entry.old_node_id for entry in REPLACEMENTS) == sorted(KNOWN)


@each
def test_values_of_a_saved_graph_are_read_in_the_order_of_the_known_node(known):
    assert BY_KNOWN[known].old_widget_ids == saved_widgets(KNOWN[known][0])


def test_the_value_behind_a_seed_is_passed_over():
    widgets = BY_KNOWN["SEGSUpscaler"].old_widget_ids
    assert widgets[widgets.index("seed") + 1] == SEED_CONTROL
    assert widgets[widgets.index("seed") + 2] == "steps"


@each
def test_each_known_input_goes_to_one_of_ours_that_takes_all_its_values(known):
    entry = BY_KNOWN[known]
    ours = our_inputs(entry, "required", "optional")
    names = renamed(entry)
    assert set(names) == set(known_inputs(known))
    assert len(set(names.values())) == len(names)
    for name, (kind, *rest) in known_inputs(known).items():
        our_kind, our_options = ours[names[name]]
        if isinstance(kind, list):
            assert our_kind == "COMBO"
            assert name in HOST_LISTS or set(kind) <= set(our_options["options"])
            continue
        assert our_kind == kind
        for limits in rest:
            assert our_options.get("min", 0) <= limits.get("min", our_options.get("min", 0))
            assert our_options.get("max", 0) >= limits.get("max", our_options.get("max", 0))


@each
def test_all_that_our_node_requires_comes_from_what_the_known_one_requires(known):
    entry = BY_KNOWN[known]
    required = {renamed(entry)[name] for name in KNOWN[known][0]["required"]}
    assert set(our_inputs(entry, "required")) <= required


@each
def test_each_known_output_is_the_one_of_the_same_number(known):
    entry = BY_KNOWN[known]
    outputs = [output.get_io_type() for output in OURS[entry.new_node_id].GET_SCHEMA().outputs]
    assert [outputs[mapped["new_idx"]] for mapped in entry.output_mapping] == KNOWN[known][1]
    assert all(mapped["new_idx"] == mapped["old_idx"] for mapped in entry.output_mapping)


@pytest.mark.parametrize("known", ["ApplyInstantID", "ApplyInstantIDAdvanced"])
def test_a_known_face_keeps_its_look(known):
    entry = BY_KNOWN[known]
    assert {"new_id": "middle_block", "set_value": False} in entry.input_mapping
    assert our_inputs(entry, "optional")["middle_block"][0] == "BOOLEAN"


def test_a_known_id_finds_our_node_in_the_search():
    for entry in REPLACEMENTS:
        assert entry.old_node_id in OURS[entry.new_node_id].GET_SCHEMA().search_aliases


@pytest.fixture
def prompt_server(monkeypatch):
    """The host's own server, which listens nowhere, with the replacements of this pack."""
    monkeypatch.syspath_prepend(os.environ["COMFYUI_PATH"])  # older hosts have a second `utils` on the path
    from server import PromptServer

    loop = asyncio.new_event_loop()
    running = PromptServer(loop)
    loop.run_until_complete(offer_replacements())
    yield running
    loop.close()
    del PromptServer.instance


def posted(server, known, **inputs):
    """Return the node that the host goes on with."""
    prompt = {"1": {"class_type": known, "inputs": inputs}}
    return server.trigger_on_prompt({"prompt": prompt})["prompt"]["1"]


def test_the_host_knows_every_replacement(prompt_server):
    offered = prompt_server.node_replace_manager.as_dict()
    assert {known: entry[0]["new_node_id"] for known, entry in offered.items()} == {
        known: entry.new_node_id for known, entry in BY_KNOWN.items()
    }


def test_only_what_is_given_and_known_goes_to_our_node(prompt_server):
    node = posted(prompt_server, "ApplyInstantIDAdvanced", ip_weight=0.5, mask=["2", 0], unknown=["3", 0])
    assert node == {
        "class_type": "MegapixelInstantIDApply",
        "inputs": {"weight": 0.5, "mask": ["2", 0], "middle_block": False},
    }


def test_a_node_that_a_pack_brings_stays(prompt_server, monkeypatch):
    monkeypatch.setitem(host_nodes.NODE_CLASS_MAPPINGS, "MaskToSEGS", object)
    assert posted(prompt_server, "MaskToSEGS", mask=["2", 0])["class_type"] == "MaskToSEGS"


def test_the_replacement_of_another_pack_stays_where_it_came_first(prompt_server):
    manager = prompt_server.node_replace_manager
    manager._replacements.clear()
    for entry in (io.NodeReplace("Theirs", "MaskToSEGS"), BY_KNOWN["MaskToSEGS"]):
        manager.register(entry)
    assert posted(prompt_server, "MaskToSEGS", mask=["2", 0])["class_type"] == "MaskToSEGS"


@pytest.mark.parametrize(
    "body", [{}, {"prompt": {}}, {"prompt": {"1": {}}}, {"prompt": {"1": {"class_type": "KSampler"}}}]
)
def test_a_body_without_known_nodes_stays_as_it_is(prompt_server, body, caplog):
    assert prompt_server.trigger_on_prompt(copy.deepcopy(body)) == body
    assert not caplog.records


def test_the_pack_loads_where_there_is_no_server():
    asyncio.run(offer_replacements())
