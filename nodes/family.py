"""Whether a chosen model family is that of the model."""

from __future__ import annotations

from ..patches.rau_net import kind_of
from ..patches.topology import Topology

KINDS = {"SD15": "sd", "SDXL": "sdxl"}


def check_model_type(model_type: str, topology: Topology) -> None:
    """Raise unless `model_type` is "auto" or the family that the topology shows.

    Raises:
        ValueError: it is the other one; one sentence.
    """
    if model_type == "auto" or KINDS[model_type] == kind_of(topology):
        return
    right = next(name for name in KINDS if name != model_type)
    raise ValueError(
        f"model_type: expected {right} for this model, got {model_type}. Choose auto, which reads it from the model."
    )
