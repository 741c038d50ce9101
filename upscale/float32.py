"""True float32 while a network runs.

cuDNN computes convolutions of float32 in TF32 by default, with 10 bits instead of 23 (differences of 5e-5 to
3e-4), and some programs switch matrix products to TF32 or bfloat16. These settings belong to the whole
process: they are changed while at least one thread is inside `true_float32`, and restored when the last one
leaves it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

_lock = threading.Lock()
_restore: list[Callable[[], None]] = []  # restore the settings; empty while no thread is inside
_inside = 0


@contextmanager
def true_float32() -> Iterator[None]:
    """Compute float32 with all its bits, in this thread and in all others."""
    global _inside
    with _lock:
        _inside += 1
        if _inside == 1:
            _restore.extend(_switch())
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                for undo in _restore:
                    undo()
                _restore.clear()


def _switch() -> list[Callable[[], None]]:
    """Switch to true float32 and return the functions that restore the settings, in order."""
    backends = torch.backends
    undo: list[Callable[[], None]] = []

    def change(read: Callable[[], Any], write: Callable[[Any], None], value: Any) -> None:
        # torch refuses to read the old settings if the newer ones were set; those restore both then.
        with suppress(RuntimeError):
            before = read()
            undo.append(lambda: write(before))
        write(value)

    def write_cudnn(allow: bool) -> None:
        backends.cudnn.allow_tf32 = allow

    newer: list[Any] = [
        part
        for backend, names in (
            (backends.cudnn, ("conv", "rnn")),
            (backends.cuda, ("matmul",)),
            (backends.mkldnn, ("conv", "matmul")),
        )
        for name in names
        if hasattr(part := getattr(backend, name, None), "fp32_precision")
    ]  # from torch 2.9 on
    kept = [(part, part.fp32_precision) for part in newer]
    change(lambda: backends.cudnn.allow_tf32, write_cudnn, False)
    change(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest")
    for part, precision in kept:
        part.fp32_precision = "ieee"
        undo.append(lambda part=part, precision=precision: setattr(part, "fp32_precision", precision))
    return undo
