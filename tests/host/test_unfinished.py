"""What is kept of a run that ended early: bounded, by node, and nothing is kept alive by it."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
from comfy_execution.utils import CurrentNodeContext
from megapixel.host import run_again, unfinished
from megapixel.host.unfinished import SampledSegments, sampled_segments
from megapixel.segs.refine import Fit, cut_pieces
from megapixel.segs.segment import SEG, read_segments

LATENT_BYTES = 4 * 8 * 8 * 4


@pytest.fixture(autouse=True)
def nothing_kept():
    yield
    unfinished._runs.clear()
    run_again._events.clear()


@pytest.fixture
def pieces(draw):
    """Some pieces, with the pixels that were cut for them."""
    boxes = [(0, 0, 32, 32), (32, 0, 64, 32), (64, 0, 96, 32)]
    segs = (32, 96), [SEG(None, np.ones((32, 32), np.float32), 1.0, box, box, "", None) for box in boxes]
    found_in, segments = read_segments(segs)
    cut = cut_pieces(segments, found_in, 1, Fit((32, 96)))
    return [(piece, draw(32, 32, 3, seed=number)) for number, piece in enumerate(cut)]


def of_node(node, *inputs):
    with CurrentNodeContext("prompt", node):
        return sampled_segments(*inputs)


def key_of(piece, cut):
    [key] = SampledSegments(node="any").keys_of([piece], [cut])
    return key


def put(run, pieces):
    for piece, cut in pieces:
        run.put(key_of(piece, cut), torch.ones(1, 4, 8, 8))


def test_a_segment_is_known_by_the_pixels_that_it_was_cut_from(pieces):
    [(piece, cut), *_] = pieces
    put(of_node("8", 1), pieces[:1])
    assert torch.equal(of_node("8", 1).get(key_of(piece, cut.clone())), torch.ones(1, 4, 8, 8))
    assert of_node("8", 1).get(key_of(piece, cut + 1e-6)) is None
    assert of_node("8", 1).get(key_of(*pieces[1])) is None
    first, second = of_node("8", 1).keys_of(*zip(*pieces[:2], strict=True))
    assert of_node("8", 1).get(first) is None  # sampled alone, not in a group
    assert first != second


def test_other_inputs_drop_it_and_so_does_a_complete_run(pieces):
    model = torch.nn.Identity()
    put(of_node("8", model, [{"text": torch.ones(1)}]), pieces)
    assert of_node("8", model, [{"text": torch.ones(1)}]).latents == {}  # an equal tensor, but another one
    put(of_node("8", model), pieces)
    assert len(of_node("8", model).latents) == 3
    of_node("8", model).end(complete=True)
    assert of_node("8", model).latents == {}


def test_a_script_caches_and_hashes_nothing(pieces):
    [(piece, _), *_] = pieces
    run = sampled_segments(1)
    [key] = run.keys_of([piece], [None])  # pixels that cannot be hashed
    run.put(key, torch.ones(1, 4, 8, 8))
    assert run.get(key) is None


def test_it_keeps_no_model_alive(pieces):
    model = torch.nn.Identity()
    seen = weakref.ref(model)
    put(of_node("8", {"model": model}), pieces)
    del model
    gc.collect()
    assert seen() is None
    assert of_node("8", {"model": torch.nn.Identity()}).latents == {}


def test_all_nodes_together_keep_no_more_than_the_bound_and_the_oldest_goes_first(pieces, monkeypatch):
    monkeypatch.setattr(unfinished, "MOST_BYTES", 4 * LATENT_BYTES)
    put(of_node("8"), pieces)
    put(of_node("9"), pieces)
    assert [of_node("9").get(key_of(*each)) is not None for each in pieces] == [True] * 3
    assert [of_node("8").get(key_of(*each)) is not None for each in pieces] == [False, False, True]


def test_a_script_keeps_nothing(pieces):
    run = sampled_segments()
    put(run, pieces)
    assert run.latents == {}
    assert not unfinished._runs
