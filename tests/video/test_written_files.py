"""Parts and what they are joined to: every codec, real times, sound, colours,
and an interruption that leaves no trace.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from megapixel.video.codecs import CODECS, choose_encoding, fitting_size
from megapixel.video.colour import Colour
from megapixel.video.file_reader import FileReader
from megapixel.video.frame import VideoFormat
from megapixel.video.join import join
from megapixel.video.parts import Parts
from megapixel.video.sound import FileSound, WaveSound

from devhost.tiny.videos import colours_of, moving_pictures, sound_of, times_of, write_video

FORM = VideoFormat(68, 120, Fraction(1, 24000), Fraction(24), frames=30)
TIMES = [1000 * index + (index % 3) * 150 for index in range(30)]  # no two steps alike
PICTURES = moving_pictures(30)
TONE = torch.sin(torch.arange(60000) / 20).expand(2, -1)


def encode(folder, codec, form=FORM, quality=-1, frames=8, pictures=PICTURES, start=0):
    """Return the parts of all pictures from `start` on."""
    parts = Parts(folder, choose_encoding(codec, quality, form, *pictures.shape[-2:], []), frames)
    for picture, time in list(zip(pictures, TIMES, strict=False))[start:]:
        parts.write(picture, time, 1000)
    parts.close()
    return parts


def written(folder, codec, sound=None, **settings):
    target = folder / f"video{CODECS[codec].suffix}"
    join(encode(folder / "parts", codec, **settings).closed, target, FORM.time_base, sound)
    return target


def frames_of(file):
    return torch.stack([frame.picture for frame in FileReader(str(file)).frames()])


@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_keeps_pictures_times_and_bits(tmp_path, codec, bits):
    file = written(tmp_path, codec, form=replace(FORM, bits=bits))
    frames, times = frames_of(file), times_of(file)
    assert len(frames) == len(PICTURES)
    assert (frames - PICTURES).abs().mean() < 4 / 255
    # MP4 and MOV have the source's time base, Matroska and WebM count milliseconds.
    tolerance = 0 if file.suffix in (".mp4", ".mov") else Fraction(1, 2000)
    assert all(
        abs(time - Fraction(given, 24000)) <= tolerance for time, given in zip(times, TIMES, strict=True)
    )
    assert FileReader(str(file)).form.bits == (10 if codec == "prores" else 8 if codec == "vp9" else bits)


@pytest.mark.parametrize("bits", [8, 10])
def test_ffv1_keeps_every_number(tmp_path, bits):
    top = 2**bits - 1
    file = written(tmp_path, "ffv1", form=replace(FORM, bits=bits))
    with av.open(str(file)) as opened:
        numbers = torch.stack([numbers_of(frame) for frame in opened.decode(video=0)])
    assert torch.equal(numbers, (PICTURES * top).round().int())


def numbers_of(frame):
    """Return the integers of a decoded frame, (3, H, W)."""
    if frame.format.name != "bgr0":
        return torch.from_numpy(frame.to_ndarray().astype("int32")).movedim(-1, 0)
    rows = np.frombuffer(frame.planes[0], np.uint8).reshape(frame.height, -1)[:, : 4 * frame.width]
    return torch.from_numpy(rows.reshape(frame.height, frame.width, 4)[..., 2::-1].astype("int32")).movedim(
        -1, 0
    )


@pytest.mark.parametrize("codec", ["h264", "h265", "vp9", "av1"])
@pytest.mark.parametrize(
    "colour",
    [Colour(1, 1, 1, 1), Colour(9, 1, 9, 16), Colour(6, 2, 6, 6)],
    ids=["BT.709", "HDR", "full range"],
)
def test_colours_are_tagged_as_they_are_written(tmp_path, codec, colour):
    file = written(tmp_path, codec, form=replace(FORM, colour=colour, bits=8), quality=5)
    assert colours_of(file)[:4] == (colour.range, colour.matrix, colour.primaries, colour.transfer)
    assert (frames_of(file) - PICTURES).abs().mean() < 3.5 / 255  # another matrix or range would be far off


def test_a_lower_quality_number_is_a_larger_file(tmp_path):
    good, poor = (
        written(tmp_path / name, "h264", quality=quality) for name, quality in (("good", 10), ("poor", 45))
    )
    assert good.stat().st_size > 2 * poor.stat().st_size


@pytest.mark.parametrize(
    ("codec", "quality", "message"),
    [
        ("h264", 60, r"quality: expected -1 to 51 for h264, got 60\. The default is 23\."),
        ("ffv1", 10, r"quality: expected -1 for ffv1, which is lossless, got 10\."),
    ],
)
def test_a_quality_out_of_range_is_an_error_message(codec, quality, message):
    with pytest.raises(ValueError, match=message):
        choose_encoding(codec, quality, FORM, 68, 120, [])


def test_an_encoder_that_is_not_installed_is_an_error_message(monkeypatch):
    monkeypatch.setitem(CODECS, "h264", replace(CODECS["h264"], encoders=("no_such_encoder",)))
    with pytest.raises(
        ValueError, match=r"codec: expected a codec that the installed av package can write, got h264"
    ):
        choose_encoding("h264", -1, FORM, 68, 120, [])


def test_what_cannot_be_kept_is_noted():
    notes = []
    choose_encoding("vp9", -1, replace(FORM, bits=10), 68, 120, notes)
    assert notes == ["libvpx-vp9 writes 8 bits here, the source has 10. h265 and av1 keep 10."]


def test_odd_sizes_become_even_where_colours_are_shared():
    assert [fitting_size(codec, 67, 119) for codec in ("h264", "prores", "ffv1")] == [
        (68, 120), (67, 120), (67, 119),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("codec", "sound"), [("h264", "aac"), ("ffv1", "aac"), ("prores", "aac"), ("vp9", "libopus")]
)
def test_sound_is_copied_packet_by_packet(tmp_path, codec, sound):
    source = write_video(tmp_path / ("a.mp4" if sound == "aac" else "a.webm"), PICTURES,
                         *(() if sound == "aac" else ("libvpx-vp9",)), sound=sound)  # fmt: skip
    given = FileSound(str(source))
    file = written(tmp_path, codec, given)
    copied, original = sound_of(file), sound_of(source)
    assert given.notes == []
    assert abs(times_of(file)[-1] - Fraction(TIMES[-1], 24000)) <= Fraction(1, 2000)  # it moves no picture
    if codec == "ffv1":  # Matroska has no times before 0, where AAC's first packet lies
        original = original[1:]
    assert [content for _, content in copied] == [content for _, content in original]
    tolerance = 0 if codec in ("h264", "prores") else 0.001
    times = zip((time for time, _ in copied), (time for time, _ in original), strict=True)
    assert max(abs(one - other) for one, other in times) <= tolerance


def test_sound_that_the_container_cannot_hold_is_encoded_again_and_said(tmp_path):
    source = write_video(tmp_path / "a.mp4", PICTURES, sound="aac")
    given = FileSound(str(source))
    packets = sound_of(written(tmp_path, "vp9", given))
    assert given.notes == ["This file type cannot contain aac audio: encoded again as libopus."]
    assert packets[-1][0] == pytest.approx(sound_of(source)[-1][0], abs=0.05)


@pytest.mark.parametrize("codec", ["h264", "vp9", "prores", "ffv1"])
def test_any_sound_goes_into_any_file_type(tmp_path, codec):
    parts = encode(tmp_path / "parts", codec, pictures=PICTURES[:12]).closed
    for sound, layout in (
        ("pcm_s16le", "stereo"),
        ("flac", "stereo"),
        ("flac", "2.1"),
        ("libopus", "stereo"),
        ("ac3", "5.1(side)"),
    ):
        source = write_video(tmp_path / "a.mkv", PICTURES[:12], sound=sound, layout=layout)
        target, given = tmp_path / f"video{CODECS[codec].suffix}", FileSound(str(source))
        join(parts, target, FORM.time_base, given)
        packets = sound_of(target)
        if not given.notes:
            copied, original = ([content for _, content in each] for each in (packets, sound_of(source)))
            assert copied in (original, original[1:])  # Matroska has no times before 0
            continue
        assert "audio: encoded again as" in given.notes[0]
        with av.open(str(target)) as opened:
            assert (
                opened.streams.audio[0].codec_context.layout.nb_channels == av.AudioLayout(layout).nb_channels
            )
            frames = list(opened.decode(audio=0))
        assert sum(frame.samples for frame in frames) / frames[0].sample_rate == pytest.approx(0.5, abs=0.05)


def test_a_window_of_the_sound_starts_at_zero(tmp_path):
    source = write_video(tmp_path / "a.mp4", PICTURES, sound="aac")
    packets = sound_of(written(tmp_path, "h264", FileSound(str(source), 0.5, 0.5)))
    original = [content for time, content in sound_of(source) if 0.5 <= time < 1.0]
    assert [content for _, content in packets] == original
    assert 0 <= packets[0][0] < 0.03


@pytest.mark.parametrize("rate", [48000, 11000, 192000])
def test_a_wave_becomes_sound(tmp_path, rate):
    file = written(tmp_path, "h264", WaveSound(TONE, rate), pictures=PICTURES[:12])
    with av.open(str(file)) as opened:
        seconds = sum(frame.samples / frame.sample_rate for frame in opened.decode(audio=0))
    assert seconds == pytest.approx(60000 / rate, abs=0.2)


def test_nan_in_a_wave_is_silence(tmp_path):
    wave = TONE.clone()
    wave[:, 100:200] = torch.nan
    assert sound_of(written(tmp_path, "h264", WaveSound(wave, 48000), pictures=PICTURES[:12]))


@pytest.mark.parametrize(("codec", "size"), [("h265", (2, 2)), ("av1", (2, 2))])
def test_a_size_that_the_encoder_refuses_is_an_error_message(tmp_path, codec, size):
    encoding = choose_encoding(codec, -1, FORM, *size, [])
    with pytest.raises(
        ValueError, match=r"codec: expected frames that lib\w+ can write, got 2x2 at 24 per second\."
    ):
        Parts(tmp_path, encoding)


def test_joined_after_an_interruption_the_file_is_the_same(tmp_path):
    whole = written(tmp_path / "whole", "h264")
    folder = tmp_path / "parts"
    first = Parts(folder, choose_encoding("h264", -1, FORM, 68, 120, []), 8)
    for picture, time in list(zip(PICTURES, TIMES, strict=True))[:19]:
        first.write(picture, time, 1000)
    del first  # as a killed process would leave it: two parts closed, one begun
    again = Parts(folder, choose_encoding("h264", -1, FORM, 68, 120, []), 8)
    assert (again.frames_done, again.is_complete) == (16, False)
    joined = tmp_path / "joined.mp4"
    join(encode(folder, "h264", start=16).closed, joined, FORM.time_base)
    assert joined.read_bytes() == whole.read_bytes()
    assert Parts(folder, choose_encoding("h264", -1, FORM, 68, 120, []), 8).is_complete


def test_what_an_interrupted_video_has_so_far_plays(tmp_path):
    source = write_video(tmp_path / "a.mp4", PICTURES, sound="aac")
    parts = Parts(tmp_path / "parts", choose_encoding("h264", -1, FORM, 68, 120, []), 8)
    for picture, time in list(zip(PICTURES, TIMES, strict=True))[:19]:
        parts.write(picture, time, 1000)
    file = tmp_path / "partial.mp4"
    join(parts.interrupt(), file, FORM.time_base, FileSound(str(source)), cut_sound=True)
    assert times_of(file) == [Fraction(time, 24000) for time in TIMES[:19]]
    assert sound_of(file)[-1][0] < 19 / 24 + 0.05
    assert parts.frames_done == 16


def test_tags_are_written(tmp_path):
    file = tmp_path / "a.mp4"
    join(encode(tmp_path / "parts", "h264").closed, file, FORM.time_base, metadata={"prompt": '{"1": 2}'})
    assert FileReader(str(file)).metadata["prompt"] == '{"1": 2}'


def test_a_failed_join_leaves_the_old_file(tmp_path):
    file = tmp_path / "a.mp4"
    file.write_bytes(b"old")
    parts = encode(tmp_path / "parts", "h264").closed
    parts[1].file.unlink()
    with pytest.raises(OSError, match="No such file"):
        join(parts, file, FORM.time_base)
    assert file.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.glob(".*")] == []
