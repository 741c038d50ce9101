"""Whole pictures through real networks: tiled equals untiled, and what is told on the way."""

from __future__ import annotations

import math
from itertools import pairwise, product

import comfy.utils
import pytest
import torch
from megapixel.upscale.network import Network
from megapixel.upscale.upscaler import Hooks, Options, upscale_pictures
from spandrel import ModelTiling

from devhost.tiny.random_upscalers import pictures, random_upscaler

CPU = torch.device("cpu")
PLENTY, SCARCE = 1e15, 1e5
EQUAL = 1e-6

# Picture and tiles of every architecture that looks a limited way; a tile may be enlarged to hold its margins.
EXACT = {
    "Compact 16x4": ((1, 3, 277, 339), (128, 192, 256)),
    "Compact 16x4 large": ((1, 3, 613, 1103), (512,)),
    "Compact 64x16": ((2, 3, 97, 121), (64,)),
    "Compact 64x32": ((1, 3, 113, 189), (128,)),
    "SPAN 48": ((1, 3, 95, 137), (64,)),
    "ESRGAN 32x2": ((1, 3, 69, 113), (64,)),
    "ESRGAN 32x2 2x": ((2, 3, 137, 219), (64, 96)),
    "DnCNN": ((1, 1, 95, 137), (64,)),
    "SwinIR": ((1, 3, 101, 163), (128,)),
    "Swin2SR": ((1, 3, 101, 163), (128,)),
    "SAFMN": ((1, 3, 133, 275), (192,)),
    "SwiftSRGAN 4": ((1, 3, 67, 105), (64,)),
    "DITN 1": ((1, 3, 67, 141), (96,)),
    "PLKSR 4": ((1, 3, 41, 131), (32,)),
    "RealPLKSR 2 layer norm": ((1, 3, 37, 105), (64,)),
}

MEASURED: dict[str, dict] = {}  # once for all tests


def load(descriptor, device):
    descriptor.model.to(device)


def ready(name):
    """Return a descriptor and the network made of it."""
    descriptor = random_upscaler(name)
    return descriptor, Network(descriptor, [CPU], load, store=MEASURED.setdefault(name, {}))


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.inference_mode():
        yield


def largest(difference):
    return float(difference.abs().max())


def untiled(descriptor, picture):
    whole = descriptor(picture.clone())
    assert 0 < float(whole.min()) < float(whole.max()) < 1, "a clamp would hide differences"
    return whole


class TestEquality:
    @pytest.mark.parametrize("case", EXACT)
    def test_tiled_equals_untiled(self, case):
        shape, tiles = EXACT[case]
        descriptor, network = ready(case.removesuffix(" large"))
        picture = pictures(*shape)
        whole = untiled(descriptor, picture)
        for tile in tiles:
            said = []
            enlarged = upscale_pictures(
                picture, network, Options(tile=tile), Hooks(lambda: PLENTY, log=said.append)
            )
            assert said[-1].count("exact") == 1
            assert int(said[-1].split(" in ")[1].split()[0]) > 1
            assert largest(enlarged - whole) <= EQUAL

    @pytest.mark.parametrize("case", ["Compact 16x4", "SPAN 48", "SwinIR", "ESRGAN 32x2"])
    def test_the_hosts_way_does_not(self, case):
        shape, _ = EXACT[case]
        descriptor, _ = ready(case)
        picture = pictures(*shape)
        host = comfy.utils.tiled_scale(
            picture, descriptor, 64, 64, overlap=32, upscale_amount=descriptor.scale
        )
        assert largest(host - untiled(descriptor, picture)) > 1000 * EQUAL

    def test_what_looks_at_the_whole_picture_is_mixed_and_says_so(self):
        descriptor, network = ready("OmniSR")
        picture, said = pictures(1, 3, 101, 163), []
        enlarged = upscale_pictures(
            picture, network, Options(tile=128), Hooks(lambda: PLENTY, log=said.append)
        )
        assert "blended" in said[0]
        assert largest(enlarged - untiled(descriptor, picture)) <= 2e-2

    @pytest.mark.parametrize("case", ["OmniSR", "DAT"])
    def test_it_is_in_one_piece_where_that_fits(self, case):
        shape = (1, 3, 61, 83)
        descriptor, network = ready(case)
        picture, said = pictures(*shape), []
        enlarged = upscale_pictures(picture, network, Options(), Hooks(lambda: PLENTY, log=said.append))
        assert said == [f"{shape[3]}x{shape[2]} in one piece"]
        assert largest(enlarged - untiled(descriptor, picture)) <= EQUAL

    @pytest.mark.parametrize("name", ["ESRGAN 32x2", "ESRGAN 32x2 2x"])
    def test_a_trunk_that_does_not_fit_is_tiled_and_equal_too(self, name):
        descriptor, network = ready(name)
        picture = pictures(1, 3, 69, 219 if network.shuffle == 1 else 439)
        said = []
        enlarged = upscale_pictures(picture, network, Options(), Hooks(lambda: SCARCE, log=said.append))
        assert all("tiles" in stage and "exact" in stage for stage in said)
        assert len(said) == 2
        assert largest(enlarged - untiled(descriptor, picture)) <= EQUAL


class TestSizes:
    @pytest.mark.parametrize("channels", [1, 2, 3, 4])
    @pytest.mark.parametrize(
        ("name", "size"),
        [
            *product(["Compact 16x4"], [None, (150, 201), (39, 44)]),
            ("ESRGAN 32x2 2x", None),
            ("DnCNN", (39, 44)),
        ],
    )
    def test_are_exact_with_every_count_of_channels(self, name, channels, size):
        descriptor, network = ready(name)
        picture = pictures(2, channels, 37, 53)
        enlarged = upscale_pictures(picture, network, Options(size=size, tile=32), Hooks(lambda: PLENTY))
        expected = size or (37 * descriptor.scale, 53 * descriptor.scale)
        assert enlarged.shape == (2, channels, *expected)
        assert bool(enlarged.isfinite().all())
        assert 0 <= float(enlarged.min()) <= float(enlarged.max()) <= 1

    @pytest.mark.parametrize("channels", [1, 2, 3, 4])
    def test_of_one_pixel(self, channels):
        for name in ("Compact 16x4", "ESRGAN 32x2 2x"):
            descriptor, network = ready(name)
            enlarged = upscale_pictures(
                pictures(1, channels, 1, 1), network, Options(), Hooks(lambda: PLENTY)
            )
            assert enlarged.shape == (1, channels, descriptor.scale, descriptor.scale)

    def test_no_tile_changes_a_resized_result(self):
        for name in ("Compact 16x4", "ESRGAN 32x2 2x"):
            _, network = ready(name)
            picture = pictures(1, 3, 91, 119)
            for size in ((150, 201), (701, 503)):
                whole = upscale_pictures(
                    picture, network, Options(size=size, tile=1000), Hooks(lambda: PLENTY)
                )
                tiled = upscale_pictures(picture, network, Options(size=size, tile=32), Hooks(lambda: PLENTY))
                assert largest(tiled - whole) <= EQUAL


PROGRESS = {
    "plain": ("Compact 16x4", (1, 3, 90, 130)),
    "several frames": ("Compact 16x4", (3, 3, 60, 70)),
    "grey": ("Compact 16x4", (1, 1, 60, 70)),
    "with transparency": ("Compact 16x4", (2, 4, 60, 70)),
    "grey network, RGBA": ("DnCNN", (1, 4, 60, 70)),
    "two parts": ("ESRGAN 32x2", (1, 3, 60, 70)),
    "two parts, several frames with transparency": ("ESRGAN 32x2 2x", (2, 4, 90, 130)),
}


class TestProgress:
    @pytest.mark.parametrize("case", PROGRESS)
    def test_grows_to_one_and_shows_every_part(self, case):
        name, shape = PROGRESS[case]
        _, network = ready(name)
        told = []
        enlarged = upscale_pictures(
            pictures(*shape), network, Options(tile=64), Hooks(lambda: PLENTY, report=told.append)
        )
        shares = [step.share for step in told]
        assert all(before <= after for before, after in pairwise(shares))
        assert (shares[0], shares[-1]) == (0, pytest.approx(1))
        for before, after in pairwise(told):  # what is foretold comes true, or a new stage begins
            assert after.share == pytest.approx(before.share + before.ahead) or (
                after.share == pytest.approx(before.share) and after.part is None
            )
        assert len(shares) > shape[0]
        assert sorted({step.picture for step in told}) == list(range(shape[0]))
        assert [step.picture for step in told] == sorted(step.picture for step in told)
        for picture in range(shape[0]):
            parts = [step for step in told if step.picture == picture and step.part is not None]
            # The parts cover the picture: their boxes add up to all of it.
            assert sum(step.box.area / math.prod(step.size) for step in parts) == pytest.approx(1)
        if shape[1] == 3:
            for step in told:
                if step.part is not None:
                    box = step.box.scaled(step.size, enlarged.shape[2:])
                    assert torch.equal(step.part, enlarged[step.picture][:, box.rows, box.columns])

    def test_a_trunk_has_nothing_to_show_but_its_share(self):
        _, network = ready("ESRGAN 32x2")
        told = []
        upscale_pictures(
            pictures(1, 3, 60, 70), network, Options(tile=64), Hooks(lambda: PLENTY, report=told.append)
        )
        start, trunk, tail, *rest = told
        assert [step.part for step in (start, trunk, tail)] == [None] * 3
        assert [start.share, trunk.share, tail.share] == pytest.approx([0, *[network.work_shares[0]] * 2])
        assert start.ahead == pytest.approx(network.work_shares[0])
        assert rest
        assert all(step.part is not None for step in rest)

    def test_what_it_raises_ends_the_work(self):
        class Enough(Exception):
            pass

        told = []

        def stop(step):
            told.append(step)
            if step.part is not None:
                raise Enough

        _, network = ready("Compact 16x4")
        with pytest.raises(Enough):
            upscale_pictures(
                pictures(1, 3, 90, 130), network, Options(tile=32), Hooks(lambda: PLENTY, report=stop)
            )
        assert [step.part is None for step in told] == [True, False]


def test_a_model_that_tiles_itself_is_given_one_piece():
    descriptor = random_upscaler("Compact 16x4")
    descriptor.tiling = ModelTiling.INTERNAL
    network = Network(descriptor, [CPU], load)
    seen, said = [], []
    network.modules[0].register_forward_pre_hook(lambda module, given: seen.append(tuple(given[0].shape)))
    picture = pictures(2, 3, 90, 130)
    enlarged = upscale_pictures(picture, network, Options(tile=32), Hooks(lambda: SCARCE, log=said.append))
    assert seen == [(1, 3, 90, 130)] * 2
    assert said == ["130x90 in one piece"]
    assert largest(enlarged - untiled(descriptor, picture)) <= EQUAL


def test_several_pictures_are_the_same_as_each_alone():
    for name in ("Compact 16x4", "ESRGAN 32x2"):
        _, network = ready(name)
        batch = pictures(3, 3, 61, 83)
        given = network, Options(tile=64), Hooks(lambda: PLENTY)
        alone = torch.cat([upscale_pictures(picture, *given) for picture in batch.split(1)])
        assert torch.equal(upscale_pictures(batch, *given), alone)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_result_has_the_wanted_type_and_the_picture_any(dtype):
    descriptor, network = ready("Compact 16x4")
    picture = pictures(2, 3, 45, 70).to(dtype)
    enlarged = upscale_pictures(picture, network, Options(tile=32, dtype=dtype), Hooks(lambda: PLENTY))
    assert enlarged.dtype == dtype
    expected = untiled(descriptor, picture.float()).to(dtype)
    # Where float32 differs in its last bit, rounding may go either way.
    assert largest(enlarged.float() - expected.float()) <= torch.finfo(dtype).eps
    assert float((enlarged != expected).float().mean()) < 1e-3
