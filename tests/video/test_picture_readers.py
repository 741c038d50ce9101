"""Folders of images, and frames in memory: what each kind of pixel becomes, and what is refused."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from megapixel.video.picture_readers import FolderReader, TensorReader
from PIL import Image

GREY = np.linspace(0, 60000, 6 * 10).reshape(6, 10)


def read(folder):
    reader = FolderReader(folder, Fraction(24))
    return reader, torch.stack([frame.picture for frame in reader.frames()])


def drawn(*shape):
    return (np.random.default_rng(0).random(shape) * 255).astype(np.uint8)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("kind", [np.uint16, np.int32])
def test_grey_of_16_bits_keeps_its_brightness(tmp_path, kind, suffix):
    if (kind, suffix) == (np.int32, "png"):
        pytest.skip("PNG has no 32 bits")
    Image.fromarray(GREY.astype(kind)).save(tmp_path / f"a.{suffix}")
    _, pictures = read(tmp_path)
    assert torch.allclose(pictures[0], torch.tensor(GREY / 65535).float().expand(3, -1, -1), atol=2e-5)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_photograph_is_turned_upright(tmp_path, orientation):
    image = Image.fromarray(drawn(6, 10, 3))
    exif = image.getexif()
    exif[0x112] = orientation
    image.save(tmp_path / "a.png", exif=exif)
    reader, pictures = read(tmp_path)
    expected = {
        2: lambda p: p[:, ::-1], 3: lambda p: p[::-1, ::-1], 4: lambda p: p[::-1],
        5: lambda p: p.swapaxes(0, 1), 6: lambda p: np.rot90(p, -1),
        7: lambda p: p.swapaxes(0, 1)[::-1, ::-1], 8: lambda p: np.rot90(p),
    }[orientation](drawn(6, 10, 3))  # fmt: skip
    assert torch.equal(
        (pictures[0].movedim(0, -1) * 255).round().to(torch.uint8), torch.tensor(expected.copy())
    )
    assert (reader.form.height, reader.form.width) == expected.shape[:2]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_an_opaque_alpha_channel_is_no_fault(tmp_path, mode):
    Image.fromarray(drawn(6, 10, 3)).convert(mode).save(tmp_path / "a.png")
    assert read(tmp_path)[0].faults == []
    seen = Image.fromarray(drawn(6, 10, 3)).convert("RGBA")
    seen.putpixel((9, 5), (10, 20, 30, 254))
    seen.save(tmp_path / "b.png")
    assert read(tmp_path)[0].faults == ["Transparency is removed."]


@pytest.mark.parametrize("channels", [3, 4])
def test_transparency_that_is_removed_is_a_fault(tmp_path, channels):
    for name in ("a", "b"):
        Image.fromarray(drawn(6, 10, channels)).save(tmp_path / f"{name}.png")
    reader, pictures = read(tmp_path)
    assert reader.faults == (["Transparency is removed."] if channels == 4 else [])
    assert torch.equal(
        pictures[0], torch.tensor(drawn(6, 10, channels)[..., :3] / np.float32(255)).movedim(-1, 0)
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda file: file.with_suffix(".png").write_bytes(b"none"),
            r"readable images, got a\.png \(cannot identify",
        ),
        (lambda file: file.with_suffix(".png").mkdir(), r"a folder of images \(.*\), got none in"),
        (
            lambda file: Image.fromarray(GREY.astype(np.float32)).save(file.with_suffix(".tif")),
            r"images of 8 or 16 bits, got a\.tif of floating-point numbers\.",
        ),
    ],
    ids=["no image", "a folder", "floats"],
)
def test_what_cannot_be_read_is_an_error_message(tmp_path, make, message):
    make(tmp_path / "a")
    with pytest.raises(ValueError, match=f"file: expected {message}"):
        read(tmp_path)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_frames_in_memory_become_rgb(channels):
    images = torch.tensor(drawn(2, 6, 10, channels) / np.float32(255))
    reader = TensorReader(images, Fraction(24))
    [first, _] = [frame.picture for frame in reader.frames()]
    colours = images[0, ..., :3] if channels > 2 else images[0, ..., :1].expand(-1, -1, 3)
    assert torch.equal(first.movedim(0, -1), colours)
    assert reader.faults == (["Transparency is removed."] if channels in (2, 4) else [])
    if channels in (2, 4):
        images[..., -1] = 1
        assert TensorReader(images, Fraction(24)).faults == []


@pytest.mark.parametrize(
    ("images", "rate", "message"),
    [
        (torch.zeros(2, 6, 10, 5), 24, r"frames of 1 to 4 channels, got 5\."),
        (torch.zeros(2, 6, 10, 3), 0, r"a frame rate above 0, got 0\."),
    ],
)
def test_wrong_frames_are_error_messages(images, rate, message):
    with pytest.raises(ValueError, match=f"video: expected {message}"):
        TensorReader(images, Fraction(rate))
