"""Files of trained tiny models: the weights of the UNet, its table of prompts, and the metadata that a loader
needs.

The table `class_tokens` (K, T, D) has a row for each prompt in `names`, then one for the empty prompt.
Weights are in half precision or in 8 bits (see :mod:`.eight_bit`).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from .eight_bit import unpack_rows
from .topology import TRAINED, UnetConfig
from .unet import TRAINED_FAMILIES, State, build_unet

CLASS_TOKENS_KEY = "class_tokens"


@dataclass(frozen=True)
class Facts:
    """The metadata of a file.

    Attributes:
        arch: "sd15" or "sdxl", the topology.
        width: channels of the first level.
        heads: attention heads; for SDXL, whose heads grow in number, those that `width` channels would have.
        context: numbers in a token.
        trained_side: side in pixels of the pictures that it was trained on.
        names: the prompts, in the order of the table.
        seen: pictures that it was trained on, 0 where nobody counted.
    """

    arch: str
    width: int
    heads: int
    context: int
    trained_side: int
    names: tuple[str, ...]
    seen: int = 0

    @property
    def topology(self) -> UnetConfig:
        """Return the UNet's configuration."""
        config = TRAINED[self.arch] | {"model_channels": self.width, "context_dim": self.context}
        if self.arch == "sd15":
            return config | {"num_heads": self.heads}
        return config | {
            "num_head_channels": self.width // self.heads,
            "adm_in_channels": self.context + 6 * 256,  # the pooled text and six sizes
        }


@dataclass(frozen=True)
class TinyModel:
    """A model loaded by the host, its prompts (K, T, D), and the metadata of its file."""

    patcher: ModelPatcher
    class_tokens: Tensor
    facts: Facts


def read_facts(path: Path) -> Facts:
    """Read the metadata of a file.

    Raises:
        ValueError: when it lacks some.
    """
    with safe_open(path, "pt") as file:
        metadata: dict[str, str] = file.metadata() or {}
    found: dict[str, Any] = {
        field.name: json.loads(metadata[field.name]) for field in fields(Facts) if field.name in metadata
    }
    if missing := [f.name for f in fields(Facts) if f.name not in found and f.name != "seen"]:
        raise ValueError(
            f"{path.name}: expected a tiny model with metadata, got none for {', '.join(missing)}. "
            "Write it with devhost.tiny.model_file.save_model."
        )
    return Facts(**found | {"names": tuple(found["names"])})


def load_model(path: Path, dtype: torch.dtype = torch.float32) -> TinyModel:
    """Load a trained model, stored and computed in `dtype`."""
    facts = read_facts(path)
    state = unpack_rows(load_file(path))
    class_tokens = state.pop(CLASS_TOKENS_KEY)
    patcher = build_unet(TRAINED_FAMILIES[facts.arch], facts.topology, lambda _: state, dtype)
    return TinyModel(patcher, class_tokens, facts)


def save_model(path: Path, weights: State, class_tokens: Tensor, facts: Facts) -> None:
    """Write weights and prompts in half precision, with the metadata."""
    state = {**weights, CLASS_TOKENS_KEY: class_tokens.detach()}
    halves = {name: value.half().contiguous() for name, value in state.items()}
    metadata = {name: json.dumps(value) for name, value in asdict(facts).items()}
    save_file(halves, path, metadata=metadata)
