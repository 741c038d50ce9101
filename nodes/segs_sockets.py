"""Sockets that several SEGS nodes share."""

from __future__ import annotations

from typing import Any

import comfy.samplers
from comfy_api.latest import io

from ..host.reference_latents import CHOICES
from ..host.sigmas import scheduler_names

CATEGORY = "image/upscaling/segments"
BasicPipe = io.Custom("BASIC_PIPE")
UpscalerHook = io.Custom("UPSCALER_HOOK")
SchedulerFunc = io.Custom("SCHEDULER_FUNC")
SegmentTexts = io.Custom("SEGMENT_TEXTS")


def segs_socket() -> io.SEGS.Input:
    """Return the socket of segments."""
    return io.SEGS.Input("segs", tooltip="From a SEGS maker of this pack, or from any detector pack.")


def picture_sockets() -> list[Any]:
    """Return the picture that is upscaled, and its segments."""
    return [
        io.Image.Input("image", tooltip="One picture, a batch or frames: grey, RGB or RGBA, of any size."),
        segs_socket(),
    ]


def enlarging_sockets() -> list[Any]:
    """Return how the whole picture is enlarged."""
    return [
        io.Float.Input(
            "rescale_factor",
            default=2.0,
            min=0.01,
            max=100.0,
            step=0.01,
            tooltip="Sides of the result by those of the image. 1 keeps the size and only refines the segments.",
        ),
        io.Combo.Input(
            "resampling_method",
            options=["lanczos", "nearest", "bilinear", "bicubic"],
            tooltip="How the picture is resampled, in floating point. With an upscale model: from the model's size to the result's.",
        ),
        io.Combo.Input(
            "supersample",
            options=["true", "false"],
            tooltip="true: antialiased where the picture shrinks, which costs nothing. false: single samples. Without effect "
            "where it grows; lanczos is always antialiased.",
        ),
        io.Int.Input(
            "rounding_modulus",
            default=8,
            min=8,
            max=1024,
            step=8,
            tooltip="The result's sides are rounded to multiples of it. 8 fits every VAE of SD and SDXL. Not at factor 1.",
        ),
    ]


def sampling_sockets() -> list[Any]:
    """Return how each segment is sampled, before the conditioning."""
    return [
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=0xFFFFFFFFFFFFFFFF,
            control_after_generate=True,
            tooltip="Noise of the first segment; every next one counts up by 1.",
        ),
        io.Int.Input(
            "steps",
            default=20,
            min=1,
            max=10000,
            tooltip="Sampling steps for every segment. 15 to 30 is usual.",
        ),
        io.Float.Input(
            "cfg",
            default=8.0,
            min=0.0,
            max=100.0,
            tooltip="How strictly the prompt is followed. 1 leaves the negative out.",
        ),
        io.Combo.Input(
            "sampler_name", options=comfy.samplers.KSampler.SAMPLERS, tooltip="The sampler, as in KSampler."
        ),
        io.Combo.Input(
            "scheduler",
            options=scheduler_names(),
            tooltip="How the noise falls, as in KSampler. AYS and GITS are made for few steps; choose AYS for your model.",
        ),
    ]


def conditioning_sockets() -> list[Any]:
    """Return the prompts."""
    return [
        io.Conditioning.Input(
            "positive",
            tooltip="What segments should show. Masks, areas, ControlNet hints, GLIGEN boxes, inpainting and reference latents are cut to each segment.",
        ),
        io.Conditioning.Input(
            "negative", tooltip="What they should not show. Cut to each segment like positive."
        ),
    ]


def pasting_sockets() -> list[Any]:
    """Return how strongly segments change, and how they go back into the picture."""
    return [
        io.Float.Input(
            "denoise",
            default=0.5,
            min=0.0001,
            max=1.0,
            step=0.01,
            tooltip="How much of a segment is drawn anew. 0.2 to 0.5 adds detail, 1 ignores what was there, near 0 nothing changes.",
        ),
        io.Int.Input(
            "feather",
            default=5,
            min=0,
            max=100,
            tooltip="Pixels of the result over which a segment fades into the picture, at its mask and at its crop's edge. 5 to 20 is usual; "
            "0 pastes it with hard edges.",
        ),
        io.Boolean.Input(
            "inpaint_model",
            default=False,
            tooltip="For checkpoints made for inpainting: the model is shown what lies around the mask. Off for all others.",
        ),
        io.Int.Input(
            "noise_mask_feather",
            default=20,
            min=0,
            max=100,
            tooltip="Pixels over which sampling itself fades (differential diffusion), so that edges fit their surroundings. 20 is "
            "usual; 0 samples with a sharp mask.",
        ),
    ]


def optional_sockets() -> list[Any]:
    """Return what workflows may leave out; the last ones are additions of this pack."""
    return [
        io.UpscaleModel.Input(
            "upscale_model_opt",
            optional=True,
            tooltip="Enlarges the picture before its segments are refined, tile by tile and without a seam. Without one it is resampled.",
        ),
        UpscalerHook.Input(
            "upscaler_hook_opt",
            optional=True,
            tooltip="Is given the picture after each segment is put back, and may change it.",
        ),
        SchedulerFunc.Input(
            "scheduler_func_opt",
            optional=True,
            tooltip="Noise levels from a function instead of from scheduler.",
        ),
        io.Combo.Input(
            "overlaps",
            options=["independent", "in order", "joint"],
            optional=True,
            tooltip="What a segment sees where it overlaps another. independent: the plain upscale; they share their pixels, and equal sizes are sampled "
            "together. in order: what was refined before it, one after another where they touch. joint: all advance step by step and agree in their "
            "overlaps; for a denoise above 0.5.",
        ),
        io.Float.Input(
            "match_colours",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.05,
            optional=True,
            tooltip="How far slow shifts of colour and brightness are taken back to the picture's. 1 takes them back wholly, 0 leaves "
            "them.",
        ),
        io.Int.Input(
            "smallest_crop",
            default=256,
            min=8,
            max=4096,
            step=8,
            optional=True,
            advanced=True,
            tooltip="Smaller crops take in more of their surroundings, up to this side in pixels of the result: a model draws badly on a few "
            "latent pixels. 256 is enough for SD 1.x, 512 for SDXL; 8 takes in none.",
        ),
        io.Int.Input(
            "batch_size",
            default=0,
            min=0,
            max=256,
            optional=True,
            advanced=True,
            tooltip="Most segments of equal size that go through the model together, where overlaps is independent or joint. 0 goes by the free memory. It changes speed, not the picture.",
        ),
        io.Boolean.Input(
            "keep_on_interrupt",
            default=True,
            optional=True,
            advanced=True,
            tooltip="On: cancelling while segments are sampled ends with those that are finished, and the graph goes on; cancel again to stop it. Off: "
            "cancelling stops at once.",
        ),
        io.Int.Input(
            "target_size",
            default=0,
            min=0,
            max=4096,
            step=8,
            optional=True,
            tooltip="Crops whose shorter side is below this are enlarged to it before they are sampled, and reduced when they are put back: detail for small faces. 512 for SD 1.x, "
            "1024 for SDXL; 0 samples them as they are.",
        ),
        io.Int.Input(
            "target_limit",
            default=1536,
            min=64,
            max=8192,
            step=8,
            optional=True,
            advanced=True,
            tooltip="Longest side that a crop may reach through target_size. 1536 is usual; it limits memory and time for long crops.",
        ),
        io.Combo.Input(
            "reference_latents",
            options=list(CHOICES),
            optional=True,
            advanced=True,
            tooltip="For edit models (Kontext, Flux.2, Qwen-Image-Edit): which reference latents are cut to each segment. auto: those of the picture's "
            "size, as it is now or as it came in. cut: all. whole: none. The log and the node list what was decided.",
        ),
        SegmentTexts.Input(
            "segment_texts",
            optional=True,
            tooltip="A text for each segment, from Text per Segment. It replaces the text of positive in that segment; ControlNets, masks and regional prompts stay.",
        ),
        io.Boolean.Input(
            "shift_borders",
            default=False,
            optional=True,
            advanced=True,
            tooltip="Only where overlaps is joint. On: borders between segments lie elsewhere in their overlap in each step, so that no line forms; for "
            "overlaps of 64 pixels and more. Off: all segments of an overlap count alike.",
        ),
    ]
