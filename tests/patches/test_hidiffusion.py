from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch
from comfy.samplers import calculate_sigmas
from megapixel.patches.deep_shrink import DeepShrink, apply_deep_shrink
from megapixel.patches.hidiffusion import HiDiffusion, apply_hidiffusion
from megapixel.patches.model_call import first_call
from megapixel.patches.rau_net import apply_rau_net
from megapixel.patches.rau_net_published import Published
from megapixel.patches.run_plan import plan_run

from devhost.sampling import sample
from devhost.tiny import random_models

TRAINED = 128  # px: 16 latent pixels


def states(model, size, steps=20):
    """Return the marks of input blocks by step: what is on."""
    plan = plan_run(model, size, torch.linspace(10.0, 0.0, steps + 1))
    return [
        {
            place: ", ".join(words for _, words in marks)
            for place, marks in step.marks.items()
            if place[0] == "input"
        }
        for step in plan.steps
    ]


@pytest.mark.parametrize("mode", ["auto", "published"])
@pytest.mark.parametrize("size", [(16, 16), (18, 14), (12, 20), (19, 19)], ids=str)
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_at_the_trained_size_the_bits_are_those_of_the_plain_model(request, family, size, mode):
    plain = request.getfixturevalue(family)
    ours = apply_hidiffusion(plain, HiDiffusion(mode=mode, trained_size=TRAINED))
    assert torch.equal(sample(ours, size), sample(plain, size))


@pytest.mark.parametrize(
    ("family", "size"),
    [("sd15", (32, 32)), ("sd15", (24, 48)), ("sdxl", (33, 47)), ("sdxl", (20, 32))],
    ids=str,
)
def test_above_it_the_picture_changes_and_repeats(request, family, size):
    plain = request.getfixturevalue(family)
    ours = apply_hidiffusion(plain, HiDiffusion(trained_size=TRAINED))
    first = sample(ours, size, steps=4, seed=3)
    assert first.isfinite().all()
    assert torch.equal(first, sample(ours, size, steps=4, seed=3))
    assert not torch.equal(first, sample(plain, size, steps=4, seed=3))


@pytest.mark.parametrize("size", [(32, 32), (31, 48), (64, 52)], ids=str)
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_without_its_windows_auto_is_deep_shrink(request, family, size):
    plain = request.getfixturevalue(family)
    ours = apply_hidiffusion(plain, HiDiffusion(windows="off", trained_size=TRAINED))
    shrunk = apply_deep_shrink(plain, DeepShrink(mode="auto", trained_size=TRAINED))
    assert torch.equal(sample(ours, size, steps=4, cfg=1.0), sample(shrunk, size, steps=4, cfg=1.0))


def test_published_sdxl_has_the_published_order(sdxl):
    on = states(apply_hidiffusion(sdxl, HiDiffusion(mode="published", windows="off")), (160, 256))
    assert on == [{("input", 6): "stride 4"}] * 3 + [{("input", 4): "pool 2"}] * 5 + [{}] * 12


def test_a_published_turbo_model_has_the_pool_alone(sdxl):
    published = HiDiffusion(mode="published", windows="off", trained_size=512)
    on = states(apply_hidiffusion(sdxl, published), (128, 128), steps=4)
    assert on == [{("input", 4): "pool 2"}] * 2 + [{}] * 2


def test_published_is_the_published_schedule(sd15):
    ours = apply_hidiffusion(sd15, HiDiffusion(mode="published", windows="off", trained_size=TRAINED))
    published = apply_rau_net(sd15, Published())
    assert torch.equal(sample(ours, steps=5), sample(published, steps=5))


@pytest.mark.parametrize(
    ("settings", "words"),
    [({}, "4x4 windows"), ({"windows": "2x2"}, "2x2 windows"), ({"mode": "published"}, "2x2 windows"),
     ({"mode": "published", "windows": "native"}, "4x4 windows"), ({"windows": "off"}, None)],
)  # fmt: skip
def test_windows_follow_the_mode_unless_they_are_chosen(sd15, settings, words):
    on = states(apply_hidiffusion(sd15, HiDiffusion(trained_size=TRAINED, **settings)), (64, 64))
    marks = [step.get(("input", 1), "") for step in on]
    assert {mark for mark in marks if "windows" in mark} == ({words} if words else set())


@pytest.mark.parametrize("windows", ["auto", "2x2"])
@pytest.mark.parametrize(
    ("mode", "size", "start", "end"),
    [
        ("auto", (32, 32), 0.0, 0.8),
        ("auto", (43, 43), 0.0, 0.8),  # two windows to a side, not three
        ("auto", (16, 44), 0.5, 0.8),
        ("auto", (64, 64), 0.5, 0.8),
        ("published", (64, 64), 0.0, 1.0),
    ],
)
def test_windows_of_auto_begin_late_where_there_are_many_and_end_early(sd15, mode, size, start, end, windows):
    model = apply_hidiffusion(sd15, HiDiffusion(mode=mode, windows=windows, trained_size=TRAINED))
    sampling = model.get_model_object("model_sampling")
    sigmas = calculate_sigmas(sampling, "normal", 20)
    steps = plan_run(model, size, sigmas).steps
    with_windows = [any("windows" in str(mark) for mark in step.marks.values()) for step in steps]
    first, last = (sampling.percent_to_sigma(share) for share in (start, end))
    assert with_windows == [last <= sigma <= first for sigma in sigmas[:-1].tolist()]
    assert with_windows.count(True) == {0.0: 16, 0.5: 6}[start] + (4 if mode == "published" else 0)


def test_the_family_tells_the_trained_size(sd15, sdxl):
    for model, side in ((sd15, 64), (sdxl, 128)):
        assert not any(states(apply_hidiffusion(model, HiDiffusion()), (side, side)))
        assert all(states(apply_hidiffusion(model, HiDiffusion()), (2 * side, side * 2))[:-1])


def test_one_line_says_what_was_chosen_or_why_nothing(sd15, caplog):
    model = apply_hidiffusion(sd15, HiDiffusion(trained_size=TRAINED))
    with caplog.at_level(logging.INFO, "megapixel"):
        sample(model, (32, 32))
        sample(model, (16, 48), steps=6)
        sample(model, (16, 16))
    large, wide, small = (record.message for record in caplog.records if record.name == "megapixel")
    assert "block_number 3, downscale_factor 2, start_percent 0, end_percent 0.35, fade_percent 0" in large
    assert "start_time 0, end_time 0.8, windows native" in large
    assert "start_time 0.5, end_time 0.8, windows native" in wide
    assert small.count("nothing to do") == small.count("not clearly above the trained size") == 2


def test_a_model_without_a_known_size_and_one_without_blocks_are_told_apart(sd15, monkeypatch):
    with pytest.raises(ValueError, match=r"^model: expected an SD 1\.x, .*, got Flux\. "):
        apply_hidiffusion(random_models.flux(), HiDiffusion())
    monkeypatch.setattr(sd15.model, "latent_format", object())
    with pytest.raises(ValueError, match=r"^trained_size: expected a size in pixels"):
        apply_hidiffusion(sd15, HiDiffusion())


def test_a_controlnet_lengthens_the_published_phase_of_sdxl(sdxl):
    call = first_call(sdxl, (256, 256), torch.linspace(10, 0, 21))
    with_control = Published().settings(replace(call, has_control=True))
    assert (with_control.ca_end_time, Published().settings(call).ca_end_time) == (0.5, 0.4)
