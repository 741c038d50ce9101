"""The global random generators of torch, for networks, samplers and decoders that draw from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import cast

import torch

KINDS = ("cuda", "xpu", "npu", "mlu")  # of accelerators; the last two exist with their own packages


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the generators of the CPU and of all accelerators, and restore all their states at the end."""
    # torch has no types for it
    fork = cast("Callable[..., AbstractContextManager[None]]", torch.random.fork_rng)  # pyright: ignore[reportUnknownMemberType]
    with ExitStack() as stack:
        stack.enter_context(fork(devices=[]))  # the CPU's
        for kind in KINDS:
            module = getattr(torch, kind, None)
            # A generator that was never used has no state to restore, and reading it would start the device.
            if module is not None and module.is_initialized():
                devices = range(module.device_count())
                stack.enter_context(fork(devices, device_type=kind))
        if torch.backends.mps.is_available():  # it has one device, and other functions
            stack.callback(torch.mps.set_rng_state, torch.mps.get_rng_state())
        torch.manual_seed(seed)  # pyright: ignore[reportUnknownMemberType]
        yield
