"""Bytes as pictures: what goes in comes out of every transport, and what broke off is left out."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
import torch
from megapixel.segs.carrier import carry_bytes, read_deliveries
from PIL import Image


def png(frame, levels):
    """Return a frame (H, W, C) as a PNG of 8 bits brings it,
    whose levels are made as given; without alpha.
    """
    values = levels(frame[..., :3].numpy().astype(np.float32) * 255).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(values.squeeze()).save(file, "PNG")
    read = np.array(Image.open(file).convert("RGB")).astype(np.float32) / 255
    return torch.from_numpy(read)


def through(batch, levels):
    return torch.stack([png(frame, levels) for frame in batch])


TRANSPORTS = {
    "float32": (lambda batch: batch, 0.0),
    "float16": (lambda batch: batch.half(), 0.0),
    "truncated PNG": (lambda batch: through(batch, np.floor), 0.5),
    "rounded PNG": (lambda batch: through(batch, np.round), 0.0),
    "clamped": (lambda batch: batch.clamp(0, 1), 0.0),
}
CHANNELS = {"RGB": 3, "RGBA": 4, "grey": 1}


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("channels", CHANNELS.values(), ids=CHANNELS)
@pytest.mark.parametrize("length", [0, 1, 500, 4000])
def test_bytes_survive_every_transport(transport, channels, length, noise):
    if channels == 1 and "PNG" in transport:
        pytest.skip("a PNG of grey frames comes back with three channels")
    data = random.Random(length).randbytes(length) if length != 500 else bytes(range(250)) * 2
    send, offset = TRANSPORTS[transport]
    picture = noise(2, 17, 31, channels)
    carried = carry_bytes(data, picture)
    assert carried.shape[1:] == picture.shape[1:]
    [delivery] = read_deliveries(send(torch.cat([picture, carried])))
    assert (delivery.data, delivery.pictures, delivery.offset) == (data, [0, 1], offset)


def test_several_rows_come_one_after_another_and_one_that_broke_off_takes_its_pictures_with_it(noise):
    rows = []
    for number in range(4):
        picture = noise(1, 9, 15, 3, seed=number)
        rows.append(torch.cat([picture, carry_bytes(bytes([number]) * 1000, picture)]))
    assert len(rows[0]) > 3
    whole = list(read_deliveries(torch.cat(rows)))
    assert [delivery.data[0] for delivery in whole] == [0, 1, 2, 3]
    rows[1] = rows[1][:-1]
    rows[2][2, 5, 5, 0] += 0.1  # changed on the way
    torn = list(read_deliveries(torch.cat(rows)))
    assert [delivery.data[0] for delivery in torn] == [0, 3]
    assert torch.equal(torch.cat(rows)[torn[1].pictures], noise(1, 9, 15, 3, seed=3))


def test_pictures_alone_are_no_row(noise):
    assert list(read_deliveries(noise(3, 9, 15, 3))) == []
    assert list(read_deliveries(torch.zeros(2, 3, 4, 1))) == []


def test_a_picture_without_room_is_an_error_message():
    with pytest.raises(ValueError, match=r"image: expected an image of more than 29 values, got 3x3\. "):
        carry_bytes(b"a", torch.zeros(1, 3, 3, 3))
