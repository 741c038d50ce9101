"""Load insightface's FaceAnalysis with antelopev2 from a local folder; it is never downloaded.

insightface downloads a model whose folder is missing, so it only gets a folder that contains the files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import folder_paths

from ..errors import bad_input
from ..faces.find import RECOGNITION, TASKS
from .face_packages import choose_providers, import_face_analysis, not_started
from .faces import RECOGNITION_FILE

AUTO = "auto"
FILES = RECOGNITION_FILE, "scrfd_10g_bnkps.onnx"
DEPTH = 4  # of folders: the archive holds one of its own, so that models/antelopev2/antelopev2 is common


def list_model_folders() -> dict[str, Path]:
    """Return the folders with antelopev2 by their names below an insightface folder, shallow ones first."""
    found: dict[str, Path] = {}
    for root in _roots():
        for depth in range(DEPTH):
            for file in sorted(root.glob("*/" * depth + RECOGNITION_FILE)):
                if all((file.parent / name).is_file() for name in FILES):
                    found.setdefault(file.parent.relative_to(root).as_posix(), file.parent)
    return found


def load_analysis(provider: str, folder: str = AUTO) -> tuple[Any, list[str]]:
    """Return insightface's FaceAnalysis, ready for detection and recognition; and a notice if the CPU is used
    instead of the provider.

    Raises:
        ValueError: when insightface or the model is missing, or the model does not load.
    """
    face_analysis = import_face_analysis()
    path = _model_folder(folder)
    providers, texts = choose_providers(provider)
    try:
        analysis = face_analysis(name=str(path), allowed_modules=[*TASKS], providers=providers)
        session = analysis.models[RECOGNITION].session
    except Exception as failure:  # those of onnxruntime have no base of their own
        raise bad_input(
            "folder",
            f"the networks of antelopev2 in {path}",
            f"files that do not load ({type(failure).__name__}: {failure})",
            "Copy the files there again.",
        ) from failure
    texts += not_started(provider, providers, session.get_providers())
    analysis.prepare(ctx_id=0, det_size=(640, 640))
    return analysis, texts


def _roots() -> list[Path]:
    """Return the registered insightface folders and the default one."""
    usual = str(Path(folder_paths.models_dir, "insightface"))
    registered, _ = folder_paths.folder_names_and_paths.get("insightface", ([], set()))
    return [Path(root) for root in dict.fromkeys([*registered, usual])]


def _model_folder(folder: str) -> Path:
    """Return the folder of the model.

    Raises:
        ValueError: when it is in no folder.
    """
    found = list_model_folders()
    chosen = next(iter(found), folder) if folder == AUTO else folder
    if chosen in found:
        return found[chosen]
    places = " or ".join(str(root / "models" / "antelopev2") for root in _roots())
    raise bad_input(
        "folder",
        f"{FILES[1]} and {FILES[0]} in one folder",
        f"no such folder ({folder})",
        f"Unpack antelopev2.zip from insightface's model zoo into {places}.",
    )
