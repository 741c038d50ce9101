"""InstantID's files, and its weights on the host's devices."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.model_management
import comfy.ops
import comfy.utils
import folder_paths
import torch
from torch import Tensor

from ..attention.instant_id import InstantID, shapes_of
from .compat import attend

FOLDER = "instantid"
SUFFIXES = ".bin", ".safetensors"
EMBEDDING = 512  # numbers of a face, by antelopev2
REMEDY = "Download ip-adapter.bin of InstantX/InstantID (Hugging Face) again into models/instantid."

State = Mapping[str, Tensor]


def offer_instant_id_folder() -> None:
    """Let the loader list `models/instantid`, beside folders that others have registered for it."""
    own = Path(folder_paths.models_dir) / FOLDER
    folders, _ = folder_paths.folder_names_and_paths.setdefault(FOLDER, ([], set(SUFFIXES)))
    if str(own) not in folders:
        folders.append(str(own))


def instant_id_files() -> list[str]:
    """Return the names of the model files; none where the folder is not there."""
    if FOLDER not in folder_paths.folder_names_and_paths:
        return []
    return [name for name in folder_paths.get_filename_list(FOLDER) if name.lower().endswith(SUFFIXES)]


@dataclass(frozen=True, eq=False)
class InstantIDModel:
    """An InstantID on the INSTANTID socket. Its weights wait in main memory; the host fetches each layer's when it runs.

    The nodes of the known pack take it too: the last three members are what they ask for.
    """

    network: InstantID

    @torch.inference_mode()
    def tokens(self, embeddings: Tensor) -> Tensor:
        """Return the tokens (1, R * T, D) of R references (R, 512), on the device that computes."""
        return self.network.tokens(embeddings.to(comfy.model_management.get_torch_device(), torch.float32))

    @torch.inference_mode()
    def project(self, tokens: Tensor) -> Tensor:
        """Return the keys and values (F, 2, T, S) of F token sets (F, T, D)."""
        return self.network.project(tokens.to(comfy.model_management.get_torch_device(), torch.float32))

    def to(self, *_: Any, **__: Any) -> InstantIDModel:
        """Stay: where the weights are is the host's affair."""
        return self

    def get_image_embeds(self, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens (R, T, D) of references (R, 1, 512) and of what stands for none."""
        read = self.network.image_proj
        return read(positive), read(negative)

    @property
    def ip_layers(self) -> SimpleNamespace:
        """The projections by the names that the known pack gives them, such as 1_to_k_ip."""
        projections = self.network.ip_adapter.items()
        return SimpleNamespace(
            to_kvs={
                f"{key}_{name}": layer for key, pair in projections for name, layer in pair.named_children()
            }
        )


def load_instant_id(name: str) -> InstantIDModel:
    """Load a file of the folder.

    Raises:
        ValueError: the file is damaged, holds code, or is no InstantID; one sentence.
    """
    path = folder_paths.get_full_path_or_raise(FOLDER, name)
    return build_instant_id(
        read_weights(path, name), f"instantid_file: expected an InstantID model, got {name}"
    )


def read_weights(path: str, name: str) -> State:
    """Return the weights of a file under their flat names; nothing in it is run.

    Raises:
        ValueError: the file cannot be read, or holds more than weights; one sentence.
    """
    try:
        state: Any = comfy.utils.load_torch_file(path, safe_load=True)
        return dict(_flat(state))
    except pickle.UnpicklingError as error:
        if "GLOBAL" not in str(error) and "global" not in str(error):
            raise _damaged(name) from None
        raise ValueError(
            f"instantid_file: expected weights alone, got {name}, which asks for code to be run. Delete it. {REMEDY}"
        ) from None
    except Exception as error:
        raise _damaged(name) from error


def _damaged(name: str) -> ValueError:
    return ValueError(
        f"instantid_file: expected a whole file of weights, got {name}, which cannot be read to its end. {REMEDY}"
    )


def _flat(state: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    for name, value in state.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, Tensor):
            yield f"{prefix}{name}", value


def build_instant_id(state: State, complaint: str) -> InstantIDModel:
    """Build a model around weights, which are neither copied nor changed.

    Raises:
        ValueError: they are no InstantID; one sentence that begins with `complaint`.
    """
    try:
        shape, widths = shapes_of(state)
    except KeyError as error:
        raise ValueError(f"{complaint} without {error.args[0]}. {REMEDY}") from None
    if shape.embedding != EMBEDDING:
        raise ValueError(
            f"{complaint} for faces of {shape.embedding} numbers instead of {EMBEDDING}. "
            f"An IP-Adapter is not an InstantID. {REMEDY}"
        )
    with torch.device("meta"):
        expected = {
            name: value.shape for name, value in InstantID(shape, widths, attend).state_dict().items()
        }
        network = InstantID(
            shape, widths, attend, comfy.ops.manual_cast
        ).eval()  # may have no weights before it loads
    wrong = [name for name, shape in expected.items() if name not in state or state[name].shape != shape]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(
            f"{complaint} whose {', '.join(wrong[:3])}{more} is missing or of another shape. {REMEDY}"
        )
    network.load_state_dict({name: state[name] for name in expected}, assign=True)
    return InstantIDModel(network.requires_grad_(False))


def as_instant_id(value: Any) -> InstantIDModel:
    """Return what is on an INSTANTID socket as our model: our own, or that of the known pack's loader.

    Raises:
        ValueError: it is something else; one sentence.
    """
    if isinstance(value, InstantIDModel):
        return value
    complaint = "instantid: expected a model of an InstantID loader, got one"
    if isinstance(value, Mapping):  # the known loader's value in its first versions
        return build_instant_id(dict(_flat(value)), complaint)
    if hasattr(value, "image_proj_model") and hasattr(value, "ip_layers"):
        return build_instant_id(_known_state(value), complaint)
    raise ValueError(
        f"instantid: expected a model of an InstantID loader, got {type(value).__name__}. Connect Load InstantID Model."
    )


def _known_state(model: Any) -> State:
    resampler = {f"image_proj.{name}": value for name, value in model.image_proj_model.state_dict().items()}
    projections = {
        f"ip_adapter.{name.replace('_', '.', 1)}.weight": layer.weight
        for name, layer in model.ip_layers.to_kvs.items()
    }
    return resampler | projections
