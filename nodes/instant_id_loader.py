"""The node that loads an InstantID model."""

from __future__ import annotations

from comfy_api.latest import io

from ..host.instant_id_files import instant_id_files, load_instant_id
from .instant_id_sockets import InstantIDSocket


class MegapixelInstantIDLoader(io.ComfyNode):
    """InstantID's resampler and projections from a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MegapixelInstantIDLoader",
            display_name="Load InstantID Model (Megapixel)",
            category="model/loaders",
            description=(
                "Loads an InstantID model, which turns a face into tokens for SDXL. The tokens are computed "
                "once per face, so the model takes no graphics memory during sampling. InstantID also needs "
                "its own ControlNet, from Load ControlNet Model."
            ),
            search_aliases=["InstantIDModelLoader", "InstantID", "load instantid", "face identity"],
            inputs=[
                io.Combo.Input(
                    "instantid_file",
                    options=instant_id_files(),
                    tooltip="A .bin or .safetensors file in models/instantid: ip-adapter.bin of "
                    "InstantX/InstantID. Press R in ComfyUI after you add a file.",
                )
            ],
            outputs=[InstantIDSocket.Output(display_name="INSTANTID")],
        )

    @classmethod
    def execute(cls, instantid_file) -> io.NodeOutput:
        return io.NodeOutput(load_instant_id(instantid_file))
