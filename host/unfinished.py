"""The latents that an interrupted run of Upscale SEGS had sampled, for the next run of the same node.

The result of a cancelled run depends on more than its inputs, so the next run is executed (`run_again`) and
reads the latents from here.

The latents before decoding are cached in main memory: 256 KiB for a segment of 1024x1024 pixels with 4
channels, 1 MiB with 16. All nodes together cache at most MOST_BYTES; the oldest are dropped first. A node's
latents are dropped when a run completes or has other inputs.
"""

from __future__ import annotations

import numbers
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from ..segs.refine import Piece
from .compat import executing_node
from .run_again import run_again

MOST_BYTES = 256 * 2**20

Key = tuple[Any, ...]


class _Same:
    """A weak reference to an object, equal only for the same object."""

    def __init__(self, value: Any) -> None:
        self._reference = weakref.ref(value)

    def __eq__(self, other: object) -> bool:
        value = self._reference()
        return isinstance(other, _Same) and value is not None and value is other._reference()

    __hash__ = None  # type: ignore[assignment]


@dataclass(eq=False)
class SampledSegments:
    """The latents (1, C, …) of one node's run by segment;
    empty if the earlier run was complete or had other inputs.
    """

    inputs: Any = None
    node: str | None = None
    latents: dict[Key, Tensor] = field(default_factory=dict[Key, Tensor])

    def keys_of(self, group: Sequence[Piece], cuts: Sequence[Tensor]) -> list[Key]:
        """Return a key in the run for each segment of a group that is sampled in one latent.

        It includes all that a segment's latent depends on apart from the run's inputs: its pixels, which
        depend on segments refined before, and in a group of several all of them, with their feather.
        """
        if self.node is None:  # nothing is cached, so nothing is hashed
            return [()] * len(group)
        keys = [_key(piece, cut) for piece, cut in zip(group, cuts, strict=True)]
        if len(group) == 1:
            return keys
        shared = group[0].cut.fit.feather, *keys
        return [(key, shared) for key in keys]

    def get(self, key: Key) -> Tensor | None:
        """Return the latent of a segment, by its key from `keys_of`, or None."""
        return self.latents.get(key)

    def put(self, key: Key, latent: Tensor) -> None:
        """Cache the latent of a segment. In a script nothing is cached."""
        if self.node is not None:
            self.latents[key] = latent.to("cpu", copy=True)
            _bound()

    def forget(self, key: Key) -> None:
        """Drop the latent of a segment that did not decode."""
        self.latents.pop(key, None)

    def end(self, *, complete: bool) -> None:
        """Drop everything after a complete run; otherwise make the host execute the next run."""
        if not complete:
            run_again()
        elif self.node is not None:
            _runs.pop(self.node, None)


_runs: dict[str, SampledSegments] = {}  # by node, the oldest run first


def sampled_segments(*inputs: Any) -> SampledSegments:
    """Return the latents of the executing node's last run, or an empty cache if that had other inputs.

    Tensors, models and other objects count as equal if they are the same object, which they are while the
    host caches them.
    """
    _, node = executing_node()
    if node is None:
        return SampledSegments()
    seen, last = _identity(inputs), _runs.pop(node, None)
    _runs[node] = last if last is not None and last.inputs == seen else SampledSegments(seen, node)
    return _runs[node]


def _key(piece: Piece, cut: Tensor) -> Key:
    segment, region, box = piece.cut.segment, piece.cut.region, piece.cut.box
    # The label chooses the text, and the region is where the segment's own control is placed.
    return segment.number, segment.label, piece.frame, region, box, _digest(cut), _digest(piece.cut.mask)


def _digest(values: Tensor) -> int:
    """Return a hash of the values: SipHash, which takes a fifth of BLAKE2b's time, and lasts as the latents do."""
    return hash(values.detach().to("cpu", torch.float32).numpy().tobytes())


def _bound() -> None:
    """Drop the oldest latents until the rest fits."""
    excess = sum(_bytes(latent) for run in _runs.values() for latent in run.latents.values()) - MOST_BYTES
    for run in _runs.values():
        while excess > 0 and run.latents:
            excess -= _bytes(run.latents.pop(next(iter(run.latents))))


def _bytes(latent: Tensor) -> int:
    return latent.numel() * latent.element_size()


def _identity(value: Any) -> Any:
    """Return a value that is equal for equal inputs: numbers and texts by value, containers by their parts,
    others by object.
    """
    if value is None or isinstance(value, (str, bytes, numbers.Number, torch.dtype, torch.device)):
        return value
    if isinstance(value, Mapping):
        return {key: _identity(part) for key, part in value.items()}
    if isinstance(value, Sequence):
        return [_identity(part) for part in value]
    if is_dataclass(value) and not isinstance(value, type):
        return [_identity(getattr(value, each.name)) for each in fields(value)]
    try:
        return _Same(value)
    except TypeError:  # cannot be referred to weakly: never the same
        return object()
