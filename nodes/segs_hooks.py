"""An upscaler hook and a scheduler function, for Upscale SEGS and for nodes of other packs."""

from __future__ import annotations

import json
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import folder_paths
import numpy as np
import torch
from comfy.cli_args import args
from comfy_api.latest import io
from PIL import Image, PngImagePlugin
from torch import Tensor

from ..host.images import check_levels
from ..host.resampled_sigmas import resample_levels
from .segs_sockets import CATEGORY, SchedulerFunc, UpscalerHook


class SaveProgress:
    """An UPSCALER_HOOK: `post_paste` gets the image after each segment, and returns it."""

    only_reads = True  # segments need not be refined one by one

    def __init__(self, prefix: str, seconds: float, texts: dict[str, Any]) -> None:
        self._prefix, self._seconds = prefix, seconds
        self._texts = PngImagePlugin.PngInfo()
        for name, value in texts.items():
            self._texts.add_text(name, json.dumps(value))
        self._paths: list[Path] = []
        self._picture: Callable[[], Tensor | None] = lambda: None
        self._saved = time.monotonic()

    def post_paste(self, image: Tensor) -> Tensor:
        """Save IMAGE (F, H, W, C), at most once in `seconds`, always to the same files."""
        if time.monotonic() - self._saved >= self._seconds:
            for picture, path in zip(image, self._files(image), strict=True):
                pixels = (picture.clamp(0, 1) * 255).round().to("cpu", torch.uint8).numpy()
                unfinished = path.with_suffix(".part")
                Image.fromarray(np.squeeze(pixels)).save(
                    unfinished, "PNG", pnginfo=self._texts, compress_level=1
                )
                unfinished.replace(path)  # a crash while saving leaves the one before
            self._saved = time.monotonic()
        return image

    def _files(self, image: Tensor) -> list[Path]:
        if self._picture() is not image:  # another run: other files
            self._picture = weakref.ref(image)
            height, width = image.shape[1:3]
            folder, name, counter, _, _ = folder_paths.get_save_image_path(
                self._prefix, folder_paths.get_output_directory(), width, height
            )
            self._paths = [
                Path(folder) / f"{name}_{counter + number:05}_.png" for number in range(len(image))
            ]
        return self._paths


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
