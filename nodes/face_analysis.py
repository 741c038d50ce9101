"""The node that loads the model for detecting and recognising faces."""

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
                "Loads insightface with the model antelopev2, which detects and recognises faces. Put the "
                "model into models/insightface/models/antelopev2; it is never downloaded. InstantID nodes "
                "of other packs accept this output, and the nodes of this pack accept the output of theirs."
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
                    tooltip="Device for face detection. CPU always works and is fast enough for a few "
                    "images. CUDA, ROCM and CoreML are for many images; if one cannot start, the CPU is "
                    "used and the log says why.",
                ),
                io.Combo.Input(
                    "folder",
                    options=[AUTO, *list_model_folders()],
                    optional=True,
                    advanced=True,
                    tooltip="Which antelopev2 folder to use, if there are several. auto uses the first one.",
                ),
            ],
            outputs=[FaceAnalysis.Output(display_name="FACEANALYSIS")],
            **SHOWN_AGAIN,
        )

    @classmethod
    def execute(cls, provider, folder=AUTO) -> io.NodeOutput:
        analysis, texts = load_analysis(provider, folder)
        return with_notices(logged(texts), analysis)
