"""One network, or one part of it, for the loop over tiles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from ..record import record
from .memory import MemoryEstimate
from .tiles import ReceptiveField
from .transfer import upload

Run: TypeAlias = Callable[[Tensor], Tensor]  # (B, C, h, w) -> (B, C', scale * h, scale * w)


@record
class Worker:
    """A network on one device, with the dtype and memory format in which it is fastest there.

    `fp32_fallback` is the same network in float32 or None; it is used for tiles in which `run` gives NaN.
    """

    run: Run
    device: torch.device
    dtype: torch.dtype = torch.float32
    memory_format: torch.memory_format = torch.contiguous_format
    fp32_fallback: Run | None = None

    @property
    def runs_ahead(self) -> bool:
        """Whether a call returns before its work is done, as on a GPU."""
        return self.device.type == "cuda"

    def __call__(self, tiles: Tensor, fp32_fallback: bool = False) -> Tensor:
        """Run on (B, C, h, w) from any device; in float32 with `fp32_fallback`."""
        there = upload(tiles, self.device)
        if fp32_fallback and self.fp32_fallback:
            return self.fp32_fallback(there.to(torch.float32).contiguous())
        return self.run(there.to(self.dtype).contiguous(memory_format=self.memory_format))


@record
class Stage:
    """The workers, the scale and the tiling of a network, for the loop.

    `receptive_field` is called only if an image needs more than one tile, because measuring takes time. It
    gets a budget and whether it must be measured at any cost, and may raise `BudgetSpent`. `channels` are
    those of the result, which is an image, or with `gives_features` the input of another stage.
    """

    workers: Sequence[Worker]
    scale: int
    memory_estimate: MemoryEstimate
    receptive_field: Callable[..., ReceptiveField]
    channels: int = 3
    gives_features: bool = False

    @property
    def on_cpu(self) -> bool:
        """Whether the CPU computes it."""
        return self.workers[0].device.type == "cpu"
