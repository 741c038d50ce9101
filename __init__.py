"""ComfyUI-Megapixel: pictures larger than the model was trained for, faces that stay themselves, upscaling to any size."""

from comfy_api.latest import ComfyExtension, io

from .nodes import NODES, offer_instant_id_folder, offer_models, offer_replacements

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
