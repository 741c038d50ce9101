"""Sizes typed in nodes before the one that samples, by the host's own nodes in a real queue."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import execution
import pytest
from comfy_execution.utils import CurrentNodeContext
from megapixel.host import compat
from megapixel.host.typed_sizes import chooses_by_size, typed_size_notices
from megapixel.nodes import MegapixelSchedulerFunction, MegapixelSEGSUpscale

import nodes as host_nodes

CROP = (512, 512)
NODE = "8"


def flux(width=1024, height=1024):
    inputs = {"model": ["1", 0], "max_shift": 1.15, "base_shift": 0.5, "width": width, "height": height}
    return {"class_type": "ModelSamplingFlux", "inputs": inputs}


def prompt_of(**given):
    """Return a prompt that samples with what a node 2 makes: the model, or noise levels."""
    upscale = {
        "class_type": "MegapixelSEGSUpscale",
        "inputs": {"model": ["2", 0], "image": ["9", 0], **given},
    }
    return {
        "1": {"class_type": "UNETLoader", "inputs": {"unet_name": "flux.safetensors"}},
        "2": flux(),
        "9": {"class_type": "EmptyImage", "inputs": {"width": 4096, "height": 4096}},
        NODE: upscale,
    }


@pytest.fixture(scope="module", autouse=True)
def host_classes():
    """All nodes of the host and two of this pack, in a table of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host_nodes, "NODE_CLASS_MAPPINGS", dict(host_nodes.NODE_CLASS_MAPPINGS))
        asyncio.run(host_nodes.init_builtin_extra_nodes())
        for node in (MegapixelSEGSUpscale, MegapixelSchedulerFunction):
            host_nodes.NODE_CLASS_MAPPINGS[node.__name__] = node
        yield


@pytest.fixture
def notices(monkeypatch):
    """A function (prompt, sizes) that returns the texts while the prompt runs."""

    def run(prompt, sizes=(CROP,)):
        server = SimpleNamespace()
        server.prompt_queue = execution.PromptQueue(SimpleNamespace(queue_updated=lambda: None))
        monkeypatch.setattr(compat, "prompt_server", lambda: server)
        server.prompt_queue.put((0, "mine", prompt, {}, [], {}))
        server.prompt_queue.get()
        with CurrentNodeContext("mine", NODE):
            return typed_size_notices(sizes)

    return run


def test_a_shift_for_the_picture_is_reported_with_what_fits_the_crops(notices):
    assert notices(prompt_of()) == [
        "ModelSamplingFlux (2) is set to 1024x1024, but the crops are 512x512. "
        "Enter the size of the crops there: width 512, height 512."
    ]


def test_crops_of_several_sizes_are_named_and_the_middle_one_is_proposed(notices):
    [text] = notices(prompt_of(), [(512, 512), (256, 512), (512, 1024), (512, 512)])
    assert "but the crops are 512x256 to 1024x512" in text
    assert text.endswith("width 512, height 512.")


@pytest.mark.parametrize("sizes", [[(1024, 1024)], [(1040, 1008), (1024, 1024)], [(512, 2048)], []], ids=str)
def test_a_size_that_fits_all_crops_is_no_matter(sizes, notices):
    assert notices(prompt_of(), sizes) == []


def test_a_number_from_a_primitive_is_typed_and_one_from_elsewhere_is_not(notices):
    linked = {**prompt_of(), "2": flux(["5", 0], ["5", 0])}
    number = {"5": {"class_type": "PrimitiveInt", "inputs": {"value": 512}}}
    assert notices(linked | number) == []
    measured = {"5": {"class_type": "GetImageSize", "inputs": {"image": ["9", 0]}}}
    [text] = notices(linked | measured)
    assert text.startswith(
        "ModelSamplingFlux (2) takes its size from another node, but the crops are 512x512"
    )


def test_noise_levels_for_a_size_are_found_behind_the_scheduler_function(notices):
    scheduled = {
        **prompt_of(model=["1", 0], scheduler_func_opt=["4", 0]),
        "3": {"class_type": "Flux2Scheduler", "inputs": {"steps": 4, "width": 2048, "height": 1024}},
        "4": {"class_type": "MegapixelSchedulerFunction", "inputs": {"sigmas": ["3", 0]}},
    }
    [text] = notices(scheduled)
    assert text.startswith("Flux2Scheduler (3) is set to 2048x1024, but the crops are 512x512. ")


def test_a_picture_with_a_size_is_no_such_node(notices):
    assert notices(prompt_of(model=["1", 0])) == []


def test_a_pipe_of_a_pack_that_is_not_known_here_is_looked_through(notices):
    pipe = {"class_type": "NotInstalled", "inputs": {"model": ["2", 0], "image": ["9", 0]}}
    [text] = notices({**prompt_of(model=["1", 0], basic_pipe=["3", 0]), "3": pipe})
    assert text.startswith("ModelSamplingFlux (2) ")


def test_in_a_script_there_is_no_prompt_to_read():
    assert typed_size_notices([CROP]) == []


def test_the_sizes_are_not_computed_where_no_node_asks_for_one(notices):
    def none():
        raise AssertionError
        yield

    assert notices(prompt_of(model=["1", 0]), none()) == []


def test_these_are_the_nodes_of_the_host_that_choose_by_a_size():
    """A new one needs no change in the pack, only a word in the help page."""
    found = {
        name
        for name, node in host_nodes.NODE_CLASS_MAPPINGS.items()
        if chooses_by_size(compat.output_types(name), _inputs(node))
    }
    assert found == {"ModelSamplingFlux", "Flux2Scheduler", "Ideogram4Scheduler"}


def _inputs(node):
    return [name for group in node.INPUT_TYPES().values() if isinstance(group, dict) for name in group]
