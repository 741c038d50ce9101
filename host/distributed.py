"""The number of this worker and of all workers,
read from the prompt that ComfyUI-Distributed sends to each machine.

In each machine's copy of a prompt, the collector node contains the list of workers and which of them this one
is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import bad_input
from .compat import executing_prompt

COLLECTOR = "DistributedCollector"


def worker_slice(*, master_works: bool) -> tuple[int, int]:
    """Return (index, count) of the slice of the machine that runs the prompt;
    (0, 1) if there is only one machine.

    The master is the first, followed by the workers in their order. Without `master_works` there are only the
    workers.

    Raises:
        ValueError: when this machine is a worker that is not in the list, or the master although only workers
            are counted.
    """
    for inputs in _collectors(executing_prompt()):
        workers = [str(name) for name in json.loads(inputs.get("enabled_worker_ids") or "[]")]
        if not workers or inputs.get("load_balance") in (True, "true"):
            continue
        first = 1 if master_works else 0
        return _place(inputs, workers, first), len(workers) + first
    return 0, 1


def _place(inputs: Mapping[str, Any], workers: list[str], first: int) -> int:
    if not inputs.get("is_worker"):
        if first:
            return 0
        hint = "Set workers to ComfyUI-Distributed, or let the master only orchestrate."
        raise bad_input("workers", "a master that only orchestrates", "a master that also refines", hint)
    name = str(inputs.get("worker_id"))
    if name not in workers:
        raise bad_input("workers", f"one of {', '.join(workers)}", name, "Enable this worker.")
    return first + workers.index(name)


def _collectors(prompt: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the inputs of the collectors that take part in a job."""
    for node in prompt.values():
        inputs = node.get("inputs", {})
        if node.get("class_type") == COLLECTOR and inputs.get("multi_job_id"):
            yield inputs
