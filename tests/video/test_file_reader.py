"""What is read of a file: the frames that the host's loader gives, their times, and what is missing."""

from __future__ import annotations

from fractions import Fraction
from io import BytesIO

import av
import numpy as np
import pytest
import torch
from comfy_api.latest import InputImpl
from megapixel.video.colour import Colour
from megapixel.video.file_reader import FileReader
from PIL import Image

from devhost.tiny.videos import moving_pictures, times_of, write_video


def host_frames(file, **trim):
    """Return (F, 3, H, W) as Get Video Components gives it."""
    return InputImpl.VideoFromFile(str(file), **trim).get_components().images.movedim(-1, 1)


def read(source, **settings):
    reader = FileReader(source, **settings)
    frames = list(reader.frames())
    return reader, torch.stack([frame.picture for frame in frames]), [frame.time for frame in frames]


FILES = {
    "8 bits": {},
    "10 bits": {"codec": "libx265", "pixels": "yuv420p10le", "options": {"x265-params": "log-level=error"}},
    "full range": {"pixels": "yuvj420p"},
    "BT.709": {"colorspace": 1, "color_primaries": 1, "color_trc": 1, "color_range": 1},
    "rotated": {"rotation": 90},
    "upside down": {"rotation": 180},
    "lossless RGB": {"codec": "ffv1", "pixels": "bgr0", "options": {}},
}


@pytest.mark.parametrize("settings", FILES.values(), ids=FILES.keys())
@pytest.mark.parametrize("width", [120, 128], ids=["padded", "aligned"])
def test_frames_are_bit_for_bit_those_of_the_hosts_loader(tmp_path, settings, width):
    settings = dict(settings)
    suffix = ".mkv" if settings.get("codec") == "ffv1" else ".mp4"
    file = write_video(tmp_path / f"a{suffix}", moving_pictures(5, width=width), **settings)
    reader, frames, _ = read(str(file))
    expected = host_frames(file)
    assert torch.equal(frames, expected)
    assert (reader.form.height, reader.form.width) == expected.shape[-2:]
    assert frames.dtype == torch.float32
    assert reader.faults == []


def test_the_form_says_what_the_file_is(tmp_path):
    colours = {"colorspace": 9, "color_primaries": 9, "color_trc": 16, "color_range": 1}
    options = {"x265-params": "log-level=error"}
    file = write_video(
        tmp_path / "a.mp4", moving_pictures(6), "libx265", "yuv420p10le", options=options, **colours
    )
    form = FileReader(str(file)).form
    assert (form.height, form.width, form.bits, form.frames, form.rate) == (68, 120, 10, 6, 24)
    assert form.colour == Colour(9, 1, 9, 16)


def test_times_of_a_variable_rate_are_the_files_own(tmp_path):
    times = [0, 1001, 2002, 6000, 6100, 9000, 12000, 12500]
    file = write_video(tmp_path / "a.mp4", moving_pictures(8), times=times)
    reader, _, read_times = read(str(file))
    assert [time * reader.form.time_base for time in read_times] == [Fraction(time, 24000) for time in times]
    assert [time * reader.form.time_base for time in read_times] == times_of(file)


@pytest.mark.parametrize("name", ["a.ts", "a.mkv", "a.mp4"])
def test_a_file_whose_times_begin_later_begins_at_zero(tmp_path, name):
    times = [240000 + 1000 * index for index in range(12)]  # ten seconds
    file = write_video(tmp_path / name, moving_pictures(12), times=times, sound="aac")
    reader, _, read_times = read(str(file))
    seconds = [float(time * reader.form.time_base) for time in read_times]
    assert seconds == pytest.approx([index / 24 for index in range(12)], abs=0.03)  # the sound begins first
    assert reader.faults == []
    assert reader.form.frames == pytest.approx(12, abs=1)


@pytest.mark.parametrize(
    ("codec", "pixels", "name"),
    [
        ("ffv1", "yuva420p", "a.mkv"),
        ("ffv1", "bgra", "a.mkv"),
        ("ffv1", "gbrap10le", "a.mkv"),
        ("qtrle", "argb", "a.mov"),
    ],
)
@pytest.mark.parametrize("width", [64, 33])
def test_transparent_pixels_are_a_fault_and_an_opaque_alpha_channel_is_none(
    tmp_path, codec, pixels, name, width
):
    for alpha, faults in ((255, []), (100, ["Transparency is removed."])):
        with av.open(str(tmp_path / name), "w") as output:
            stream = output.add_stream(codec, rate=24)
            stream.width, stream.height, stream.pix_fmt = width, 34, pixels
            for at in range(3):
                numbers = np.full((34, width, 4), 255, np.uint8)
                numbers[-1, -1, 3] = alpha if at == 1 else 255
                output.mux(stream.encode(av.VideoFrame.from_ndarray(numbers, format="rgba")))
            output.mux(stream.encode(None))
        reader = FileReader(str(tmp_path / name))
        for _ in range(2):
            assert len(list(reader.frames())) == 3
            assert reader.faults == faults


def test_an_opaque_animation_has_no_fault(tmp_path):
    file = write_video(tmp_path / "a.gif", moving_pictures(3), "gif", "bgr8", options={})
    assert read(str(file))[0].faults == []


def test_a_file_in_memory_reads_like_one_on_disk(tmp_path):
    file = write_video(tmp_path / "a.mp4", moving_pictures(4))
    _, expected, _ = read(str(file))
    reader, frames, _ = read(BytesIO(file.read_bytes()))
    assert torch.equal(frames, expected)
    assert torch.equal(torch.stack([frame.picture for frame in reader.frames()]), expected)  # and again


def test_a_window_of_time_is_the_hosts(tmp_path):
    file = write_video(tmp_path / "a.mp4", moving_pictures(48), options={"g": "10"})
    reader, frames, times = read(str(file), start=0.5, duration=1.0)
    assert torch.equal(frames, host_frames(file, start_time=0.5, duration=1.0))
    assert times[0] == 0
    assert len(times) == reader.form.frames == 24


def test_skipped_frames_change_nothing_about_the_rest(tmp_path):
    file = write_video(tmp_path / "a.mp4", moving_pictures(12))
    frames = list(FileReader(str(file)).frames())
    rest = list(FileReader(str(file)).frames(skip=5))
    assert [frame.time for frame in rest] == [frame.time for frame in frames[5:]]
    assert all(torch.equal(one.picture, other.picture) for one, other in zip(rest, frames[5:], strict=True))


def test_a_truncated_file_gives_what_is_there_and_says_what_is_missing(tmp_path):
    file = write_video(tmp_path / "a.mkv", moving_pictures(72), options={"crf": "10", "g": "12"})
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    reader, frames, _ = read(str(file))
    assert 10 < len(frames) < 60
    assert any("could be read; the file says 72 (3.0 s)." in fault for fault in reader.faults)


def test_damaged_packets_are_left_out_and_counted(tmp_path):
    file = write_video(
        tmp_path / "a.mkv", moving_pictures(48), "ffv1", "bgr0", options={"slicecrc": "1", "g": "1"}
    )
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 40000] = bytes(40000)
    file.write_bytes(content)
    reader, frames, times = read(str(file))
    assert 0 < len(frames) < 48
    assert times == sorted(set(times))
    assert reader.faults


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"no video",
            r"video: expected a file that can be opened, got a\.mp4 \(.+\)\. Check that it is an undamaged video\.",
        ),
        (None, r"video: expected a file with a video stream, got one without\. Choose another file\."),
    ],
    ids=["no video at all", "only sound"],
)
def test_what_is_no_video_is_an_error_message(tmp_path, content, message):
    file = tmp_path / "a.mp4"
    if content is None:
        import av

        with av.open(str(file), "w") as output:
            stream = output.add_stream("aac", rate=48000, layout="mono")
            frame = av.AudioFrame.from_ndarray(torch.zeros(1, 1024).numpy(), format="fltp", layout="mono")
            frame.sample_rate = 48000
            output.mux([*stream.encode(frame), *stream.encode(None)])
    else:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        FileReader(str(file))


def test_an_animation_that_cannot_be_decoded_is_an_error_message(tmp_path):
    pictures = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    pictures[0].save(tmp_path / "a.webp", save_all=True, append_images=pictures[1:])
    with pytest.raises(
        ValueError, match=r"video: expected a video that the installed av package can decode, got webp\."
    ):
        FileReader(str(tmp_path / "a.webp"))
