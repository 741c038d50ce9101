"""Weights in 8 bits: half the size of half precision. Each row of a matrix or kernel has a scale of its own.

    python3 -m devhost.tiny.eight_bit IN.safetensors OUT.safetensors

A row is all weights of one output channel. Vectors (biases, norms) stay in half precision: they are few, and
sensitive.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

State = dict[str, Tensor]

SCALE = ".row_scale"
"""Ending of the name under which the scales (rows, 1, ...) of a tensor are stored."""
LARGEST = 127


def pack_rows(state: State) -> State:
    """Return `state` with tensors of two and more axes as int8 rows and their scales,
    and vectors in half precision.

    No weight moves by more than half a step, 1/254 of the largest of its row, beside the rounding of the
    scale.
    """
    packed: State = {}
    for name, value in state.items():
        if value.ndim < 2:
            packed[name] = value.half().contiguous()
            continue
        rows = value.float()
        scale = (rows.abs().amax(dim=tuple(range(1, rows.ndim)), keepdim=True) / LARGEST).clamp(min=1e-12)
        packed[name] = (rows / scale).round().to(torch.int8).contiguous()
        packed[name + SCALE] = scale.contiguous()
    return packed


def unpack_rows(state: State) -> State:
    """Return float32 weights of a state that is packed, or not."""
    return {
        name: value.float() * state[name + SCALE] if name + SCALE in state else value.float()
        for name, value in state.items()
        if not name.endswith(SCALE)
    }


def convert(source: Path, target: Path) -> None:
    """Write a model file again with its weights in 8 bits, and with the same metadata."""
    with safe_open(source, "pt") as file:
        metadata = file.metadata()
    save_file(pack_rows(unpack_rows(load_file(source))), target, metadata=metadata)


def main() -> None:
    """Convert one file."""
    parser = argparse.ArgumentParser(description="Store a tiny model in 8 bits.")
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args()
    convert(options.source, options.target)


if __name__ == "__main__":
    main()
