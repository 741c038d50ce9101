"""Any channels through any network, and transparency without a fringe."""

from __future__ import annotations

import pytest
import torch
from megapixel.scaling.resample import Axis, resample_axis
from megapixel.upscale.channels import ALPHA, Channels

HAS, TAKES = (1, 2, 3, 4), (1, 3, 4)


def nearest(pictures):
    return pictures.repeat_interleave(2, -2).repeat_interleave(2, -1)


def lanczos(pictures):
    """A network that mixes neighbours, and overshoots no more than clamping takes away."""
    for dimension in (-2, -1):
        size = pictures.shape[dimension]
        pictures = resample_axis(pictures, dimension, Axis(size, 2 * size), 0, 0, 2 * size)
    return pictures.clamp(0, 1)


def enlarge(picture, channels, network):
    taken = channels.split(picture)
    assert taken.shape[1] == channels.takes
    return channels.join(network(taken), picture)


@pytest.fixture
def seen(draw):
    """A function (channels) that draws a picture of which all is visible, in part at least."""
    return lambda has: 0.3 + 0.4 * draw(1, has, 21, 34, seed=has)


@pytest.mark.parametrize("alpha", ALPHA)
@pytest.mark.parametrize("takes", TAKES)
@pytest.mark.parametrize("has", HAS)
def test_every_picture_goes_through_every_network(seen, has, takes, alpha):
    channels = Channels(has, takes, alpha)
    enlarged = enlarge(seen(has), channels, nearest)
    assert enlarged.shape == (1, channels.result, 42, 68)
    colours = channels.colours
    torch.testing.assert_close(enlarged[:, :colours], nearest(seen(has))[:, :colours], atol=1e-6, rtol=0)


@pytest.mark.parametrize("takes", TAKES)
@pytest.mark.parametrize("has", [2, 4])
def test_alpha_through_the_model_comes_out_as_the_model_made_it(seen, has, takes):
    enlarged = enlarge(seen(has), Channels(has, takes), nearest)
    torch.testing.assert_close(enlarged[:, -1], nearest(seen(has))[:, -1], atol=1e-6, rtol=0)


@pytest.mark.parametrize(("has", "takes"), [(2, 1), (2, 3), (2, 4), (4, 1), (4, 3)])
def test_resampled_alpha_never_meets_the_model(seen, has, takes):
    enlarged = enlarge(seen(has), Channels(has, takes, "resample"), nearest)
    torch.testing.assert_close(enlarged[:, -1:], lanczos(seen(has)[:, -1:]), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("has", "result"), [(1, 1), (2, 1), (3, 3), (4, 3)])
def test_dropping_leaves_only_transparency_out(has, result):
    assert Channels(has, 3, "drop").result == result


def test_equal_channels_pass_as_they_are(seen):
    channels = Channels(3, 3)
    assert channels.unchanged
    assert channels.split(seen(3)).shape == (1, 3, 21, 34)


@pytest.mark.parametrize(
    ("has", "takes", "pictures"), [(3, 1, 3), (4, 1, 4), (2, 1, 2), (2, 3, 2), (4, 3, 2), (1, 3, 1)]
)
def test_a_picture_becomes_no_more_pictures_than_it_must(seen, has, takes, pictures):
    assert Channels(has, takes).split(seen(has)).shape == (pictures, takes, 21, 34)


@pytest.mark.parametrize("alpha", ["model", "resample"])
@pytest.mark.parametrize("takes", [1, 3])
@pytest.mark.parametrize("has", [2, 4])
def test_opaque_alpha_stays_exactly_1(seen, has, takes, alpha):
    picture = seen(has)
    picture[:, -1] = 1
    channels = Channels(has, takes, alpha)
    enlarged = enlarge(picture, channels, lambda taken: nearest(taken) * 0.99)
    assert bool((enlarged[:, -1] == 1).all())
    assert len(channels.split(picture)) == (has - 1 if takes == 1 else 1)


def disc(size=41):
    """Return a white disc on transparent black, its edge partly transparent."""
    across = torch.arange(size) - size // 2
    distance = (across[:, None] ** 2 + across[: size - 4] ** 2).float().sqrt()
    alpha = (size / 3 - distance).clamp(0, 1)[None, None]
    return torch.cat([(alpha > 0).float().expand(1, 3, -1, -1), alpha], dim=1)


@pytest.mark.parametrize("takes", [1, 3])
@pytest.mark.parametrize("alpha", ["model", "resample"])
def test_a_white_disc_on_transparent_black_keeps_a_white_edge(takes, alpha):
    picture = disc()
    spoiled = lanczos(picture)
    visible = spoiled[:, 3:].expand(-1, 3, -1, -1) > 0
    assert float(spoiled[:, :3][visible].min()) < 0.6  # what a network makes of it without filling
    enlarged = enlarge(picture, Channels(4, takes, alpha), lanczos)
    assert float(enlarged[:, :3][enlarged[:, 3:].expand(-1, 3, -1, -1) > 0].min()) > 1 - 1e-6
    # Where alpha is resampled, what overshoots is cut off after each axis.
    torch.testing.assert_close(
        enlarged[:, 3:], spoiled[:, 3:], atol=0.05 if alpha == "resample" else 1e-6, rtol=0
    )


@pytest.mark.parametrize(("has", "takes", "start"), [
    (0, 3, "image: expected 1 to 4 channels (grey, RGB, with or without alpha), got 0. "),
    (5, 3, "image: expected 1 to 4 channels (grey, RGB, with or without alpha), got 5. "),
    (3, 2, "upscale_model: expected a model for images with 1, 3 or 4 channels, got one for 2. "),
    (3, 12, "upscale_model: expected a model for images with 1, 3 or 4 channels, got one for 12. "),
])  # fmt: skip
def test_wrong_channels_are_one_sentence(has, takes, start):
    with pytest.raises(ValueError, match=r"expected") as raised:
        Channels(has, takes)
    assert str(raised.value).startswith(start)
    assert "\n" not in str(raised.value)
