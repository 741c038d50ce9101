"""The node that loads what finds and recognises faces."""

from __future__ import annotations

from comfy_api.latest import io

from ..host.compat import SHOWN_AGAIN
from ..host.face_models import AUTO, list_model_folders, load_analysis
from ..host.face_packages import PROVIDERS
from ..host.notice import logged, with_notices
from .face_sockets import FaceAnalysis


class MegapixelFaceAnalysis(io.ComfyNode):
    """insightface's FaceAnalysis with antelopev2."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MegapixelFaceAnalysis",
            display_name="Face Analysis (Megapixel)",
            category="loaders",
            description=(
                "Loads insightface with antelopev2, which finds faces and tells them apart. The model lies in "
                "models/insightface/models/antelopev2, unpacked in any way; it is never downloaded. Other packs' "
                "InstantID nodes take the result too, and ours take theirs."
            ),
            search_aliases=[
                "InstantIDFaceAnalysis",
                "InstantID",
                "insightface",
                "antelopev2",
                "face analysis",
            ],
            inputs=[
                io.Combo.Input(
                    "provider",
                    options=list(PROVIDERS),
                    tooltip="What computes. CPU is always there, and quick enough for a few pictures. CUDA, ROCM and "
                    "CoreML are for many; where one cannot start, the CPU takes over and the log says so.",
                ),
                io.Combo.Input(
                    "folder",
                    options=[AUTO, *list_model_folders()],
                    optional=True,
                    advanced=True,
                    tooltip="Where antelopev2 lies, below an insightface folder. auto takes the first one; it matters "
                    "only where there are several.",
                ),
            ],
            outputs=[FaceAnalysis.Output(display_name="FACEANALYSIS")],
            **SHOWN_AGAIN,
        )

    @classmethod
    def execute(cls, provider, folder=AUTO) -> io.NodeOutput:
        analysis, texts = load_analysis(provider, folder)
        return with_notices(logged(texts), analysis)
