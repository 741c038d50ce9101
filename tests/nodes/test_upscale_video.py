"""The node on the real host: frames, times, sound and colours, interruptions, and what it refuses."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import weakref
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from weakref import WeakKeyDictionary

import av
import comfy.model_management
import comfy.utils
import filelock
import folder_paths
import numpy as np
import pytest
import torch
from comfy_api.latest import InputImpl, Types
from comfy_execution.utils import CurrentNodeContext
from megapixel.host import upscale as host_upscale, upscale_video as host_upscale_video
from megapixel.host.log import forget_lines
from megapixel.host.upscale_video import VideoSettings, upscale_video
from megapixel.host.video import Job, check_disk, remove_stale
from megapixel.nodes.upscale import MegapixelUpscale
from megapixel.nodes.upscale_video import MegapixelUpscaleVideo
from megapixel.upscale import placement
from megapixel.upscale.frames import FrameUpscaler
from megapixel.video.codecs import CODECS
from megapixel.video.file_reader import FileReader
from megapixel.video.frame_loop import AHEAD
from megapixel.video.parts import Parts
from megapixel.video.sound import FileSound
from PIL import Image

from devhost.environment import ROOT
from devhost.tiny.random_upscalers import random_upscaler
from devhost.tiny.videos import colours_of, moving_pictures, sound_of, times_of, write_video


@pytest.fixture(autouse=True)
def folders(tmp_path):
    """Input, output, temp and user folders of the test's own."""
    kinds = ("input", "output", "temp", "user")
    before = {kind: getattr(folder_paths, f"get_{kind}_directory")() for kind in kinds}
    for kind in kinds:
        (tmp_path / kind).mkdir()
        getattr(folder_paths, f"set_{kind}_directory")(str(tmp_path / kind))
    yield tmp_path
    for kind, folder in before.items():
        getattr(folder_paths, f"set_{kind}_directory")(folder)


@pytest.fixture(scope="module")
def model():
    return random_upscaler("Compact 16x4")


@pytest.fixture
def clip(folders):
    """A function (count, name, **settings) that writes a video into the input folder."""

    def write(count=12, name="a.mp4", **settings):
        return write_video(folders / "input" / name, moving_pictures(count), **settings)

    return write


def run(model, **settings):
    """Run the node as the host does; return its output."""
    node = MegapixelUpscaleVideo
    node.hidden = SimpleNamespace(prompt=None, extra_pnginfo=None)
    with torch.inference_mode():
        return node.execute(model, **{"scale_by": 2.0, "precision": "float32"} | settings)


def file_of(output):
    return output.args[0].get_stream_source()


def image_node(model, file, **settings):
    """Return what the node for pictures makes of all frames: (F, H, W, 3)."""
    images = InputImpl.VideoFromFile(str(file)).get_components().images
    with torch.inference_mode():
        return MegapixelUpscale.execute(
            model, images, **{"scale_by": 2.0, "precision": "float32"} | settings
        ).args[0]


def numbers_of(file):
    """Return the integers of an FFV1 file, (F, H, W, 3)."""
    with av.open(str(file)) as opened:
        frames = [
            np.frombuffer(frame.planes[0], np.uint8).reshape(frame.height, -1)[:, : 4 * frame.width]
            for frame in opened.decode(video=0)
        ]
    return torch.from_numpy(np.stack([frame.reshape(len(frame), -1, 4)[..., 2::-1] for frame in frames]))


def files_in(folder):
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


@pytest.mark.parametrize(
    "settings", [{}, {"scale_by": 0.0}, {"width": 75, "height": 201}], ids=["2x", "4x", "exact"]
)
def test_frames_are_bit_for_bit_those_of_the_node_for_pictures(model, clip, settings):
    file = clip()
    written = numbers_of(file_of(run(model, file="a.mp4", codec="ffv1", **settings)))
    expected = (image_node(model, file, **settings) * 255).round().to(torch.uint8)
    assert torch.equal(written, expected)


def test_a_video_that_mostly_stands_still_gives_the_same_frames_for_a_fraction_of_the_work(model, folders):
    pictures = moving_pictures(1, 270, 480).repeat(12, 1, 1, 1)
    for index in range(12):
        pictures[index, :, 30:50, 80 : 84 + index] = 0.2
    file = write_video(folders / "input" / "a.mkv", pictures, "ffv1", "bgr0", options={})
    output = run(model, file="a.mkv", codec="ffv1")
    computed = int(re.search(r"(\d+)% of the pixels computed", output.ui["text"][0])[1])
    assert computed <= 14  # the first frame of 12 is whole (8 %), and of each other one tile of 5 %
    expected = (image_node(model, file) * 255).round().to(torch.uint8)
    assert torch.equal(numbers_of(file_of(output)), expected)


def test_resampling_weights_are_computed_once_for_all_frames(model, clip, monkeypatch):
    computed = []
    real = placement.resample_bands
    monkeypatch.setattr(placement, "resample_bands", lambda *key: computed.append(key) or real(*key))
    run(model, video=InputImpl.VideoFromFile(str(clip(3))), tile_size=64)
    assert computed
    assert len(computed) == len(set(computed))


def test_no_more_frames_are_in_memory_for_a_longer_video(model, clip, monkeypatch):
    alive, most = set(), 0

    def note(picture):
        nonlocal most
        alive.add(id(picture))
        weakref.finalize(picture, alive.discard, id(picture))
        most = max(most, len(alive))

    class Noted(FileReader):
        def frames(self, skip=0):
            for frame in super().frames(skip):
                note(frame.picture)
                yield frame

    enlarge = FrameUpscaler.__call__

    def enlarge_noted(self, pictures, fresh):
        results = enlarge(self, pictures, fresh)
        for result in results:
            note(result.picture)
        return results

    monkeypatch.setattr(FrameUpscaler, "__call__", enlarge_noted)
    settings = VideoSettings(scale_by=1.0, precision="float32")
    for count in (10, 50, 200):
        file, most = clip(count, f"{count}.mp4"), 0
        with torch.inference_mode():
            upscale_video(model, Noted(str(file)), settings)
        # On either side those that wait, one in hand and one at the door; those to be written have their frame with them.
        assert 2 <= most <= 3 * (AHEAD + 2)


KINDS = {
    "constant rate": {},
    "variable rate": {"times": [0, 1001, 2002, 6000, 6100, 9000, 12000, 12500, 20000, 20001, 30000, 31000]},
    "10 bits": {"codec": "libx265", "pixels": "yuv420p10le", "options": {"x265-params": "log-level=error"}},
    "rotated": {"rotation": 90},
    "full range": {"pixels": "yuvj420p"},
    "BT.709": {"colorspace": 1, "color_primaries": 1, "color_trc": 1, "color_range": 1},
}


@pytest.mark.parametrize("kind", KINDS)
def test_times_sound_bits_and_colours_are_the_inputs(model, clip, kind):
    file = clip(sound="aac", **KINDS[kind])
    output = run(model, file="a.mp4", codec="h265")
    result = file_of(output)
    assert times_of(result) == times_of(file)
    assert sound_of(result) == sound_of(file)
    given, form = FileReader(str(file)).form, FileReader(result).form
    assert (form.bits, form.height, form.width) == (given.bits, 2 * given.height, 2 * given.width)
    colours, expected = list(colours_of(result)[:4]), list(colours_of(file)[:4])
    if kind == "full range":  # named by the pixel format in the source
        expected[0] = 2
    if kind != "BT.709":  # a small video without tags gets those that players take it by
        expected[1] = 6
    assert colours[:2] == [expected[0] or 1, expected[1]]
    shown = InputImpl.VideoFromFile(result).get_components().images
    assert (shown - image_node(model, file)).abs().mean() < 0.02


def test_a_file_without_sound_has_none(model, clip):
    clip()
    with av.open(file_of(run(model, file="a.mp4"))) as opened:
        assert [stream.type for stream in opened.streams] == ["video"]


def test_a_truncated_file_is_written_as_far_as_it_goes_and_the_node_says_what_is_missing(model, clip):
    file = clip(72, "a.mkv", options={"crf": "10", "g": "12"})
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    output = run(model, file="a.mkv")
    count = len(times_of(file_of(output)))
    assert 10 < count < 60
    assert f"{count} frames" in output.ui["text"][0]
    assert "could be read; the file says 72 (3.0 s)." in output.ui["text"][0]


def test_an_odd_size_becomes_even_and_the_node_says_so(model, clip):
    clip()
    output = run(model, file="a.mp4", width=75)
    assert output.args[0].get_dimensions() == (76, 42)
    assert "h264 needs even width and height: 76x42 instead of 75x42." in output.ui["text"][0]


def test_a_video_from_a_file_is_streamed_from_it_and_trimmed(model, clip, monkeypatch):
    file = clip(48, sound="aac", options={"g": "10"})
    monkeypatch.setattr(InputImpl.VideoFromFile, "get_components", None)  # would hold all frames
    video = InputImpl.VideoFromFile(str(file), start_time=0.5, duration=1.0)
    times = times_of(file_of(run(model, video=video)))
    assert times == [Fraction(index, 24) for index in range(24)]


def test_a_video_in_memory_is_taken_as_it_is(model, folders, caplog):
    images = moving_pictures(6).movedim(1, -1).contiguous()
    sound = {"waveform": torch.sin(torch.arange(12000) / 20).expand(1, 2, -1), "sample_rate": 48000}
    components = Types.VideoComponents(images=images, audio=sound, frame_rate=Fraction(12))
    with caplog.at_level("INFO", "megapixel"):
        output = run(model, video=InputImpl.VideoFromComponents(components), codec="ffv1")
    assert "Video: its frames are already in memory and are read from there." in caplog.messages
    with torch.inference_mode():
        [expected] = MegapixelUpscale.execute(model, images, scale_by=2.0, precision="float32").args
    assert torch.equal(numbers_of(file_of(output)), (expected * 255).round().to(torch.uint8))
    assert len(sound_of(file_of(output))) > 5


def test_a_folder_of_pictures_is_a_video_in_the_order_of_its_numbers(model, folders):
    pictures = (moving_pictures(11).movedim(1, -1) * 255).round().to(torch.uint8)
    (folders / "input" / "shots").mkdir()
    for number, picture in enumerate(pictures, 1):
        Image.fromarray(picture.numpy()).save(folders / "input" / "shots" / f"shot{number}.png")
    written = file_of(run(model, file="shots", codec="ffv1", fps=12.5))
    with torch.inference_mode():
        [expected] = MegapixelUpscale.execute(model, pictures / 255, scale_by=2.0, precision="float32").args
    assert torch.equal(numbers_of(written), (expected * 255).round().to(torch.uint8))
    assert times_of(written) == [Fraction(index, Fraction(12.5)) for index in range(11)]


@pytest.mark.usefixtures("broken_compiler")
def test_a_compiler_that_fails_is_one_log_line_and_a_text_at_the_node(model, clip, caplog):
    clip(6)
    expected = numbers_of(file_of(run(model, file="a.mp4", codec="ffv1")))
    forget_lines()
    with caplog.at_level("WARNING", "megapixel"):
        output = run(model, file="a.mp4", codec="ffv1", filename_prefix="video/compiled", compile=True)
    assert torch.equal(numbers_of(file_of(output)), expected)
    [line] = caplog.messages
    assert re.fullmatch(r"compile: torch\.compile failed \(\w+\)\. Continuing without it\.", line)
    assert line in output.ui["text"][0]


def test_a_model_that_draws_noise_leaves_the_global_generator_as_it_was(clip, monkeypatch):
    clip(3)
    monkeypatch.setattr(host_upscale, "_networks", WeakKeyDictionary())
    noisy = random_upscaler("Compact 16x4", seed=3)
    noisy.model.body[0].register_forward_hook(
        lambda layer, given, result: result + torch.randn(result.shape) / 100
    )
    state = torch.get_rng_state()
    run(noisy, file="a.mp4", precision="auto")  # measures too
    assert torch.equal(torch.get_rng_state(), state)


def test_blended_tiles_for_lack_of_memory_are_shown_at_the_node_and_the_result_is_not_final(
    folders, caplog, monkeypatch
):
    write_video(folders / "input" / "a.mp4", moving_pictures(1, 140, 160))
    model = random_upscaler("Compact 16x4", seed=4)
    model.model.body[0].register_forward_hook(  # looks at the whole image
        lambda layer, given, result: result + result.mean((-2, -1), keepdim=True) / 10
    )

    def texts(**settings):
        forget_lines()
        caplog.clear()
        with CurrentNodeContext("prompt", "9"):
            before = MegapixelUpscaleVideo.fingerprint_inputs(file="a.mp4")
            output = run(model, file="a.mp4", **settings)
            final = MegapixelUpscaleVideo.fingerprint_inputs(file="a.mp4") == before
        return (
            host_upscale.BLENDED in output.ui["text"][0],
            caplog.messages.count(host_upscale.BLENDED),
            final,
        )

    for module in (host_upscale, host_upscale_video):
        monkeypatch.setattr(module, "free_memory", lambda device: 2**18)
    assert texts() == (True, 1, False)
    assert texts(tile_size=64) == (False, 0, True)  # as the user asked
    monkeypatch.undo()
    assert texts() == (False, 0, True)


def test_a_resumed_video_says_that_its_earlier_frames_were_blended(folders, monkeypatch):
    write_video(folders / "input" / "a.mp4", moving_pictures(90, 140, 160))
    model = random_upscaler("Compact 16x4", seed=4)
    model.model.body[0].register_forward_hook(  # looks at the whole image
        lambda layer, given, result: result + result.mean((-2, -1), keepdim=True) / 10
    )
    with monkeypatch.context() as patched:
        for module in (host_upscale, host_upscale_video):
            patched.setattr(module, "free_memory", lambda device: 2**18)
        stopped_at(51, monkeypatch, lambda: run(model, file="a.mp4"))
    with CurrentNodeContext("prompt", "9"):
        before = MegapixelUpscaleVideo.fingerprint_inputs(file="a.mp4")
        [text] = run(model, file="a.mp4").ui["text"]
        assert MegapixelUpscaleVideo.fingerprint_inputs(file="a.mp4") != before
        assert "50 frames were finished by an earlier run." in text
        assert text.count(host_upscale.BLENDED) == 1
        before = MegapixelUpscaleVideo.fingerprint_inputs(file="a.mp4")
        assert host_upscale.BLENDED not in run(model, file="a.mp4").ui["text"][0]  # all of it anew
        assert MegapixelUpscaleVideo.fingerprint_inputs(file="a.mp4") == before


def test_parts_that_another_comfyui_is_writing_are_left_to_it(model, clip, folders, monkeypatch):
    clip(3)
    jobs = []
    save = Job.save

    def save_while_another_one_starts(job, *given, **settings):
        jobs.append(job)
        with pytest.raises(ValueError, match=r"^video: expected one that no other ComfyUI is writing, got "):
            run(model, file="a.mp4")
        return save(job, *given, **settings)

    with monkeypatch.context() as patched:
        patched.setattr(Job, "save", save_while_another_one_starts)
        run(model, file="a.mp4")
    assert len(jobs) == 1
    run(model, file="a.mp4")
    assert files_in(folders / "output") == ["video/ComfyUI_00001_.mp4", "video/ComfyUI_00002_.mp4"]
    assert not (folders / "output" / ".megapixel").exists()


def test_a_drive_without_locks_is_written_to_all_the_same(model, clip, monkeypatch):
    clip(3)

    def refuse(self):
        raise NotImplementedError("no locks here")

    monkeypatch.setattr(filelock.FileLock, "_acquire", refuse)
    assert len(times_of(file_of(run(model, file="a.mp4")))) == 3


def test_several_devices_share_the_frames_and_give_the_same_file(model, clip, monkeypatch):
    clip(20)
    alone = file_of(run(model, file="a.mp4", tile_size=48))
    monkeypatch.setattr(host_upscale, "_networks", WeakKeyDictionary())
    monkeypatch.setattr(host_upscale, "sibling_devices", lambda first: [first, torch.device(first.type, 0)])
    together = file_of(run(model, file="a.mp4", tile_size=48))
    [ready] = host_upscale._networks.values()
    assert len(ready.network.stages[0].workers) == 2
    assert Path(together).read_bytes() == Path(alone).read_bytes()


def test_one_gpu_leaves_the_others_to_their_own_comfyui(model, clip, monkeypatch):
    clip(4)
    monkeypatch.setattr(host_upscale, "_networks", WeakKeyDictionary())
    monkeypatch.setattr(host_upscale, "sibling_devices", lambda first: [first, torch.device(first.type, 0)])
    run(model, file="a.mp4", tile_size=48, gpus="one")
    [ready] = host_upscale._networks.values()
    assert [len(stage.workers) for stage in ready.network.stages] == [1] * len(ready.network.stages)


def test_cancel_leaves_a_file_that_plays_and_the_same_prompt_goes_on(model, clip, folders, monkeypatch):
    file = clip(130, sound="aac")
    whole = file_of(run(model, file="a.mp4", filename_prefix="whole"))

    def cancel(value, total, preview, **_):
        if value >= 70:  # the host leaves some out
            comfy.model_management.interrupt_current_processing()

    with monkeypatch.context() as patched:
        patched.setattr(comfy.utils, "PROGRESS_BAR_HOOK", cancel)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            run(model, file="a.mp4", filename_prefix="part")
    partial = folders / "output" / "part_00001_.mp4"
    shown = times_of(partial)
    assert 70 <= len(shown) < 100
    assert shown == times_of(file)[: len(shown)]
    output = run(model, file="a.mp4", filename_prefix="part")
    assert file_of(output) == str(partial)
    assert partial.read_bytes() == Path(whole).read_bytes()
    assert output.ui["text"][0].startswith("130 frames, 80 of them in ")
    assert "50 frames were finished by an earlier run." in output.ui["text"][0]
    assert files_in(folders / "output") == ["part_00001_.mp4", "whole_00001_.mp4"]


def stopped_at(frames, monkeypatch, run_it):
    """Cancel a run after so many frames."""

    def cancel(value, total, preview, **_):
        if value >= frames:
            comfy.model_management.interrupt_current_processing()

    with monkeypatch.context() as patched:
        patched.setattr(comfy.utils, "PROGRESS_BAR_HOOK", cancel)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            run_it()


@pytest.mark.parametrize("since", ["another video", "moved", "folder gone", "another prefix"])
def test_a_resumed_video_replaces_only_its_own_unfinished_file(model, clip, folders, monkeypatch, since):
    clip(90)  # the host leaves out some calls of the hook
    prefix = "clips/part"
    stopped_at(51, monkeypatch, lambda: run(model, file="a.mp4", filename_prefix=prefix))
    partial = folders / "output" / "clips" / "part_00001_.mp4"
    if since == "another video":
        partial.write_bytes(b"another video")
    elif since == "moved":
        partial.rename(folders / "mine.mp4")
    elif since == "folder gone":
        shutil.rmtree(partial.parent)
    else:
        prefix = "other"
    kept = partial.read_bytes() if partial.exists() else None
    output = run(model, file="a.mp4", filename_prefix=prefix)
    assert len(times_of(file_of(output))) == 90
    assert "50 frames were finished by an earlier run." in output.ui["text"][0]
    if kept is not None:
        assert partial.read_bytes() == kept
        assert Path(file_of(output)) != partial


def test_sound_that_cannot_be_written_is_left_out_and_the_frames_are_kept(model, clip, monkeypatch):
    clip(3, sound="aac")

    def fail(*_):
        raise av.error.ArgumentError(22, "Invalid argument")

    monkeypatch.setattr(FileSound, "add_to", fail)
    output = run(model, file="a.mp4")
    assert len(times_of(file_of(output))) == 3
    assert "The audio could not be written and is left out (Invalid argument" in output.ui["text"][0]


def test_a_disk_that_fills_up_is_an_error_message_and_frames_stay(model, clip, monkeypatch):
    clip(60)
    write = Parts.write

    def fill_up(self, picture, time, duration):
        if self.frames_done >= 50:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, picture, time, duration)

    with monkeypatch.context() as patched:
        patched.setattr(Parts, "write", fill_up)
        message = (
            r"filename_prefix: expected free disk space in the output folder, got a full disk\. Free some and"
        )
        with pytest.raises(OSError, match=message):
            run(model, file="a.mp4")
    assert "50 frames were finished by an earlier run." in run(model, file="a.mp4").ui["text"][0]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize(("codec", "suffix"), [("h264", ".mp4"), ("ffv1", ".mkv")])
def test_a_disk_that_fills_up_while_joining_keeps_the_sound_for_the_next_run(
    model, clip, folders, codec, suffix
):
    clip(3, sound="aac")
    name = f"clip_00001_{suffix}"
    (folders / "output" / f".{name}.new{suffix}").symlink_to("/dev/full")
    settings = {"file": "a.mp4", "codec": codec, "filename_prefix": "clip"}
    with pytest.raises(OSError, match="got a full disk"):
        run(model, **settings)
    output = run(model, **settings)
    assert len(times_of(file_of(output))) == 3
    assert sound_of(file_of(output)) is not None
    assert "audio" not in output.ui["text"][0]


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from devhost.host import import_host
import_host()
import folder_paths, torch
folder_paths.set_output_directory(sys.argv[3])
folder_paths.set_user_directory(sys.argv[4])
from megapixel.host.log import forget_lines
from megapixel.host.upscale_video import VideoSettings, upscale_video
from megapixel.upscale.frames import FrameUpscaler
from megapixel.video.codecs import CODECS
from megapixel.video.file_reader import FileReader
from megapixel.video.frame_loop import AHEAD
from devhost.tiny.random_upscalers import random_upscaler

class Killed(FileReader):
    def frames(self, skip=0):
        for index, frame in enumerate(super().frames(skip)):
            if index == 130:
                os.kill(os.getpid(), signal.SIGKILL)
            yield frame

with torch.inference_mode():
    upscale_video(random_upscaler("Compact 16x4"), Killed(sys.argv[2]), VideoSettings(scale_by=2.0, precision="float32"))
"""


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_a_killed_process_is_gone_on_with_and_the_file_is_the_same(model, clip, folders):
    file = clip(150)
    command = [
        sys.executable,
        "-c",
        KILLED,
        str(ROOT),
        str(file),
        str(folders / "output"),
        str(folders / "user"),
    ]
    assert subprocess.run(command, capture_output=True).returncode == -9
    settings = VideoSettings(scale_by=2.0, precision="float32")
    with torch.inference_mode():
        resumed = upscale_video(model, FileReader(str(file)), settings)
        whole = upscale_video(model, FileReader(str(file)), settings)
    assert resumed.notes[0].startswith("150 frames, 50 of them in ")
    assert whole.notes[0].startswith("150 frames in ")
    assert resumed.file.read_bytes() == whole.file.read_bytes()


def test_another_setting_does_not_go_on_with_the_parts_of_the_first(model, clip, folders, monkeypatch):
    clip(90)

    def cancel(value, total, preview, **_):
        if value >= 51:
            comfy.model_management.interrupt_current_processing()

    with monkeypatch.context() as patched:
        patched.setattr(comfy.utils, "PROGRESS_BAR_HOOK", cancel)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            run(model, file="a.mp4")
    for change in ({"scale_by": 3.0}, {"quality": 30}, {"precision": "auto"}, {"change_threshold": 2.0}):
        assert run(model, file="a.mp4", **change).ui["text"][0].startswith("90 frames in "), change
    assert run(model, file="a.mp4").ui["text"][0].startswith("90 frames, 40 of them in ")


def test_old_parts_are_removed(folders, caplog):
    job = Job("some video")
    job.folder.mkdir(parents=True)
    os.utime(job.folder, (0, 0))
    fresh = Job("another video").folder
    fresh.mkdir(parents=True)
    with caplog.at_level("INFO", "megapixel"):
        remove_stale(fresh.parent, 14)
    assert [entry.name for entry in fresh.parent.iterdir()] == [fresh.name]


def test_tags_are_those_of_save_video(model, clip, folders):
    clip(3)
    prompt, extra = {"1": {"class_type": "A"}}, {"workflow": {"nodes": []}}
    with torch.inference_mode():
        reader = FileReader(str(folders / "input" / "a.mp4"))
        done = upscale_video(model, reader, VideoSettings(), prompt, extra)
    tags = FileReader(str(done.file)).metadata
    reference = folders / "reference.mp4"
    InputImpl.VideoFromFile(str(folders / "input" / "a.mp4")).save_to(
        str(reference), metadata=extra | {"prompt": prompt}
    )
    expected = FileReader(str(reference)).metadata
    assert {name: tags[name] for name in ("prompt", "workflow")} == {
        name: expected[name] for name in ("prompt", "workflow")
    }
    assert json.loads(tags["workflow"]) == extra["workflow"]


def test_the_result_is_shown_as_save_video_shows_it(model, clip):
    clip(3)
    shown = run(model, file="a.mp4", filename_prefix="video/clip").ui
    assert shown["images"] == [{"filename": "clip_00001_.mp4", "subfolder": "video", "type": "output"}]
    assert shown["animated"] == (True,)


def test_what_browsers_do_not_play_is_shown_as_a_picture(model, clip, folders):
    clip(3)
    shown = run(model, file="a.mp4", codec="prores").ui
    assert "Browsers do not play prores: the image is the last frame." in shown["text"][0]
    [still] = shown["images"]
    assert Image.open(folders / still["type"] / still["filename"]).size == (240, 136)


@pytest.mark.parametrize(
    "name",
    ["../secret.mp4", "{base}/secret.mp4", "sub/../../secret.mp4", "../secret.mp4 [output]", "link.mp4", "/"],
)
def test_a_name_that_leads_outside_is_an_error_message(model, folders, name):
    (folders / "secret.mp4").write_bytes(b"secret")
    (folders / "input" / "link.mp4").symlink_to(folders / "secret.mp4")
    message = r"file: expected a name inside the input, output or temp folder, got '.*', which is outside\."
    with pytest.raises(ValueError, match=message):
        run(model, file=name.format(base=folders))


@pytest.mark.parametrize("prefix", ["../clip", "/tmp/clip", "video/../../clip"])
def test_a_prefix_that_leads_outside_is_an_error_message(model, clip, folders, prefix):
    clip(3)
    with pytest.raises(ValueError, match=r"filename_prefix: expected a name inside the output folder, got"):
        run(model, file="a.mp4", filename_prefix=prefix)
    assert files_in(folders / "output") == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"video: expected either a connected VIDEO or a name in file, got neither\. Use one of them\."),
        (
            {"file": "b.mp4"},
            r"file: expected the name of a video file or a folder of images, got 'b\.mp4', which does",
        ),
        ({"file": "a.mp4", "quality": 60}, r"quality: expected -1 to 51 for h264, got 60\."),
    ],
    ids=["neither", "not there", "quality"],
)
def test_wrong_inputs_are_error_messages(model, clip, settings, message):
    clip(3)
    with pytest.raises(ValueError, match=message):
        run(model, **settings)


def test_too_little_disk_space_is_said_before_anything_starts(model, clip, folders, monkeypatch):
    clip(3)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    message = r"filename_prefix: expected [\d.]+ GB of free disk space in the output folder for 3 frames of 240x136, got"
    with pytest.raises(OSError, match=message):
        run(model, file="a.mp4", codec="ffv1")


def test_a_resumed_video_needs_space_for_its_missing_frames_and_for_the_whole_file(monkeypatch):
    frame = 64 * 64 * CODECS["ffv1"].bits_per_pixel // 8
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=110 * frame))
    check_disk("ffv1", 100, 90, 64, 64)
    with pytest.raises(OSError, match="free disk space in the output folder for 100 frames"):
        check_disk("ffv1", 100, 89, 64, 64)


def test_a_named_file_is_read_again_when_it_changes(clip):
    file = clip(3)
    before = MegapixelUpscaleVideo.fingerprint_inputs(file="a.mp4")
    os.utime(file, (1, 1))
    assert MegapixelUpscaleVideo.fingerprint_inputs(file="a.mp4") != before
    assert MegapixelUpscaleVideo.fingerprint_inputs(file="") == MegapixelUpscaleVideo.fingerprint_inputs()


def test_a_result_whose_file_is_gone_is_written_again(model, clip):
    clip(3)
    with CurrentNodeContext("prompt", "8"):
        before = MegapixelUpscaleVideo.fingerprint_inputs(file="a.mp4")
        file = Path(run(model, file="a.mp4").args[0].get_stream_source())
        assert MegapixelUpscaleVideo.fingerprint_inputs(file="a.mp4") == before
        file.unlink()
        gone = MegapixelUpscaleVideo.fingerprint_inputs(file="a.mp4")
        assert gone != before
        assert MegapixelUpscaleVideo.fingerprint_inputs(file="a.mp4") == gone
