"""ComfyUI-Megapixel: pictures larger than the model was trained for, faces that stay themselves, upscaling to any size."""

from comfy_api.latest import ComfyExtension, io

from .nodes import NODES

WEB_DIRECTORY = "./web"


class MegapixelExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> MegapixelExtension:
    return MegapixelExtension()
