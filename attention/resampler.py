"""The resampler of InstantID: a fixed number of learned queries reads a face's embedding into tokens.

Each layer attends from the queries to the embedding and to the queries themselves, then widens and narrows
them again.

Source: InstantID (Wang et al., arXiv 2401.07519), which took it from IP-Adapter (arXiv 2308.06721), after the
Perceiver of Flamingo (arXiv 2204.14198). Names of weights are those of the published file.

B faces, E embeddings of a face, T queries (tokens of the result), D their width inside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..record import record

Attend = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""An attention kernel: queries (B, N, D), keys and values (B, M, D) and the count of heads to (B, N, D)."""

HEAD_WIDTH = 64


@record
class ResamplerShape:
    """The sizes of a resampler. InstantID's for SDXL are the defaults."""

    embedding: int = 512
    width: int = 1280
    inner: int = 1280
    hidden: int = 5120
    tokens: int = 16
    output: int = 2048
    depth: int = 4

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> ResamplerShape:
        """Read the sizes from weights.

        Raises:
            KeyError: when a weight is missing; the argument is its name.
        """
        return cls(
            embedding=state["proj_in.weight"].shape[1],
            width=state["proj_in.weight"].shape[0],
            inner=state["layers.0.0.to_q.weight"].shape[0],
            hidden=state["layers.0.1.1.weight"].shape[0],
            tokens=state["latents"].shape[1],
            output=state["proj_out.weight"].shape[0],
            depth=sum(name.endswith(".0.to_q.weight") for name in state),
        )


class Resampler(nn.Module):
    """Embeddings (B, E, embedding) to tokens (B, T, output)."""

    def __init__(self, shape: ResamplerShape, attend: Attend, layers: Any = nn) -> None:
        """Build it from `layers`, a namespace with `Linear` and `LayerNorm`."""
        super().__init__()
        self.latents = nn.Parameter(torch.empty(1, shape.tokens, shape.width))
        self.proj_in = layers.Linear(shape.embedding, shape.width)
        self.proj_out = layers.Linear(shape.width, shape.output)
        self.norm_out = layers.LayerNorm(shape.output)
        self.layers: Any = nn.ModuleList(
            nn.ModuleList([_Reader(shape, attend, layers), _feed_forward(shape, layers)])
            for _ in range(shape.depth)
        )

    def forward(self, embeddings: Tensor) -> Tensor:
        queries = self.latents.to(embeddings).expand(len(embeddings), -1, -1)
        source = self.proj_in(embeddings)
        for read, widen in self.layers:
            queries = queries + read(source, queries)
            queries = queries + widen(queries)
        return self.norm_out(self.proj_out(queries))


class _Reader(nn.Module):
    """Attention from the queries (B, T, D) to the source (B, E, D) and to the queries."""

    def __init__(self, shape: ResamplerShape, attend: Attend, layers: Any) -> None:
        super().__init__()
        self.attend = attend
        self.heads = shape.inner // HEAD_WIDTH
        self.norm1 = layers.LayerNorm(shape.width)
        self.norm2 = layers.LayerNorm(shape.width)
        self.to_q = layers.Linear(shape.width, shape.inner, bias=False)
        self.to_kv = layers.Linear(shape.width, shape.inner * 2, bias=False)
        self.to_out = layers.Linear(shape.inner, shape.width, bias=False)

    def forward(self, source: Tensor, queries: Tensor) -> Tensor:
        source, queries = self.norm1(source), self.norm2(queries)
        keys, values = self.to_kv(torch.cat([source, queries], dim=1)).chunk(2, dim=-1)
        return self.to_out(self.attend(self.to_q(queries), keys, values, self.heads))


def _feed_forward(shape: ResamplerShape, layers: Any) -> nn.Sequential:
    return nn.Sequential(
        layers.LayerNorm(shape.width),
        layers.Linear(shape.width, shape.hidden, bias=False),
        nn.GELU(),
        layers.Linear(shape.hidden, shape.width, bias=False),
    )
