"""ComfyUI-Megapixel: images larger than the model was trained for, consistent faces,
upscaling to any size.
"""

from comfy_api.latest import ComfyExtension, io

from .host.instant_id_files import offer_instant_id_folder
from .host.replacements import offer_replacements
from .host.upscale import offer_models
from .nodes import NODES

WEB_DIRECTORY = "./web"


class MegapixelExtension(ComfyExtension):
    async def on_load(self) -> None:
        offer_models()
        offer_instant_id_folder()
        await offer_replacements()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> MegapixelExtension:
    return MegapixelExtension()
