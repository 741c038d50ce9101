"""The nodes that upscale an image and refine its segments."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..errors import bad_input
from ..host.compat import SHOWN_AGAIN
from ..host.images import check_pixels
from ..host.notice import logged, with_notices
from ..host.run_again import fingerprint
from ..host.segment_sampler import Sampling
from ..host.segment_texts import text_notices
from ..host.segs import Enlargement, Pasting, size_notices, spatial_notices, upscale_segments
from ..host.segs_notices import segs_notices
from ..host.upscale import ALL_GPUS
from ..segs.target import Target
from .segs_sockets import CATEGORY
from .segs_upscale_sockets import (
    BasicPipe,
    conditioning_sockets,
    enlarging_sockets,
    optional_sockets,
    pasting_sockets,
    picture_sockets,
    sampling_sockets,
)

DESCRIPTION = (
    "Enlarges an image, then samples each segment again and blends it in with a feathered mask, so that "
    "every part gets the model's full detail. Pixels outside all masks keep their exact values after "
    "upscaling. Each model loads once, and segments of equal size are sampled together. Takes one image or "
    "a batch, grey, RGB or with transparency."
)


class MegapixelSEGSUpscale(io.ComfyNode):
    """Enlarges an image and samples each of its segments again."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MegapixelSEGSUpscale",
            display_name="Upscale SEGS (Megapixel)",
            category=CATEGORY,
            description=DESCRIPTION,
            search_aliases=[
                "SEGSUpscaler",
                "Upscaler (SEGS)",
                "detailer",
                "segment upscale",
                "tiled diffusion upscale",
            ],
            inputs=[
                *picture_sockets(),
                io.Model.Input(
                    "model",
                    tooltip="Model that samples the segments. Effects of this and other packs work at any "
                    "segment size.",
                ),
                io.Clip.Input(
                    "clip", tooltip="Not used. It exists for workflows made with the original node."
                ),
                io.Vae.Input("vae", tooltip="VAE of the model."),
                *enlarging_sockets(),
                *sampling_sockets(),
                *conditioning_sockets(),
                *pasting_sockets(),
                *optional_sockets(),
            ],
            outputs=[io.Image.Output()],
            **SHOWN_AGAIN,
        )

    @classmethod
    def execute(cls, image, segs, model, vae, positive, negative, clip=None, **settings) -> io.NodeOutput:
        return _run(image, segs, model, vae, positive, negative, **settings)

    @classmethod
    def fingerprint_inputs(cls, **_) -> str:
        return fingerprint()


class MegapixelSEGSUpscalePipe(io.ComfyNode):
    """The same, with model, CLIP, VAE and prompts in one pipe."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MegapixelSEGSUpscalePipe",
            display_name="Upscale SEGS (pipe, Megapixel)",
            category=CATEGORY,
            description=DESCRIPTION,
            search_aliases=["SEGSUpscalerPipe", "Upscaler (SEGS/pipe)", "detailer pipe"],
            inputs=[
                *picture_sockets(),
                BasicPipe.Input(
                    "basic_pipe",
                    tooltip="Model, CLIP, VAE, positive and negative in one connection, from a ToBasicPipe "
                    "node.",
                ),
                *enlarging_sockets(),
                *sampling_sockets(),
                *pasting_sockets(),
                *optional_sockets(),
            ],
            outputs=[io.Image.Output()],
            **SHOWN_AGAIN,
        )

    @classmethod
    def execute(cls, image, segs, basic_pipe, **settings) -> io.NodeOutput:
        model, _, vae, positive, negative = _unpack(basic_pipe)
        return _run(image, segs, model, vae, positive, negative, **settings)

    @classmethod
    def fingerprint_inputs(cls, **_) -> str:
        return fingerprint()


def _run(
    image: Any,
    segs: Any,
    model: Any,
    vae: Any,
    positive: Any,
    negative: Any,
    *,
    rescale_factor: float,
    resampling_method: str,
    supersample: str,
    rounding_modulus: int,
    feather: int,
    upscale_model_opt: Any = None,
    upscaler_hook_opt: Any = None,
    scheduler_func_opt: Any = None,
    match_colours: float = 0.0,
    smallest_crop: int = 256,
    keep_on_interrupt: bool = True,
    target_size: int = 0,
    target_limit: int = 1536,
    gpus: str = ALL_GPUS,
    **sampling: Any,
) -> io.NodeOutput:
    check_pixels(image)
    enlargement = Enlargement(
        rescale_factor, resampling_method, supersample == "true", rounding_modulus, upscale_model_opt, gpus
    )
    settings = Sampling(
        model, vae, positive, negative,
        scheduler_function=scheduler_func_opt, target=Target(target_size, target_limit), **sampling,
    )  # fmt: skip
    pasting = Pasting(feather, match_colours, smallest_crop, keep_on_interrupt, upscaler_hook_opt)
    before = logged(
        [
            *segs_notices(image, segs),
            *text_notices(settings.segment_texts, segs),
            *spatial_notices(image, enlargement, settings),
            *size_notices(image, segs, enlargement, settings, pasting),
        ]
    )
    result, failed = upscale_segments(image, segs, enlargement, settings, pasting)
    return with_notices([*before, *failed], result)


def _unpack(pipe: Any) -> tuple[Any, ...]:
    try:
        model, clip, vae, positive, negative = pipe
    except (TypeError, ValueError):
        expected, got = "(model, clip, vae, positive, negative)", type(pipe).__name__
        raise bad_input("basic_pipe", expected, got, "Connect a ToBasicPipe node.") from None
    return model, clip, vae, positive, negative
