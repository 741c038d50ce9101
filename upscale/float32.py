"""True float32 while a network runs.

cuDNN computes convolutions of float32 in TF32 by default, with 10 bits instead of 23 (differences of 5e-5 to
3e-4), and some programs switch matrix products to TF32 or bfloat16. These settings belong to the whole
process: they are changed while at least one thread is inside a context of this module, and restored when the
last one leaves it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

Undo = list[Callable[[], None]]  # restores settings, in order


class _Held:
    """Settings that `switch` changes while at least one thread is inside."""

    def __init__(self, switch: Callable[[], Undo]) -> None:
        self._switch, self._lock = switch, threading.Lock()
        self._inside, self._undo = 0, Undo()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._undo = self._switch()
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if self._inside == 0:
                    for undo in self._undo:
                        undo()


def _switch_products() -> Undo:
    read, write = torch.get_float32_matmul_precision, torch.set_float32_matmul_precision
    return _switch(
        read, write, "highest", [(torch.backends.cuda, "matmul"), (torch.backends.mkldnn, "matmul")]
    )


def _switch_convolutions() -> Undo:
    backends = torch.backends

    def write(allow: bool) -> None:
        backends.cudnn.allow_tf32 = allow

    parts = [(backends.cudnn, "conv"), (backends.cudnn, "rnn"), (backends.mkldnn, "conv")]
    return _switch(lambda: backends.cudnn.allow_tf32, write, False, parts)


def _switch(
    read: Callable[[], Any], write: Callable[[Any], None], value: Any, parts: list[tuple[Any, str]]
) -> Undo:
    """Set the setting of `read` and `write` to `value`, and torch's newer ones to true float32; return what
    restores them.
    """
    newer: list[Any] = [
        part for backend, name in parts if hasattr(part := getattr(backend, name, None), "fp32_precision")
    ]  # from torch 2.9 on
    kept = [(part, part.fp32_precision) for part in newer]
    undo = Undo()
    # torch refuses to read the old settings if the newer ones were set; those restore both then.
    with suppress(RuntimeError):
        before = read()
        undo.append(lambda: write(before))
    write(value)
    for part, precision in kept:
        part.fp32_precision = "ieee"
        undo.append(lambda part=part, precision=precision: setattr(part, "fp32_precision", precision))
    return undo


true_products = _Held(_switch_products)
"""A context in which matrix products of float32 have all their bits, in this thread and in all others."""
_true_convolutions = _Held(_switch_convolutions)


@contextmanager
def true_float32() -> Iterator[None]:
    """Compute float32 with all its bits, in this thread and in all others."""
    with true_products(), _true_convolutions():
        yield
