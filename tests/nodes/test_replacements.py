"""What ComfyUI is told of known nodes, against those nodes: inputs, order of saved values, outputs."""

from __future__ import annotations

import asyncio

import pytest
from megapixel.nodes import NODES, offer_replacements
from megapixel.nodes.replacements import REPLACEMENTS

from devhost.known_nodes import KNOWN, SEED_CONTROL, saved_widgets

OURS = {node.__name__: node for node in NODES}
BY_KNOWN = {entry.old_node_id: entry for entry in REPLACEMENTS}
HOST_LISTS = {"sampler_name", "scheduler", "instantid_file"}  # the options are those of a machine

each = pytest.mark.parametrize("known", KNOWN)


def known_inputs(known):
    """Return {name: (kind, options)} of a known node."""
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


def test_the_pack_loads_where_there_is_no_server():
    asyncio.run(offer_replacements())
