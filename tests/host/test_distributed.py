"""Which worker this is: from prompts as ComfyUI-Distributed changes them for each
machine, in a real queue.
"""

from __future__ import annotations

import json
from types import SimpleNamespace

import execution
import pytest
from comfy_execution.utils import CurrentNodeContext
from megapixel.host import compat
from megapixel.host.distributed import worker_slice
from megapixel.nodes import MegapixelSEGSSlice

WORKERS = ["7", "12", "3"]  # ids, in the order in which they are numbered


def collector(worker=None, workers=WORKERS, **changed):
    inputs = {
        "images": ["4", 0], "load_balance": False, "multi_job_id": "exec_1", "is_worker": worker is not None,
        "enabled_worker_ids": json.dumps(workers), **({"worker_id": worker} if worker else {}), **changed,
    }  # fmt: skip
    return {
        "4": {"class_type": "PreviewImage", "inputs": {}},
        "9": {"class_type": "DistributedCollector", "inputs": inputs},
    }


@pytest.fixture
def running(monkeypatch):
    """A function (prompt, call) that returns what `call` returns while the prompt runs."""

    def run(prompt, call):
        server = SimpleNamespace()
        server.prompt_queue = execution.PromptQueue(SimpleNamespace(queue_updated=lambda: None))
        monkeypatch.setattr(compat, "prompt_server", lambda: server)
        server.prompt_queue.put((0, "mine", prompt, {}, [], {}))
        server.prompt_queue.get()
        with CurrentNodeContext("mine", "4"):
            return call()

    return run


@pytest.mark.parametrize("works", [True, False])
def test_each_machine_has_a_slice_of_its_own(works, running):
    def place(worker):
        return running(collector(worker), lambda: worker_slice(master_works=works))

    places = [place(worker) for worker in ([None] if works else []) + WORKERS]
    assert places == [(number, len(places)) for number in range(3 + works)]


ALONE = {
    "no collector": {},
    "no job": collector(multi_job_id=""),
    "no worker": collector(workers=[]),
    "one machine of several": collector("12", load_balance=True),
}


@pytest.mark.parametrize("prompt", ALONE.values(), ids=ALONE)
def test_a_prompt_that_one_machine_runs_has_one_slice(prompt, running):
    assert running(prompt, lambda: worker_slice(master_works=True)) == (0, 1)


def test_a_script_has_one_slice():
    assert worker_slice(master_works=True) == (0, 1)


def test_a_master_that_should_not_work_and_an_unknown_worker_are_one_sentence(running):
    with pytest.raises(
        ValueError, match=r"workers: expected a master that only orchestrates, got a master that also refines"
    ):
        running(collector(), lambda: worker_slice(master_works=False))
    with pytest.raises(ValueError, match=r"workers: expected one of 7, 12, 3, got 5\. "):
        running(collector("5"), lambda: worker_slice(master_works=True))


def test_the_node_takes_its_place_from_the_prompt_and_its_fingerprint_changes_with_it(running):
    choice, inputs = "ComfyUI-Distributed", {"index": 0, "count": 2, "keep_together": False}
    segs = ((9, 9), [])

    def node():
        return (
            MegapixelSEGSSlice.execute(segs, **inputs, workers=choice).args[0][1],
            MegapixelSEGSSlice.fingerprint_inputs(workers=choice),
        )

    share, fingerprint = running(collector("3"), node)
    assert (share.slice_index, share.slice_count) == (3, 4)
    assert running(collector("3"), node)[1] == fingerprint
    assert running(collector("7"), node)[1] != fingerprint
    by_hand = MegapixelSEGSSlice.execute(segs, **inputs).args[0][1]
    assert (by_hand.slice_index, by_hand.slice_count) == (0, 2)
    assert MegapixelSEGSSlice.fingerprint_inputs(**inputs) == ""
