"""Copying tensors to a device and back without needless waiting of the GPU or the program.

With ordinary memory, a copy makes the program wait for everything queued on the GPU before. Pinned memory is
copied while the program continues.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

POLL = 0.0005  # seconds between two looks at whether a copy is there

Check = Callable[[], None]  # raises to end the work
Wait = Callable[[Check], Tensor]


class Event(Protocol):
    """The part of torch.cuda.Event that is used here."""

    def query(self) -> bool:
        """Return whether everything queued before it is done."""
        ...


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """Return the tensor on `device`, with its own dtype."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def deliver(tensor: Tensor, device: torch.device) -> Wait:
    """Copy a tensor to `device` and return a function that waits until it is there,
    calling `Check` meanwhile.
    """
    if tensor.device.type != "cuda":
        there = tensor.to(device)
        return lambda check: there
    if device.type == "cpu":
        there = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(
            tensor, non_blocking=True
        )
    else:
        there = tensor.to(device, non_blocking=True)
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(tensor.device))

    def wait(check: Check) -> Tensor:
        wait_for(event, check)
        return there

    return wait


def wait_for(event: Event, check: Check) -> None:
    """Wait for the event. A GPU may be busy for seconds, and Cancel must work meanwhile."""
    while not event.query():
        check()
        time.sleep(POLL)
