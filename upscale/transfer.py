"""Tensors to a device and back, such that neither the GPU nor the program waits for more than it must.

Ordinary memory can only be copied while the program waits for all that was queued on the GPU before. Pinned memory is copied
while the program goes on.
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
        """Return whether all that was queued before it is done."""
        ...


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """Return the tensor on `device`, in its own type."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def deliver(tensor: Tensor, device: torch.device) -> Wait:
    """Send a tensor to `device` and return what waits until it is there, looking at `Check` meanwhile."""
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
    """Return when the event has come. A GPU may be busy for seconds: so long the program must not be deaf to Cancel."""
    while not event.query():
        check()
        time.sleep(POLL)
