"""InstantID's network, and its addition to a cross-attention: a second attention, from the image to a face.

The resampler turns a face's embedding into a few tokens; each cross-attention of the UNet has its own
projection to keys and values for them. Neither depends on the image or the step, so everything is computed
once per face, and the weights are not needed while sampling.

Source: InstantID (Wang et al., arXiv 2401.07519), after IP-Adapter's decoupled cross-attention (arXiv
2308.06721).

C conditionings in one batch, B images of each, N tokens of the image, T tokens of a face, D the width of a
layer and S the sum of the widths of all layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..record import record
from .resampler import Attend, Resampler, ResamplerShape

COMBINATIONS = "average", "norm average", "concat"

State = Mapping[str, Tensor]


class InstantID(nn.Module):
    """The network of an InstantID file, with the file's names of weights.

    `widths` are those of the UNet's cross-attentions in their order, `context` that of the tokens.
    """

    def __init__(
        self, shape: ResamplerShape, widths: Sequence[int], attend: Attend, layers: Any = nn
    ) -> None:
        """Build it for cross-attentions of `widths`, from a namespace `layers` with
        `Linear` and `LayerNorm`.
        """
        super().__init__()
        self.widths = tuple(widths)
        self.context = shape.output
        self.image_proj = Resampler(shape, attend, layers)
        self.ip_adapter = nn.ModuleDict(
            {projection_key(n): _Projections(shape.output, width, layers) for n, width in enumerate(widths)}
        )

    def tokens(self, embeddings: Tensor) -> Tensor:
        """Return the tokens (R, T, width) of R references (R, embedding)."""
        return self.image_proj(embeddings.unsqueeze(1))

    def project(self, tokens: Tensor) -> Tensor:
        """Return the keys and values (F, 2, T, S) of F token sets (F, T, width), all layers side by side."""
        return torch.cat([projections(tokens) for projections in self.ip_adapter.values()], dim=-1)


class _Projections(nn.Module):
    """Projects face tokens (F, T, context) to the keys and values (F, 2, T, width) of one cross-attention."""

    def __init__(self, context: int, width: int, layers: Any) -> None:
        super().__init__()
        self.to_k_ip = layers.Linear(context, width, bias=False)
        self.to_v_ip = layers.Linear(context, width, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return torch.stack([self.to_k_ip(tokens), self.to_v_ip(tokens)], dim=1)


def projection_key(number: int) -> str:
    """Return the published name of the projections of cross-attention `number`: 1, 3, 5 and so on."""
    return str(2 * number + 1)


def shapes_of(state: State) -> tuple[ResamplerShape, tuple[int, ...]]:
    """Read the resampler's sizes and the cross-attentions' widths from the weights of an InstantID.

    Raises:
        KeyError: when a weight is missing; the argument is its name.
    """
    part = "image_proj."
    try:
        resampler = ResamplerShape.of(
            {k.removeprefix(part): v for k, v in state.items() if k.startswith(part)}
        )
    except KeyError as error:
        raise KeyError(part + error.args[0]) from None
    count = sum(name.startswith("ip_adapter.") and name.endswith("to_k_ip.weight") for name in state)
    widths = [
        state[f"ip_adapter.{projection_key(number)}.to_k_ip.weight"].shape[0]
        for number in range(max(1, count))
    ]
    return resampler, tuple(widths)


@record(eq=False)
class FaceKeys:
    """The keys and values of a face for all layers.

    `packed` is (2, 2, T, S): for the positive and the negative prompt, keys then values; `widths` are those
    of the layers.
    """

    packed: Tensor
    widths: tuple[int, ...]

    def __post_init__(self) -> None:
        assert self.packed.shape[:2] == (2, 2)
        assert self.packed.shape[-1] == sum(self.widths)

    def weighted(self, weight: float) -> Tensor:
        """Return `packed` with the values times `weight`: the attention is linear in them,
        so nothing else needs it.
        """
        scale = torch.tensor([1.0, weight]).to(self.packed)
        return self.packed * scale[:, None, None]

    def span(self, number: int) -> slice:
        """Return the slice of layer `number` along S."""
        start = sum(self.widths[:number])
        return slice(start, start + self.widths[number])


def attend_to_face(queries: Tensor, keys: Tensor, values: Tensor, heads: int, attend: Attend) -> Tensor:
    """Return the attention (C * B, N, D) of `queries` (C * B, N, D) to a face's `keys`
    and `values` (C, T, D).

    All images of a conditioning attend to the same face, so their queries are concatenated: nothing is copied
    for the images of a batch.
    """
    rows = queries.reshape(len(keys), -1, queries.shape[-1])  # (C * B, N, D) -> (C, B * N, D)
    return attend(rows, keys, values, heads).reshape(queries.shape)


def combine_embeddings(embeddings: Tensor, how: str) -> Tensor:
    """Combine the embeddings (R, 512) of several images of one person.

    "average" gives (1, 512); "norm average" first divides every value by its norm over the images, as the
    original node does; "concat" keeps all, each with its own tokens. A single embedding is returned
    unchanged.
    """
    if len(embeddings) == 1 or how == "concat":
        return embeddings
    if how == "norm average":
        embeddings = embeddings / embeddings.square().sum(0).sqrt()
    return torch.mean(embeddings, dim=0, keepdim=True)


def negative_embedding(embeddings: Tensor, noise: float) -> Tensor:
    """Return the embedding (R, 512) of no face: zeros, or `noise` times uniform noise.

    The noise depends only on the face, through the original node's seed, and uses its own generator.
    """
    seed = int(embeddings.sum().item()) % 1_000_000_007
    generator = torch.Generator().manual_seed(seed)
    return noise * torch.rand(embeddings.shape, generator=generator)
