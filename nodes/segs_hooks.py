"""An upscaler hook and a scheduler function, for Upscale SEGS and for nodes of other packs."""

from __future__ import annotations

from comfy.cli_args import args
from comfy_api.latest import io

from ..host.images import check_levels
from ..host.save_progress import SaveProgress
from ..host.sigmas import resample_levels
from .segs_sockets import CATEGORY, SchedulerFunc, UpscalerHook


class MegapixelSaveProgressHook(io.ComfyNode):
    """Saves the unfinished image."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MegapixelSaveProgressHook",
            display_name="Save Progress Hook (Megapixel)",
            category=CATEGORY,
            description=(
                "Saves the unfinished image each time segments are pasted, always to the same file in the "
                "output folder. If overlaps is 'in order', segments that overlap are pasted in turns, so a "
                "crash loses less work; otherwise all segments are pasted at the end. Connect it to "
                "upscaler_hook_opt. The file contains the workflow, unless ComfyUI runs with "
                "--disable-metadata."
            ),
            search_aliases=["UPSCALER_HOOK", "upscaler hook", "autosave", "intermediate result"],
            inputs=[
                io.String.Input(
                    "filename_prefix",
                    default="progress",
                    tooltip="Start of the file name in the output folder; it may contain subfolders.",
                ),
                io.Float.Input(
                    "seconds",
                    default=30.0,
                    min=0.0,
                    max=3600.0,
                    tooltip="Minimum time between two saves, in seconds. 30 costs no noticeable time; 0 "
                    "saves after every segment.",
                ),
            ],
            outputs=[UpscalerHook.Output()],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            not_idempotent=True,
        )

    @classmethod
    def execute(cls, filename_prefix, seconds) -> io.NodeOutput:
        texts = {}
        if not args.disable_metadata:
            texts = {"prompt": cls.hidden.prompt, **(cls.hidden.extra_pnginfo or {})}
        return io.NodeOutput(SaveProgress(filename_prefix, seconds, texts))


class MegapixelSchedulerFunction(io.ComfyNode):
    """Turns any noise levels into a scheduler."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MegapixelSchedulerFunction",
            display_name="Sigmas to Scheduler (Megapixel)",
            category=CATEGORY,
            description=(
                "Turns the noise levels of any scheduler node into a scheduler for Upscale SEGS and for "
                "other packs' detailers. The curve is resampled to the number of steps that they request."
            ),
            search_aliases=[
                "SCHEDULER_FUNC",
                "scheduler function",
                "custom sigmas",
                "sigmas to scheduler func",
            ],
            inputs=[
                io.Sigmas.Input(
                    "sigmas",
                    tooltip="From any scheduler node, with denoise set to 1. The sampler's own denoise "
                    "selects the part that is used.",
                )
            ],
            outputs=[SchedulerFunc.Output()],
        )

    @classmethod
    def execute(cls, sigmas) -> io.NodeOutput:
        check_levels(sigmas)
        return io.NodeOutput(lambda model, sampler_name, steps: resample_levels(sigmas, steps))
