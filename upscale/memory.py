"""The memory of a call, and the errors when it is not enough.

On a GPU the allocator's statistics are used. Elsewhere the living tensors of a small call are counted,
operation by operation, without the kernels' own scratch memory and the allocator's cache.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode  # the documented way to see every operation
from torch.utils._pytree import tree_leaves

from ..record import record


@record
class MemoryEstimate:
    """The memory of a network per input pixel.

    Attributes:
        peak: bytes of all tensors alive at once, input and output included.
        largest: values of its largest tensor.
    """

    peak: float
    largest: float = 0.0


def estimate_memory(run: Callable[[Tensor], Tensor], small: Tensor, large: Tensor) -> MemoryEstimate:
    """Run on two images (B, C, h, w) of different sizes and return what each further pixel takes."""
    peak, _ = measure_peak(run, small)
    more_peak, largest = measure_peak(run, large)
    pixels, more_pixels = small[:, 0].numel(), large[:, 0].numel()
    return MemoryEstimate(
        max((more_peak - peak) / (more_pixels - pixels), more_peak / more_pixels), largest / more_pixels
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error` means that a device or the host has no memory left, whichever class it has."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return _has_words(error, OUT_OF_MEMORY)


def may_be_out_of_memory(error: BaseException) -> bool:
    """Return whether `error` may mean too little memory, among other reasons."""
    return _has_words(error, MAYBE_OUT_OF_MEMORY)


OUT_OF_MEMORY = (
    "out of memory",
    "out_of_memory",
    "out_of_device_memory",
    "out_of_host_memory",
    "not enough memory",
    "not enough gpu video memory",
    "can't allocate memory",
    "alloc_failed",
    "allocfailed",
)
# cuDNN finds no algorithm where none has room for its workspace; handles that cannot be made; tensors beyond an index.
MAYBE_OUT_OF_MEMORY = (
    "unable to find an engine",
    "allocation_failed",
    "cudnn_status_internal_error",
    "cudnn_status_execution_failed",
    "cudnn_status_not_initialized",
    "cublas_status_not_initialized",
    "miopenstatusinternalerror",
    "out_of_resources",
    "canuse32bitindexmath",
    "int_max",
    "invalid buffer size",
)


def _has_words(error: BaseException, signs: tuple[str, ...]) -> bool:
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in text for sign in signs)


def measure_peak(run: Callable[[Tensor], Tensor], picture: Tensor) -> tuple[int, int]:
    """Run on an image and measure its memory.

    The most bytes that tensors on the image's device take at once, the image included, and the values of the
    largest of them.
    """
    on_gpu = picture.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(picture.device)
    before = torch.cuda.memory_allocated(picture.device) if on_gpu else 0
    with _LivingTensors(picture.device) as living:
        run(picture)
    peak = torch.cuda.max_memory_allocated(picture.device) - before if on_gpu else living.peak
    return peak + picture.nbytes, max(living.largest, picture.numel())


class _LivingTensors(TorchDispatchMode):
    """Counts the bytes of tensors on one device from creation to deletion."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        self.device = device
        self.now = self.peak = self.largest = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        leaves = tree_leaves((args, kwargs))
        given = {id(leaf.untyped_storage()) for leaf in leaves if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor) and leaf.device == self.device:
                self.largest = max(self.largest, leaf.numel())
                storage = leaf.untyped_storage()
                if id(storage) not in given and storage not in self._known:
                    self._known.add(storage)
                    self._count(storage.nbytes())
                    weakref.finalize(storage, self._count, -storage.nbytes())
        return made

    def _count(self, size: int) -> None:
        self.now += size
        self.peak = max(self.peak, self.now)
