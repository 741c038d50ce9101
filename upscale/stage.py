"""One network, or one part of it, as the loop over tiles sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from .memory import MemoryEstimate
from .tiles import ReceptiveField
from .transfer import upload

Run: TypeAlias = Callable[[Tensor], Tensor]  # (B, C, h, w) -> (B, C', scale * h, scale * w)


@dataclass(frozen=True)
class Worker:
    """A network on one device, in the type and layout in which it is fastest there.

    `fp32_fallback`, where given, is the same network in float32, for tiles in which `run` gives no numbers.
    """

    run: Run
    device: torch.device
    dtype: torch.dtype = torch.float32
    layout: torch.memory_format = torch.contiguous_format
    fp32_fallback: Run | None = None

    @property
    def runs_ahead(self) -> bool:
        """Whether a call returns before its work is done, as on a GPU."""
        return self.device.type == "cuda"

    def __call__(self, tiles: Tensor, fp32_fallback: bool = False) -> Tensor:
        """Run on (B, C, h, w) from anywhere; in float32 where `fp32_fallback`."""
        there = upload(tiles, self.device)
        if fp32_fallback and self.fp32_fallback:
            return self.fp32_fallback(there.to(torch.float32).contiguous())
        return self.run(there.to(self.dtype).contiguous(memory_format=self.layout))


@dataclass(frozen=True)
class Stage:
    """What the loop needs to know: who computes, how much larger the result is, how to cut.

    `reach` is asked only where a picture needs more than one tile, because measuring it takes a moment. It takes a budget
    and whether it must be known whatever it costs, and may raise `BudgetSpent`. `channels` are those of the result, which
    `gives_features` for another stage or else is a picture.
    """

    workers: Sequence[Worker]
    scale: int
    need: MemoryEstimate
    reach: Callable[..., ReceptiveField]
    channels: int = 3
    gives_features: bool = False

    @property
    def on_cpu(self) -> bool:
        """Whether the CPU computes it."""
        return self.workers[0].device.type == "cpu"
