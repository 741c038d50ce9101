"""The nodes that make SEGS: from a mask, from tiles, from faces."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..errors import bad_input
from ..faces.face import Face
from ..host.compat import SHOWN_AGAIN
from ..host.faces import faces_in, without_face
from ..host.images import check_pixels, masks_of
from ..host.models import check_model
from ..host.notice import logged, nothing_to_do, with_notices
from ..patches.trained_size import trained_pixels
from ..scaling.grow import box_around, enlarge_box
from ..scaling.size import Size
from ..segs.find import box_part, box_segment, ellipse_part, mask_segments, tile_segments
from ..segs.segment import SEG, SEGS, FrameSEG
from .face_sockets import FaceAnalysis
from .segs_sockets import CATEGORY

SMALLEST_TILE = 32  # pixels


class MegapixelMaskToSEGS(io.ComfyNode):
    """One segment for each region of a mask."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MegapixelMaskToSEGS",
            display_name="Mask to SEGS (Megapixel)",
            category=CATEGORY,
            description=(
                "Creates one segment for each connected region of a mask, largest first. Each crop includes "
                "some surroundings as context. A batch of masks is treated as frames: each frame gets its "
                "own segments."
            ),
            search_aliases=["MaskToSEGS", "MASK to SEGS", "segments from mask", "inpaint regions"],
            inputs=[
                io.Mask.Input(
                    "mask",
                    tooltip="White areas become segments; soft edges stay soft. A batch of masks is treated "
                    "as frames.",
                ),
                io.Boolean.Input(
                    "combined",
                    default=False,
                    tooltip="On: one segment for the whole mask. Off: one segment for each connected region.",
                ),
                _crop_factor_socket(),
                io.Boolean.Input(
                    "bbox_fill",
                    default=False,
                    tooltip="On: the segment's mask is its whole bounding box. Off: the region's own shape.",
                ),
                io.Int.Input(
                    "drop_size",
                    default=10,
                    min=1,
                    max=16384,
                    tooltip="Regions whose shorter side is below this, in pixels, are ignored as specks. 10 "
                    "is usual; 1 keeps all.",
                ),
                io.Boolean.Input(
                    "contour_fill", default=False, tooltip="On: fills holes inside a region. Off: holes stay."
                ),
                io.String.Input(
                    "label",
                    default="mask",
                    optional=True,
                    tooltip="Label of the segments, for Filter and Order SEGS. It does not change the image.",
                ),
            ],
            outputs=[io.SEGS.Output()],
            **SHOWN_AGAIN,
        )

    @classmethod
    def execute(cls, mask, label="mask", **settings) -> io.NodeOutput:
        masks = masks_of(mask)
        found = [mask_segments(single, label=label, **settings) for single in masks]
        segs = _joined((masks.shape[1], masks.shape[2]), found)
        if any(found):
            return io.NodeOutput(segs)
        why = "every region is smaller than drop_size" if bool((masks > 0).any()) else "the mask is black"
        return nothing_to_do(f"mask: nothing to do, {why}: there is no segment.", segs)


class MegapixelTilesToSEGS(io.ComfyNode):
    """Equal tiles over an image, one segment each."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MegapixelTilesToSEGS",
            display_name="Tiles to SEGS (Megapixel)",
            category=CATEGORY,
            description=(
                "Divides the whole image into equal, overlapping square tiles, one segment each: use it for "
                "tiled diffusion upscaling. All tiles have the same size, so they can be sampled together. "
                "With a mask, it keeps only tiles that touch the mask."
            ),
            search_aliases=[
                "MakeTileSEGS",
                "Make Tile SEGS",
                "Ultimate SD Upscale",
                "tiled diffusion",
                "tiles",
            ],
            inputs=[
                io.Image.Input(
                    "image", tooltip="Only its size is used. Connect the image before it is upscaled."
                ),
                io.Int.Input(
                    "tile_size",
                    default=512,
                    min=0,
                    max=16384,
                    step=8,
                    tooltip="Width and height of the tiles in pixels of this image. Upscaled by 2, tiles of "
                    "512 are sampled at 1024: good for SDXL; use 256 for SD 1.x. 0 uses the model's trained "
                    "size divided by rescale_factor.",
                ),
                io.Int.Input(
                    "overlap",
                    default=64,
                    min=0,
                    max=8192,
                    step=8,
                    tooltip="Minimum overlap between neighbouring tiles, in pixels of this image. An eighth "
                    "of tile_size is usual. Multiplied by rescale_factor it should be at least twice the "
                    "feather, or lines may show between tiles.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Keeps only tiles that touch the mask, and only the masked part of them. Any "
                    "size.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="The model that will sample the tiles. Used only if tile_size is 0.",
                ),
                io.Float.Input(
                    "rescale_factor",
                    default=2.0,
                    min=0.01,
                    max=100.0,
                    step=0.01,
                    optional=True,
                    tooltip="The rescale_factor that Upscale SEGS has. Used only if tile_size is 0; 1 keeps "
                    "the size.",
                ),
            ],
            outputs=[io.SEGS.Output()],
            **SHOWN_AGAIN,
        )

    @classmethod
    def execute(cls, image, tile_size, overlap, mask=None, model=None, rescale_factor=2.0) -> io.NodeOutput:
        side = tile_size or _trained_tile(model, rescale_factor)
        if side < SMALLEST_TILE:
            expected = f"0 or at least {SMALLEST_TILE}"
            raise bad_input("tile_size", expected, side, "Use larger tiles or a lower rescale_factor.")
        if overlap >= side:
            expected = f"less than tile_size {side}"
            raise bad_input("overlap", expected, overlap, "An eighth of the tile is usual.")
        check_pixels(image)
        size = image.shape[1], image.shape[2]
        tiles = tile_segments(size, side, overlap, None if mask is None else masks_of(mask))
        if tiles:
            return io.NodeOutput((size, tiles))
        return nothing_to_do("mask: nothing to do, the mask is black: there is no tile.", (size, tiles))


class MegapixelFacesToSEGS(io.ComfyNode):
    """One segment for each face."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MegapixelFacesToSEGS",
            display_name="Faces to SEGS (Megapixel)",
            category=CATEGORY,
            description=(
                "Creates one segment for each face that insightface detects, largest first: use it as a "
                "face detailer. Each crop includes some surroundings as context. Each image of a batch gets "
                "its own segments."
            ),
            search_aliases=["face detailer", "BboxDetectorSEGS", "face segments", "insightface SEGS"],
            inputs=[
                FaceAnalysis.Input(
                    "faceanalysis",
                    tooltip="From Face Analysis, or from another pack's InstantID face analysis.",
                ),
                io.Image.Input("image", tooltip="One image or a batch: grey, RGB or RGBA, any size."),
                _crop_factor_socket(),
                io.Combo.Input(
                    "shape",
                    options=["ellipse", "box"],
                    tooltip="Shape of the mask. ellipse fits a head; box includes the corners.",
                ),
                io.Float.Input(
                    "mask_scale",
                    default=1.2,
                    min=0.5,
                    max=3.0,
                    step=0.05,
                    tooltip="Mask size relative to the detected box, which ends at the eyebrows and the "
                    "chin. 1.2 covers the face, 1.6 the head; 1 is the box.",
                ),
            ],
            outputs=[io.SEGS.Output()],
            **SHOWN_AGAIN,
        )

    @classmethod
    def execute(cls, faceanalysis, image, crop_factor, shape, mask_scale) -> io.NodeOutput:
        faces, size = faces_in(faceanalysis, image), (image.shape[1], image.shape[2])
        found = [
            [_face_segment(face, size, crop_factor, shape, mask_scale) for face in each] for each in faces
        ]
        if any(found):
            texts = logged(without_face(faces, faces, "There is no segment in it."))
            return with_notices(texts, _joined(size, found))
        text = (
            "image: nothing to do, no face was detected: there is no segment. Use a larger or more frontal "
            "face."
        )
        return nothing_to_do(text, _joined(size, found))


def _trained_tile(model: Any, rescale_factor: float) -> int:
    """Return the side of tiles that have the model's trained size after upscaling, a multiple of 8."""
    hint = "Set tile_size in pixels of this image."
    if model is None:
        raise bad_input(
            "tile_size", "a connected model, because tile_size is 0", "none", f"Connect model. Or: {hint}"
        )
    check_model(model)
    pixels = trained_pixels(model.model)
    if pixels is None:
        name = type(model.model).__name__
        raise bad_input(
            "tile_size", f"a size in pixels, because the trained size of {name} is unknown", 0, hint
        )
    return round(pixels / rescale_factor / 8) * 8


def _crop_factor_socket() -> io.Float.Input:
    """Return the size of a crop relative to its segment."""
    return io.Float.Input(
        "crop_factor",
        default=3.0,
        min=1.0,
        max=100.0,
        step=0.1,
        tooltip="Crop size relative to the segment. Larger crops give the model more context: 1.5 to 3 is "
        "usual; 1 adds none.",
    )


def _face_segment(face: Face, size: Size, crop_factor: float, shape: str, mask_scale: float) -> SEG:
    box = box_around(*face.box)
    part = {"ellipse": ellipse_part, "box": box_part}[shape](enlarge_box(box, mask_scale))
    return box_segment(box, size, max(crop_factor, mask_scale), part, "face", face.score)


def _joined(size: Size, found: list[list[SEG]]) -> SEGS:
    """Return the segments of every frame as one SEGS; those of a single frame belong to every frame."""
    if len(found) == 1:
        return size, found[0]
    return size, [FrameSEG.of(segment, frame) for frame, segments in enumerate(found) for segment in segments]
