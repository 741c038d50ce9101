"""Measurements of upscale models, cached in the user's folder so that each model is measured once per device.

Each entry of the file has a hash of its values. An entry that does not match it (edited, truncated, of
another format) is measured again, so the values can be trusted.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import folder_paths
import torch

from ..upscale.tensor_format import Descriptor
from .log import log

FORMAT = 5  # of the entries; what has another format is measured again


class MeasuredModel(dict[str, Any]):
    """The measurements of one model on one device; new values are written to the file at once."""

    def __init__(self, model: Descriptor, device: torch.device) -> None:
        self._file = Path(folder_paths.get_user_directory()) / "megapixel" / "upscale_models.json"
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        self._key = f"{fingerprint(model)} {name} torch {torch.__version__}"
        super().__init__(self._read().get(self._key, _sealed({}))["values"])

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            fresh = self._file.with_suffix(".new")
            entries = self._read() | {self._key: _sealed(dict(self))}
            fresh.write_text(json.dumps(entries, indent=1), encoding="utf-8")
            fresh.replace(self._file)
        except OSError as error:
            log.debug("Could not cache the measurements in %s: %s", self._file, error)

    def _read(self) -> dict[str, Any]:
        """Return every entry that matches its hash; empty if the file is missing or damaged."""
        try:
            entries = json.loads(self._file.read_text(encoding="utf-8")).items()
            return {
                key: entry
                for key, entry in entries
                if isinstance(entry, dict) and entry == _sealed(entry.get("values"))
            }
        except (OSError, ValueError, AttributeError, RecursionError):
            return {}


def _sealed(values: Any) -> dict[str, Any]:
    text = json.dumps(values, sort_keys=True)
    return {"format": FORMAT, "seal": hashlib.sha256(text.encode()).hexdigest(), "values": values}


def fingerprint(model: Descriptor) -> str:
    """Return a name for a model's architecture and weights: from the name, shape,
    and first and last values of every tensor.
    """
    digest = hashlib.sha256()
    for name, weights in model.model.state_dict().items():
        ends = torch.cat([weights.flatten()[:16], weights.flatten()[-16:]]).float().cpu()
        digest.update(f"{name} {tuple(weights.shape)}".encode() + ends.numpy().tobytes())
    return digest.hexdigest()[:16]
