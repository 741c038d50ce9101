"""Load insightface's FaceAnalysis with antelopev2, which is taken from where it lies and never downloaded.

insightface downloads a model whose folder is missing, so it is only ever given a folder that holds the files.
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
    """Return the folders that hold antelopev2 by their names below an insightface folder, the shallow ones first."""
    found: dict[str, Path] = {}
    for root in _roots():
        for depth in range(DEPTH):
            for file in sorted(root.glob("*/" * depth + RECOGNITION_FILE)):
                if all((file.parent / name).is_file() for name in FILES):
                    found.setdefault(file.parent.relative_to(root).as_posix(), file.parent)
    return found


def load_analysis(provider: str, folder: str = AUTO) -> tuple[Any, list[str]]:
    """Return insightface's FaceAnalysis, ready to detect and to recognise; and a text where the CPU does what another provider should.

    Raises:
        ValueError: there is no insightface or no model, or the model does not load.
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
            "Copy them there again.",
        ) from failure
    texts += not_started(provider, providers, session.get_providers())
    analysis.prepare(ctx_id=0, det_size=(640, 640))
    return analysis, texts


def _roots() -> list[Path]:
    """Return the registered insightface folders and the usual one."""
    usual = str(Path(folder_paths.models_dir, "insightface"))
    registered, _ = folder_paths.folder_names_and_paths.get("insightface", ([], set()))
    return [Path(root) for root in dict.fromkeys([*registered, usual])]


def _model_folder(folder: str) -> Path:
    """Return where the model lies.

    Raises:
        ValueError: it lies nowhere.
    """
    found = list_model_folders()
    chosen = next(iter(found), folder) if folder == AUTO else folder
    if chosen in found:
        return found[chosen]
    places = " or ".join(str(root / "models" / "antelopev2") for root in _roots())
    raise bad_input(
        "folder",
        f"{FILES[1]} and {FILES[0]} side by side",
        f"no such folder ({folder})",
        f"Unpack antelopev2.zip from insightface's model zoo into {places}.",
    )
