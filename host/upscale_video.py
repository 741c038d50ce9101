"""Upscaling a video with a model: reading, computing and writing in parallel,
in parts that can be resumed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
import torch
from comfy_api.latest import io, ui
from PIL import Image
from torch import Tensor

from ..record import record
from ..scaling.size import Size
from ..upscale.budget import Budget
from ..upscale.frames import FrameUpscaler, plan_grid
from ..upscale.network import Network
from ..upscale.placement import cached_fits
from ..upscale.random_state import seeded
from ..upscale.tensor_format import Descriptor
from ..upscale.tile_size import fitting_pixels
from ..upscale.upscaler import BATCH_PIXELS, Hooks, Options, upscale_pictures
from ..video.codecs import CODECS, Encoding, choose_encoding, fitting_size
from ..video.frame import Frame, Reader
from ..video.frame_loop import ReadAhead, WriteBehind
from ..video.parts import PART_FRAMES, Parts
from .compat import video_file
from .log import log
from .measurements import fingerprint
from .progress import LivePreview
from .run_again import run_again, run_again_without
from .upscale import (
    ALL_GPUS,
    BLENDED,
    check_upscale_model,
    fallbacks,
    free_memory,
    note_blended,
    ready_network,
    recovered,
    result_size,
)
from .upscale_hints import upscale_hints
from .video import Job, Target, check_disk, full_disk_explained, tags_of
from .video_progress import VideoProgress

FORMAT = 2  # of the parts; another number makes a video that was interrupted start again


@record
class VideoSettings:
    """The settings of the result; the fields are inputs of the node."""

    scale_by: float = 0.0
    codec: str = "h264"
    quality: int = -1
    filename_prefix: str = "video/ComfyUI"
    width: int = 0
    height: int = 0
    precision: str = "auto"
    change_threshold: float = 0.0
    tile_size: int = 0
    compile: bool = False
    gpus: str = ALL_GPUS


@dataclass
class Done:
    """The written file, its last image, and notes for the user."""

    file: Path
    picture: Tensor | None = None
    notes: list[str] = field(default_factory=list[str])


@full_disk_explained()
def upscale_video(
    model: Descriptor,
    reader: Reader,
    settings: VideoSettings,
    prompt: Any = None,
    extra: Mapping[str, Any] | None = None,
) -> Done:
    """Write the enlarged video to the output folder.

    The same inputs resume a cancelled run or a killed process; after Cancel, the finished frames are a
    playable video in the output folder.

    Raises:
        ValueError: when an input does not fit.
        OSError: when the disk has too little space.
    """
    check_upscale_model(model)
    form, notes = reader.form, upscale_hints(model, settings.precision, settings.compile)
    wanted = result_size(
        (form.height, form.width), model.scale, settings.scale_by, settings.width, settings.height
    )
    size = fitting_size(settings.codec, *wanted)
    if size != wanted:
        notes.append(
            f"{settings.codec} needs even width and height: {size[1]}x{size[0]} instead of "
            f"{wanted[1]}x{wanted[0]}."
        )
    encoding = choose_encoding(settings.codec, settings.quality, form, *size, notes)
    target = Target(settings.filename_prefix, encoding.suffix, *size)
    target.check()
    job = Job(
        FORMAT, PART_FRAMES, reader.identity, fingerprint(model), _what_matters(settings), astuple(encoding)
    )
    with job.alone():
        done = _write(model, reader, settings, encoding, job, target, tags_of(reader, prompt, extra), notes)
    log.info("Upscale video: %s: %s", done.file, " ".join(done.notes))
    run_again_without(done.file)
    return done


def _write(
    model: Descriptor,
    reader: Reader,
    settings: VideoSettings,
    encoding: Encoding,
    job: Job,
    target: Target,
    tags: Mapping[str, str],
    notes: Sequence[str],
) -> Done:
    """Compute and write the missing parts, and join them."""
    parts = Parts(job.folder, encoding)
    finished = parts.frames_done
    check_disk(settings.codec, reader.form.frames, finished, encoding.height, encoding.width)
    earlier = [f"{finished} frames were finished by an earlier run."] if finished else []
    try:
        with seeded(0):  # some models draw noise (AuraSR), also while they are measured
            picture, summary = _write_parts(model, reader, settings, encoding, job, parts)
    except comfy.model_management.InterruptProcessingException:
        if so_far := parts.interrupt():
            file, _ = job.save(so_far, target, reader, tags, complete=False)
            log.info(
                "Upscale video: cancelled. The finished frames are in %s; queue the same prompt again "
                "to continue.",
                file,
            )
        raise
    if job.is_blended and BLENDED not in summary:  # by an earlier run
        summary.append(BLENDED)
        run_again()
    file, sound_notes = job.save(parts.closed, target, reader, tags, complete=True)
    return Done(file, picture, [*summary, *notes, *earlier, *reader.faults, *sound_notes])


def show_video(done: Done, codec: str) -> io.NodeOutput:
    """Return the VIDEO, and show it at the node; if browsers cannot play it, its last frame."""
    text = "\n".join(done.notes)
    if CODECS[codec].plays:
        shown = _place(done.file, folder_paths.get_output_directory(), "output")
        saved: dict[str, Any] = {"images": [shown], "animated": (True,)}
    else:
        text += f"\nBrowsers do not play {codec}: the image is the last frame."
        saved = {"images": [] if done.picture is None else [_save_still(done)]}
    return io.NodeOutput(video_file(str(done.file)), ui={**saved, **ui.PreviewText(text).as_dict()})


def _save_still(done: Done) -> dict[str, str]:
    assert done.picture is not None
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    still = folder / f"{done.file.stem}.png"
    image: Image.Image = LivePreview(done.picture, ()).image()
    image.save(still)
    return _place(still, str(folder), "temp")


def _place(file: Path, base: str, kind: str) -> dict[str, str]:
    inside = file.relative_to(base)
    return {
        "filename": file.name,
        "subfolder": "" if inside.parent == Path() else str(inside.parent),
        "type": kind,
    }


def _what_matters(settings: VideoSettings) -> tuple[Any, ...]:
    """Return the settings that change pixels; a new name or prompt resumes from the same parts."""
    return (settings.precision, settings.change_threshold, settings.tile_size)


def _write_parts(
    model: Descriptor, reader: Reader, settings: VideoSettings, encoding: Encoding, job: Job, parts: Parts
) -> tuple[Tensor | None, list[str]]:
    """Compute the missing parts; return the last image, and a summary with what could not be done."""
    form, done = reader.form, parts.frames_done
    progress = VideoProgress(form.frames, done)
    if parts.is_complete:
        return None, [progress.summary]
    run = _Run(model, settings, (form.height, form.width), job)
    size = encoding.height, encoding.width
    grid = plan_grid(run.network, form.height, form.width, size, one_shape=settings.compile)
    upscaler = FrameUpscaler(run, size, grid, settings.change_threshold / 255)
    picture, computed = None, 0.0
    with (
        ReadAhead(reader.frames(done)) as frames,
        WriteBehind[tuple[Tensor, Frame]](
            lambda pair: parts.write(pair[0], pair[1].time, pair[1].duration)
        ) as writer,
    ):
        index = done
        for batch in _batches(frames, run.frames_at_once(form.height, form.width)):
            # Every part starts afresh, so that it is the same whether a run began with it or not.
            fresh = [(index + at) % PART_FRAMES == 0 for at in range(len(batch))]
            for enlarged, frame in zip(
                upscaler([frame.picture for frame in batch], fresh), batch, strict=True
            ):
                picture, computed = enlarged.picture, computed + enlarged.computed
                writer.put((picture, frame))
                progress(picture)
            index += len(batch)
    parts.close()
    share = computed / max(1, index - done)
    summary = progress.summary + (f", {share:.0%} of the pixels computed" if share < 1 else "")
    return picture, [f"{summary}.", *fallbacks(model)]


def _batches(frames: Iterator[Frame], count: int) -> Iterator[list[Frame]]:
    while batch := list(islice(frames, count)):
        yield batch


class _Run:
    """Enlarges images (F, 3, H, W) to a size, or to the network's own, as the node for images does."""

    def __init__(self, model: Descriptor, settings: VideoSettings, size: Size, job: Job) -> None:
        self._model, self._settings, self._job = model, settings, job
        self._budget = Budget(size[0] * size[1], _look_for_cancel)
        self.network: Network = ready_network(
            model, settings.precision, settings.compile, size, self._budget, settings.gpus
        )
        self._logged: set[str] = set()
        self._fits = cached_fits()  # those of all frames
        self._free = free_memory(self.network.device)  # asked once: all frames are cut in the same way

    def frames_at_once(self, height: int, width: int) -> int:
        """Return the number of frames per call: one per device, more if they are small and on a GPU."""
        stage = self.network.stages[-1]
        on_cpu = self.network.device.type == "cpu"
        fitting = (
            1
            if on_cpu
            else min(BATCH_PIXELS, fitting_pixels(stage.memory_estimate, self._free)) // (height * width)
        )
        return max(len(stage.workers), fitting)

    def __call__(self, pictures: Tensor, size: Size | None) -> Tensor:
        network = self.network
        options = Options(size, self._settings.tile_size, device=torch.device("cpu"))
        hooks = Hooks(
            free=lambda: self._free,
            recover=partial(recovered, network.device),
            report=_look_for_cancel,
            log=self._log,
            check=_look_for_cancel,
            blended=self._note_blended,
            budget=self._budget,
            fits=self._fits,
        )
        with seeded(0):  # some models draw noise (AuraSR): the same for every frame
            return upscale_pictures(pictures, network, options, hooks)

    def _note_blended(self) -> None:
        note_blended(self._model, self._settings.tile_size)
        if not self._settings.tile_size:
            self._job.mark_blended()

    def _log(self, plan: str) -> None:
        if plan not in self._logged:
            self._logged.add(plan)
            log.info("Upscale video: %s", plan)


def _look_for_cancel(*_: object) -> None:
    comfy.model_management.throw_exception_if_processing_interrupted()
