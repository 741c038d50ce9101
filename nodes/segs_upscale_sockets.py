"""Sockets of the two nodes of Upscale SEGS."""

from __future__ import annotations

from typing import Any

import comfy.samplers
from comfy_api.latest import io

from ..host.reference_latents import CHOICES
from ..host.segment_sampler import OVERLAPS
from ..host.sigmas import scheduler_names
from .segs_sockets import SchedulerFunc, SegmentTexts, UpscalerHook, segs_socket
from .upscale_sockets import gpus_socket

BasicPipe = io.Custom("BASIC_PIPE")


def picture_sockets() -> list[Any]:
    """Return the image that is upscaled, and its segments."""
    return [
        io.Image.Input("image", tooltip="One image, a batch or video frames: grey, RGB or RGBA, any size."),
        segs_socket(),
    ]


def enlarging_sockets() -> list[Any]:
    """Return the settings for enlarging the image."""
    return [
        io.Float.Input(
            "rescale_factor",
            default=2.0,
            min=0.01,
            max=100.0,
            step=0.01,
            tooltip="Scale factor. 2 doubles width and height; 1 keeps the size and only refines the "
            "segments.",
        ),
        io.Combo.Input(
            "resampling_method",
            options=["lanczos", "nearest", "bilinear", "bicubic"],
            tooltip="Interpolation for resizing the image. With an upscale model: from the model's size to "
            "the result's size.",
        ),
        io.Combo.Input(
            "supersample",
            options=["true", "false"],
            tooltip="true: antialias when the image is made smaller; costs no extra time. false: no "
            "antialiasing. No effect when the image is enlarged, or with lanczos, which always antialiases.",
        ),
        io.Int.Input(
            "rounding_modulus",
            default=8,
            min=8,
            max=1024,
            step=8,
            tooltip="Width and height of the result are rounded to multiples of this. 8 fits every SD and "
            "SDXL VAE. No effect at rescale_factor 1.",
        ),
    ]


def sampling_sockets() -> list[Any]:
    """Return the sampling settings that come before the conditioning."""
    return [
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=0xFFFFFFFFFFFFFFFF,
            control_after_generate=True,
            tooltip="Seed of the first segment; each further segment adds 1. If overlaps is joint, overlapping "
            "segments share one noise from this seed.",
        ),
        io.Int.Input(
            "steps",
            default=20,
            min=1,
            max=10000,
            tooltip="Sampling steps for each segment. 15 to 30 is usual.",
        ),
        io.Float.Input(
            "cfg",
            default=8.0,
            min=0.0,
            max=100.0,
            tooltip="Classifier-free guidance scale. 4 to 8 is usual; 1 ignores the negative prompt.",
        ),
        io.Combo.Input(
            "sampler_name", options=comfy.samplers.KSampler.SAMPLERS, tooltip="Sampler, as in KSampler."
        ),
        io.Combo.Input(
            "scheduler",
            options=scheduler_names(),
            tooltip="Scheduler, as in KSampler. AYS and GITS are made for few steps; choose the AYS entry "
            "of your model.",
        ),
    ]


def conditioning_sockets() -> list[Any]:
    """Return the prompts."""
    return [
        io.Conditioning.Input(
            "positive",
            tooltip="Prompt for the segments. Masks, areas, ControlNet hints, GLIGEN boxes, inpainting and "
            "reference latents are cropped to each segment.",
        ),
        io.Conditioning.Input(
            "negative", tooltip="Negative prompt. It is cropped to each segment, like positive."
        ),
    ]


def pasting_sockets() -> list[Any]:
    """Return denoising strength and the settings for pasting."""
    return [
        io.Float.Input(
            "denoise",
            default=0.5,
            min=0.0001,
            max=1.0,
            step=0.01,
            tooltip="Denoising strength. 0.2 to 0.5 adds detail, 1 ignores the original content, near 0 "
            "changes nothing.",
        ),
        io.Int.Input(
            "feather",
            default=5,
            min=0,
            max=100,
            tooltip="Width of the blend, in pixels of the result, at the mask's edge and at the crop's "
            "edge. 5 to 20 is usual; 0 gives hard edges.",
        ),
        io.Boolean.Input(
            "inpaint_model",
            default=False,
            tooltip="On: for inpainting checkpoints; the model sees the area around the mask. Off: for all "
            "others.",
        ),
        io.Int.Input(
            "noise_mask_feather",
            default=20,
            min=0,
            max=100,
            tooltip="Width of the soft mask edge during sampling (differential diffusion), in pixels, so "
            "that segments match their surroundings. 20 is usual; 0 samples with a hard mask.",
        ),
    ]


def optional_sockets() -> list[Any]:
    """Return the optional sockets; the last ones are additions of this pack."""
    return [
        io.UpscaleModel.Input(
            "upscale_model_opt",
            optional=True,
            tooltip="Upscale model that enlarges the image before its segments are refined, tile by tile "
            "and without seams. If empty, the image is resampled.",
        ),
        UpscalerHook.Input(
            "upscaler_hook_opt",
            optional=True,
            tooltip="Hook that gets the image after each segment is pasted and may change it, such as Save "
            "Progress Hook.",
        ),
        SchedulerFunc.Input(
            "scheduler_func_opt",
            optional=True,
            tooltip="Function that computes the noise levels, such as Sigmas to Scheduler. It overrides "
            "scheduler.",
        ),
        io.Combo.Input(
            "overlaps",
            options=list(OVERLAPS),
            optional=True,
            tooltip="Handling of overlapping segments. independent: each segment is sampled from the "
            "upscaled image; overlaps are averaged by their masks, and equal sizes are sampled together. in "
            "order: each segment sees the earlier ones refined; overlapping segments are sampled one after "
            "another. joint: overlapping segments are sampled step by step in one latent, so that they "
            "agree; for denoise above 0.4.",
        ),
        io.Float.Input(
            "match_colours",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.05,
            optional=True,
            tooltip="Reduces differences of colour and brightness that spread over a whole segment, between "
            "the refined segment and the image before refining. 0.5 to 1 suits tiles; 1 removes them "
            "completely, 0 keeps them.",
        ),
        io.Int.Input(
            "smallest_crop",
            default=256,
            min=8,
            max=4096,
            step=8,
            optional=True,
            advanced=True,
            tooltip="Smaller crops are extended into their surroundings to this size, in pixels of the "
            "result, because models draw badly at very small sizes. 256 is enough for SD 1.x, 512 for SDXL; "
            "8 extends none.",
        ),
        io.Int.Input(
            "batch_size",
            default=0,
            min=0,
            max=256,
            optional=True,
            advanced=True,
            tooltip="Maximum number of equal-sized segments sampled together, if overlaps is independent or joint. 0 "
            "follows the free memory. It changes the speed; images differ only within rounding.",
        ),
        io.Boolean.Input(
            "keep_on_interrupt",
            default=True,
            optional=True,
            advanced=True,
            tooltip="On: Cancel during sampling keeps the finished segments and the workflow continues; "
            "cancel again to stop it. Off: Cancel stops at once.",
        ),
        io.Int.Input(
            "target_size",
            default=0,
            min=0,
            max=4096,
            step=8,
            optional=True,
            tooltip="Crops whose shorter side is below this are enlarged to it for sampling and reduced "
            "again afterwards: more detail for small faces. 512 for SD 1.x, 1024 for SDXL; 0 samples all "
            "crops at their own size.",
        ),
        io.Int.Input(
            "target_limit",
            default=1536,
            min=64,
            max=8192,
            step=8,
            optional=True,
            advanced=True,
            tooltip="Maximum length of a crop's longer side when target_size enlarges it. 1536 is usual; it "
            "limits memory and time for long crops.",
        ),
        io.Combo.Input(
            "reference_latents",
            options=list(CHOICES),
            optional=True,
            advanced=True,
            tooltip="For edit models (Kontext, Flux.2, Qwen-Image-Edit): which reference latents are "
            "cropped to each segment. auto: those with the size of the image, before or after upscaling. "
            "cut: all. whole: none. The log and the node list the decision for each.",
        ),
        gpus_socket("GPUs that upscale the image, with upscale_model_opt."),
        SegmentTexts.Input(
            "segment_texts",
            optional=True,
            tooltip="A text for each segment, from Text per Segment. It replaces the text of positive in that "
            "segment; ControlNets, masks and regional prompts stay. Not connected: all segments use positive.",
        ),
        io.Boolean.Input(
            "shift_borders",
            default=False,
            optional=True,
            advanced=True,
            tooltip="Only if overlaps is joint. On: the border between two segments moves inside their "
            "overlap from step to step. Off: overlaps are averaged by their masks.",
        ),
    ]
