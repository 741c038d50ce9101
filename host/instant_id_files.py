"""The files of InstantID models: their folders, and reading them without running code in them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import comfy.utils
import folder_paths

from ..errors import bad_input
from .instant_id import REMEDY, InstantIDModel, State, build_instant_id, flat_weights

SOCKET = "instantid_file"
FOLDER = "instantid"
SUFFIXES = ".bin", ".safetensors"


def offer_instant_id_folder() -> None:
    """Let the loader list `models/instantid`, in addition to folders that others registered for it."""
    own = Path(folder_paths.models_dir) / FOLDER
    folders, _ = folder_paths.folder_names_and_paths.setdefault(FOLDER, ([], set(SUFFIXES)))
    if str(own) not in folders:
        folders.append(str(own))


def instant_id_files() -> list[str]:
    """Return the names of the model files; empty if the folder is missing."""
    if FOLDER not in folder_paths.folder_names_and_paths:
        return []
    return [name for name in folder_paths.get_filename_list(FOLDER) if name.lower().endswith(SUFFIXES)]


def load_instant_id(name: str) -> InstantIDModel:
    """Load a file of the folder.

    Raises:
        ValueError: when the file is damaged, contains code, or has other weights than an InstantID model.
    """
    path = folder_paths.get_full_path_or_raise(FOLDER, name)
    return build_instant_id(read_weights(path, name), SOCKET, "an InstantID model", name)


def read_weights(path: str, name: str) -> State:
    """Return the weights of a file under their flat names; no code in it is run.

    Raises:
        ValueError: when the file cannot be read, or contains more than weights.
    """
    try:
        state: Any = comfy.utils.load_torch_file(path, safe_load=True)
        return dict(flat_weights(state))
    except pickle.UnpicklingError as error:
        if "GLOBAL" not in str(error) and "global" not in str(error):
            raise _damaged(name) from None
        got = f"{name}, which would run code"
        raise bad_input(SOCKET, "a file of weights only", got, f"Delete it. {REMEDY}") from None
    except Exception as error:
        raise _damaged(name) from error


def _damaged(name: str) -> ValueError:
    return bad_input(SOCKET, "a complete file of weights", f"{name}, which is damaged or incomplete", REMEDY)
