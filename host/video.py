"""Videos in ComfyUI: VIDEO inputs, files and folders by name, names of results, tags, disk space."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import folder_paths
from comfy.cli_args import args

from ..errors import bad_input
from ..record import record
from ..video.codecs import CODECS
from ..video.file_reader import FileReader
from ..video.frame import Reader
from ..video.join import join
from ..video.parts import Part
from ..video.picture_readers import FolderReader, TensorReader
from .compat import trim_window, video_source
from .log import log

PARTS_FOLDER = ".megapixel"  # in the output folder: it has the space, and the host does not empty it
KEPT_DAYS = 14  # for which the parts of an interrupted video are kept
CONTAINER_TAGS = {
    "major_brand",
    "minor_version",
    "compatible_brands",
    "encoder",
}  # they describe the file, not its content
GIGABYTE = 2**30


def open_video(video: Any, file: str, fps: float) -> Reader:
    """Return a reader for a VIDEO, or for a video file or a folder of images by its name.

    Args:
        file: as in the host's loaders: inside the input folder, or in another folder with [output] or [temp]
            after the name.
        fps: frames per second of a folder.

    Raises:
        ValueError: when neither or both are given, or nothing readable is found.
    """
    name = file.strip()
    if (video is None) == (not name):
        raise bad_input(
            "video",
            "either a connected VIDEO or a name in file",
            "both" if name else "neither",
            "Use one of them.",
        )
    if video is None:
        path = find_file(name)
        if path.is_dir():
            return FolderReader(path, Fraction(fps).limit_denominator(1001))
        return FileReader(str(path))
    source = video_source(video)
    if source is not None:
        return FileReader(source, *trim_window(video))
    log.info("Video: its frames are already in memory and are read from there.")
    parts = video.get_components()
    sound = parts.audio or {}
    waveform = next(iter(sound["waveform"]), None) if sound else None
    rate = Fraction(parts.frame_rate)
    return TensorReader(parts.images, rate, video.get_bit_depth(), waveform, int(sound.get("sample_rate", 0)))


def find_file(name: str) -> Path:
    """Return the file or folder of a name in the host's input, output or temp folder.

    Raises:
        ValueError: when it is outside of them or does not exist.
    """
    bare, base = folder_paths.annotated_filepath(name)
    base = os.path.realpath(base or folder_paths.get_input_directory())
    path = os.path.realpath(os.path.join(base, bare.strip()))
    if not _is_within(base, path):
        raise bad_input(
            "file",
            "a name inside the input, output or temp folder",
            f"'{name}', which is outside",
            "Move the file there. Add [output] or [temp] after the name to choose the folder.",
        )
    if not os.path.exists(path):
        raise bad_input(
            "file", "the name of a video file or a folder of images", f"'{name}', which does not exist",
            "The input folder is searched; add [output] or [temp] after the name to choose another folder.",
        )  # fmt: skip
    return Path(path)


def _is_within(base: str, path: str) -> bool:
    try:
        return os.path.commonpath((base, path)) == base
    except ValueError:  # on another drive
        return False


def file_state(file: str) -> str:
    """Return a text that changes when a named file or folder does; empty for no name."""
    if not file.strip():
        return ""
    path = find_file(file.strip())
    inside = sorted(path.iterdir()) if path.is_dir() else [path]
    return repr([(entry.name, entry.stat().st_mtime_ns) for entry in inside])


@record
class Target:
    """The target of a result: below the host's output folder, named as by Save Video."""

    prefix: str
    suffix: str
    height: int
    width: int

    def check(self) -> None:
        """Raise if the prefix leads outside the output folder.

        Raises:
            ValueError: when it is outside.
        """
        output = os.path.realpath(folder_paths.get_output_directory())
        if not _is_within(
            output, os.path.realpath(os.path.join(output, os.path.dirname(os.path.normpath(self.prefix))))
        ):
            hint = "Use a name without '..' and drive letters."
            raise bad_input("filename_prefix", "a name inside the output folder", f"'{self.prefix}'", hint)

    def next_file(self) -> Path:
        """Return the next free name."""
        folder, name, counter, _, _ = folder_paths.get_save_image_path(
            self.prefix, folder_paths.get_output_directory(), self.width, self.height
        )
        return Path(folder) / f"{name}_{counter:05}_{self.suffix}"


class Job:
    """The folder for the parts of an unfinished video; its name follows from the source and the settings."""

    def __init__(self, *identity: object) -> None:
        key = hashlib.sha256(repr(identity).encode()).hexdigest()[:20]
        self.folder = Path(folder_paths.get_output_directory()) / PARTS_FOLDER / key
        self._note, self._blended = self.folder / "job.json", self.folder / "blended"
        remove_stale(self.folder.parent, KEPT_DAYS)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep another ComfyUI with the same output folder from writing the same parts meanwhile.

        Raises:
            ValueError: when one is writing them.
        """
        from filelock import FileLock, Timeout  # torch needs it

        file = _lock_of(self.folder)
        file.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            try:
                stack.enter_context(FileLock(str(file), timeout=0))
            except Timeout as error:
                expected, got = "one that no other ComfyUI is writing", "one that another one is writing"
                raise bad_input("video", expected, got, "Wait until it is finished.") from error
            except (OSError, NotImplementedError) as error:  # not every network drive has locks
                log.info("Video: %s cannot be locked, so another ComfyUI is not kept out: %s", file, error)
            stack.callback(_remove_empty, file)
            yield

    def mark_blended(self) -> None:
        """Record that a model that looks at the whole image saw a frame in tiles, also for a later run."""
        self._blended.touch()

    @property
    def is_blended(self) -> bool:
        """Whether this was recorded, by this run or by an earlier one."""
        return self._blended.exists()

    def save(
        self, parts: Sequence[Part], target: Target, reader: Reader, tags: Mapping[str, str], complete: bool
    ) -> tuple[Path, list[str]]:
        """Join the parts in the output folder; return the file and notes about its audio.

        A file of an interrupted run is replaced. The parts are removed when the video is complete.
        """
        before = self._interrupted_file(target.prefix)
        file = before or target.next_file()
        notes = _join_with_sound(parts, file, reader, tags, cut_sound=not complete)
        if complete:
            shutil.rmtree(self.folder, ignore_errors=True)
        else:
            note = {"file": str(file), "state": _state(file), "prefix": target.prefix}
            self._note.write_text(json.dumps(note), encoding="utf-8")
        return file, notes

    def _interrupted_file(self, prefix: str) -> Path | None:
        """Return the file that an interrupted run wrote under this prefix, if it is still that file: the name
        may have been given to another video since.
        """
        try:
            note = json.loads(self._note.read_text(encoding="utf-8"))
            file = Path(note["file"])
            return file if note["prefix"] == prefix and note["state"] == _state(file) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None


def _lock_of(folder: Path) -> Path:
    return folder.with_suffix(".lock")


def _remove_empty(lock: Path) -> None:
    """Remove a lock's file, and its folder if no other videos wait there."""
    with suppress(OSError):
        lock.unlink(missing_ok=True)
        lock.parent.rmdir()


def _state(file: Path) -> list[int]:
    status = file.stat()
    return [status.st_size, status.st_mtime_ns]


def _join_with_sound(
    parts: Sequence[Part], file: Path, reader: Reader, tags: Mapping[str, str], cut_sound: bool
) -> list[str]:
    """Join the parts and the audio to a file, and return notes about the audio.

    Audio that cannot be written is left out, so that the frames are not lost.

    Raises:
        OSError: when the disk is full: the audio can be written later, when there is space.
    """
    time_base, sound = reader.form.time_base, reader.sound()
    if sound is None:
        join(parts, file, time_base, None, tags)
        return []
    try:
        join(parts, file, time_base, sound, tags, cut_sound=cut_sound)
        return sound.notes
    except Exception as error:
        if _is_full_disk(error):
            raise
        join(parts, file, time_base, None, tags)  # raises what has another cause
        reason = " ".join(str(error).split())
        return [*sound.notes, f"The audio could not be written and is left out ({reason})."]


def remove_stale(folder: Path, days: float) -> None:
    """Remove parts of videos that were not resumed."""
    for job in folder.iterdir() if folder.is_dir() else ():
        if job.is_dir() and time.time() - job.stat().st_mtime > days * 86400:
            log.info("Video: the unfinished parts in %s are older than %g days and were removed.", job, days)
            shutil.rmtree(job, ignore_errors=True)
            with suppress(OSError):
                _lock_of(job).unlink(missing_ok=True)


def check_disk(codec: str, frames: int, finished: int, height: int, width: int) -> None:
    """Raise if the disk has too little space for a video's missing parts and the joined file with all `frames`.

    Args:
        frames: of the whole video; 0 if their number is unknown.
        finished: frames that are on the disk already.

    Raises:
        OSError: when the disk has too little space.
    """
    missing = max(0, frames - finished)
    needed = (missing + frames) * height * width * CODECS[codec].bits_per_pixel / 8
    free = shutil.disk_usage(folder_paths.get_output_directory()).free
    if needed > free:
        raise bad_input(
            "filename_prefix",
            f"{needed / GIGABYTE:.1f} GB of free disk space in the output folder for {frames} frames of {width}x{height}",
            f"{free / GIGABYTE:.1f} GB",
            "Free disk space, or choose another codec or a smaller size.",
            OSError,
        )


@contextmanager
def full_disk_explained() -> Iterator[None]:
    """Raise an error message if the disk fills up after all.

    Raises:
        OSError: when it does.
    """
    try:
        yield
    except OSError as error:
        if not _is_full_disk(error):
            raise
        hint = "Free some and queue the same prompt again: finished frames are kept."
        expected = "free disk space in the output folder"
        raise bad_input("filename_prefix", expected, "a full disk", hint, OSError) from error


def _is_full_disk(error: Exception) -> bool:
    """Return whether the disk is full, or the user's share of it."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def tags_of(reader: Reader, prompt: Any, extra: Mapping[str, Any] | None) -> dict[str, str]:
    """Return the tags of the result as Save Video writes them: the source's,
    then the workflow and the prompt.
    """
    own: dict[str, Any] = {}
    if not args.disable_metadata:
        own.update(extra or {})
        if prompt is not None:
            own["prompt"] = prompt
    taken = {name.lower() for name in own} | CONTAINER_TAGS
    kept = {name: text for name, text in reader.metadata.items() if name.lower() not in taken}
    return kept | {name: json.dumps(value) for name, value in own.items()}
