"""How much memory a call takes, and what it looks like when there is not enough.

On a GPU its allocator counts. Elsewhere the living tensors of a small call are counted, operation by operation, which
sees neither the kernels' own scratch memory nor what the allocator keeps.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode  # the documented way to see every operation
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True)
class Need:
    """What a network needs: `peak` bytes for an input pixel, of all tensors alive at once, input and output included."""

    peak: float


def measure_need(run: Callable[[Tensor], Tensor], small: Tensor, large: Tensor) -> Need:
    """Run on two pictures (B, C, h, w) of different sizes and return what each further pixel takes."""
    peak, more_peak = measure_peak(run, small), measure_peak(run, large)
    pixels, more_pixels = small[:, 0].numel(), large[:, 0].numel()
    return Need(max((more_peak - peak) / (more_pixels - pixels), more_peak / more_pixels))


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error` means that a device or the host has no memory left, whichever class it has."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    words = str(error).lower()
    signs = ("out of memory", "not enough memory", "can't allocate memory", "alloc_failed")
    return isinstance(error, RuntimeError) and any(sign in words for sign in signs)


def measure_peak(run: Callable[[Tensor], Tensor], picture: Tensor) -> int:
    """Return the most bytes that tensors on the picture's device take at once in `run(picture)`, itself included."""
    if picture.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(picture.device)
        before = torch.cuda.memory_allocated(picture.device)
        run(picture)
        return torch.cuda.max_memory_allocated(picture.device) - before + picture.nbytes
    with _LivingTensors(picture.device) as living:
        run(picture)
    return living.peak + picture.nbytes


class _LivingTensors(TorchDispatchMode):
    """Counts the bytes of tensors on one device from their making to their end."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        self.device = device
        self.now = self.peak = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        leaves = tree_leaves((args, kwargs))
        given = {id(leaf.untyped_storage()) for leaf in leaves if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor) and leaf.device == self.device:
                storage = leaf.untyped_storage()
                if id(storage) not in given and storage not in self._known:
                    self._known.add(storage)
                    self._count(storage.nbytes())
                    weakref.finalize(storage, self._count, -storage.nbytes())
        return made

    def _count(self, size: int) -> None:
        self.now += size
        self.peak = max(self.peak, self.now)
