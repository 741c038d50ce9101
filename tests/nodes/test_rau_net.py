"""The nodes of RAU-Net on tiny real models: the known numbers, the presets, the text of older workflows."""

from __future__ import annotations

import logging
import re

import pytest
import torch
from comfy_api.latest import io
from megapixel.host.upsample import reaches_upsample
from megapixel.nodes.rau_net import RES_MODES, MegapixelRAUNet, MegapixelRAUNetSimple
from megapixel.patches.rau_net import apply_rau_net
from megapixel.patches.rau_net_published import Published
from megapixel.patches.rau_net_settings import RAUNet
from megapixel.patches.wrapper import effects_of

from devhost.sampling import sample
from devhost.tiny import random_models

MODES = ["bicubic", "bislerp", "bilinear", "nearest-exact", "nearest", "area"]
KNOWN = {
    "input_blocks": "3", "output_blocks": "8", "time_mode": "percent", "start_time": 0.0, "end_time": 0.45,
    "upscale_mode": "bicubic", "ca_start_time": 0.0, "ca_end_time": 0.3, "ca_input_blocks": "4",
    "ca_output_blocks": "8", "ca_upscale_mode": "bicubic", "ca_downscale_mode": "adaptive_avg_pool2d",
    "ca_downscale_factor": 2.0, "two_stage_upscale_mode": "disabled",
}  # fmt: skip
NO_BLOCKS = {"input_blocks": "", "output_blocks": "", "ca_input_blocks": "", "ca_output_blocks": ""}


def advanced(model, **settings):
    [patched] = MegapixelRAUNet.execute(model=model, **KNOWN | settings).args
    return patched


def simple(model, res_mode="high (1536-2048)", model_type="auto", modes=("default", "default"), **settings):
    [patched] = MegapixelRAUNetSimple.execute(
        model=model, model_type=model_type, res_mode=res_mode, upscale_mode=modes[0], ca_upscale_mode=modes[1],
        **settings,
    ).args  # fmt: skip
    return patched


def chosen(model):
    """The settings that the last node put on a model."""
    return effects_of(model)["rau_net"].recipes[-1].chosen


def shown(node, *without):
    """What a fresh node shows, by input."""
    values = {}
    for socket in node.GET_SCHEMA().inputs:
        default = getattr(socket, "default", None)
        if default is None and isinstance(socket, io.Combo.Input):
            default = socket.options[0]
        if default is not None and socket.id not in without:
            values[socket.id] = default
    return values


def logged(caplog, model, **settings):
    """Sample, and return the picture and what the log says of RAU-Net."""
    caplog.clear()
    with caplog.at_level(logging.INFO, "megapixel"):
        picture = sample(model, (32, 24), steps=10, cfg=1.0, **settings)
    [line] = [record.getMessage() for record in caplog.records if record.name == "megapixel"]
    label, _, text = line.partition("latent 32x24: ")
    assert label in ("RAU-Net: ", "RAU-Net at ")
    return picture, text


def typed(line):
    """The advanced node's inputs as a person reads them off the log:
    pairs of a name and a value, and a unit.
    """
    values = {}
    for entry in line.split(", "):
        name, value, *unit = entry.split(" ")
        if unit:
            values["time_mode"] = unit[0]
        values[name] = float(value) if re.fullmatch(r"[\d.]+", value) and "blocks" not in name else value
        if name == "ca_latent_pixel_increment":  # the host makes whole numbers of an Int input
            values[name] = int(value)
    return values


class TestKnownInputs:
    def test_they_come_first_in_their_order_with_their_defaults(self):
        sockets = MegapixelRAUNet.GET_SCHEMA().inputs
        names = [socket.id for socket in sockets]
        assert names[:16] == ["model", *KNOWN, "yaml_parameters"]
        assert [socket.id for socket in sockets if not socket.optional] == names[:15]
        values = shown(MegapixelRAUNet)
        assert {name: values[name] for name in KNOWN} == KNOWN
        assert values["yaml_parameters"] == ""

    def test_their_choices_come_in_their_order(self):
        options = {
            s.id: s.options for s in MegapixelRAUNet.GET_SCHEMA().inputs if isinstance(s, io.Combo.Input)
        }
        assert options == {
            "time_mode": ["percent", "timestep", "sigma", "steps"],
            "upscale_mode": MODES,
            "ca_upscale_mode": MODES,
            "ca_downscale_mode": ["avg_pool2d", "adaptive_avg_pool2d", *MODES],
            "two_stage_upscale_mode": ["disabled", *MODES],
        }

    def test_times_take_percents_timesteps_and_sigmas(self):
        times = [s for s in MegapixelRAUNet.GET_SCHEMA().inputs if s.id.endswith("_time")]
        assert [s.id for s in times] == [
            "start_time", "end_time", "ca_start_time", "ca_end_time", "ca_fadeout_start_time"
        ]  # fmt: skip
        assert all(s.min <= 0.0 and s.max == 999.0 and s.round is False for s in times)
        factor = next(s for s in MegapixelRAUNet.GET_SCHEMA().inputs if s.id == "ca_downscale_factor")
        assert factor.min == 0.01

    def test_what_only_the_text_could_set_is_advanced(self):
        further = MegapixelRAUNet.GET_SCHEMA().inputs[16:]
        assert len(further) == 14
        assert all(socket.advanced and socket.optional for socket in further)

    def test_the_simple_node_has_the_original_inputs(self):
        sockets = MegapixelRAUNetSimple.GET_SCHEMA().inputs
        required = [(s.id, getattr(s, "options", None)) for s in sockets if not s.optional]
        assert required == [
            ("model", None),
            ("model_type", ["auto", "SD15", "SDXL"]),
            ("res_mode", ["high (1536-2048)", "low (1024 or lower)", "ultra (over 2048)"]),
            ("upscale_mode", ["default", *MODES]),
            ("ca_upscale_mode", ["default", *MODES]),
        ]
        assert [s.id for s in sockets if s.optional] == ["schedule"]


class TestFreshNode:
    def test_the_advanced_one_does_what_it_shows(self, sd15):
        by_widgets = advanced(sd15, **shown(MegapixelRAUNet))
        assert chosen(by_widgets) == chosen(advanced(sd15)) == RAUNet()
        picture = sample(by_widgets, steps=4, cfg=1.0)
        assert torch.equal(picture, sample(apply_rau_net(sd15, RAUNet()), steps=4, cfg=1.0))
        assert not torch.equal(picture, sample(sd15, steps=4, cfg=1.0))

    def test_the_simple_one_does_what_it_shows(self, sd15):
        [by_widgets] = MegapixelRAUNetSimple.execute(model=sd15, **shown(MegapixelRAUNetSimple)).args
        assert effects_of(by_widgets)["rau_net"] == effects_of(simple(sd15))["rau_net"]


def preset(inputs="", outputs="", end=0.0, ca=("", ""), ca_end=0.0):
    """A line of the known table, as the log has it."""
    pair = {
        "input_blocks": inputs, "output_blocks": outputs, "start_time": 0.0, "end_time": end,
        "upscale_mode": "bicubic",
    }  # fmt: skip
    ca_pair = {
        "ca_input_blocks": ca[0], "ca_output_blocks": ca[1], "ca_start_time": 0.0, "ca_end_time": ca_end,
        "ca_downscale_mode": "avg_pool2d", "ca_downscale_factor": 2.0, "ca_upscale_mode": "bicubic",
    }  # fmt: skip
    return (pair if end else {}) | (ca_pair if ca_end else {})


PRESETS = {
    ("sd15", "low"): preset("3", "8", 0.4),
    ("sd15", "high"): preset("3", "8", 0.5, ("1", "11"), 0.35),
    ("sd15", "ultra"): preset("3", "8", 0.6, ("1", "11"), 0.45),
    ("sdxl", "high"): preset(ca=("4", "5"), ca_end=0.5),
    ("sdxl", "ultra"): preset("3", "5", 0.45, ("4", "5"), 0.6),
}
PUBLISHED = {
    ("sd15", "published"): {"input_blocks": "3", "end_time": 0.4, "upscale_mode": "nearest"},
    ("sdxl", "published"): {
        "input_blocks": "6", "output_blocks": "2", "end_time": 0.16, "ca_input_blocks": "4",
        "ca_output_blocks": "5", "ca_start_time": 0.16, "ca_end_time": 0.4, "ca_upscale_mode": "bicubic",
    },
    ("sdxl", "published (turbo)"): {"ca_input_blocks": "4", "ca_end_time": 0.5},
}  # fmt: skip


def res_mode(name):
    return next(mode for mode in RES_MODES if mode.startswith(name))


class TestPresets:
    @pytest.mark.skipif(not reaches_upsample(), reason="this ComfyUI offers no Upsample to patches")
    @pytest.mark.parametrize(("family", "name"), PRESETS, ids=[" ".join(key) for key in PRESETS])
    def test_the_log_has_what_the_advanced_node_needs_for_the_same_picture(
        self, request, caplog, family, name
    ):
        model = request.getfixturevalue(family)
        picture, line = logged(caplog, simple(model, res_mode(name)))
        assert typed(line) == PRESETS[family, name]
        by_hand = advanced(model, **NO_BLOCKS | typed(line))
        assert torch.equal(sample(by_hand, (32, 24), steps=10, cfg=1.0), picture)
        assert not torch.equal(sample(model, (32, 24), steps=10, cfg=1.0), picture)

    @pytest.mark.parametrize(("family", "schedule"), PUBLISHED, ids=[" ".join(key) for key in PUBLISHED])
    def test_so_it_has_for_the_published_schedules(self, request, caplog, family, schedule):
        model = request.getfixturevalue(family)
        picture, line = logged(caplog, simple(model, schedule=schedule))
        expected = PUBLISHED[family, schedule]
        values = typed(line)
        assert values | expected | {"time_mode": "steps"} == values
        by_hand = advanced(model, **NO_BLOCKS | values)
        assert torch.equal(sample(by_hand, (32, 24), steps=10, cfg=1.0), picture)
        assert not torch.equal(sample(model, (32, 24), steps=10, cfg=1.0), picture)

    def test_sdxl_does_nothing_at_low_and_says_so(self, sdxl, caplog):
        picture, line = logged(caplog, simple(sdxl, res_mode("low")))
        assert line.startswith("nothing to do (no block")
        assert torch.equal(picture, sample(sdxl, (32, 24), steps=10, cfg=1.0))

    def test_the_pictures_of_the_presets_differ(self, sd15):
        pictures = [sample(simple(sd15, mode), (32, 24), steps=10, cfg=1.0) for mode in RES_MODES]
        assert all(not torch.equal(pictures[i], pictures[i - 1]) for i in range(3))

    @pytest.mark.parametrize("schedule", ["known", "published"])
    def test_modes_other_than_default_are_taken(self, sd15, schedule):
        recipes = [
            effects_of(simple(sd15, schedule=schedule, modes=modes))["rau_net"].recipes[0]
            for modes in (("default", "default"), ("area", "default"), ("default", "nearest-exact"))
        ]
        usual = ("bicubic" if schedule == "known" else "nearest", "bicubic")
        settings = [recipe.chosen if schedule == "known" else recipe for recipe in recipes]
        found = [(each.upscale_mode, each.ca_upscale_mode) for each in settings]
        assert found == [usual, ("area", usual[1]), (usual[0], "nearest-exact")]

    def test_the_published_schedules_go_by_the_latent_not_by_res_mode(self, sdxl):
        for schedule, turbo in (("published", False), ("published (turbo)", True)):
            for mode in RES_MODES:
                recipes = effects_of(simple(sdxl, mode, schedule=schedule))["rau_net"].recipes
                assert recipes == (Published(turbo=turbo),)

    def test_turbo_is_for_sdxl(self, sd15):
        with pytest.raises(
            ValueError, match=r"^schedule: expected published for an SD 1\.x .*, got published \(turbo\)"
        ):
            simple(sd15, schedule="published (turbo)")

    def test_a_model_type_that_the_model_is_not(self, sd15, sdxl):
        assert effects_of(simple(sdxl, model_type="SDXL")) == effects_of(simple(sdxl))
        for schedule in ("known", "published"):
            with pytest.raises(ValueError, match=r"^model_type: expected SD15 for this model, got SDXL\. "):
                simple(sd15, model_type="SDXL", schedule=schedule)

    @pytest.mark.parametrize("node", [simple, advanced])
    def test_a_model_without_input_blocks_is_an_error_message(self, node):
        with pytest.raises(ValueError, match=r"^model: expected an SD 1\.x, .*, got Flux\. "):
            node(random_models.flux())


class TestTimes:
    @pytest.mark.parametrize("denoise", [1.0, 0.4])
    def test_steps_are_shares_of_what_the_run_executes(self, sd15, record_sizes, denoise):
        base = sd15.clone()
        recorder = record_sizes(base, 3)
        model = advanced(base, time_mode="steps", end_time=0.5, ca_input_blocks="", ca_output_blocks="")
        sample(model, (32, 24), steps=6, cfg=1.0, denoise=denoise)
        assert recorder.sizes == [(8, 6)] * 3 + [(16, 12)] * 3

    @pytest.mark.parametrize(
        ("mode", "start", "end"),
        [("percent", 1.0, 0.0), ("steps", 1.0, 0.0), ("timestep", 0.0, 999.0), ("sigma", 0.0, 14.0)],
    )
    @pytest.mark.parametrize("family", ["sd15", "sdxl"])
    def test_an_end_before_the_start_switches_a_pair_off_whatever_its_blocks(
        self, request, caplog, family, mode, start, end
    ):
        """The blocks are those that an older workflow left standing; for SDXL they are no pairs at all."""
        model = request.getfixturevalue(family)
        off = advanced(
            model, time_mode=mode, start_time=start, end_time=end, ca_start_time=start, ca_end_time=end,
            ca_fadeout_start_time=0.5,
        )  # fmt: skip
        with caplog.at_level(logging.INFO, "megapixel"):
            assert torch.equal(sample(off, steps=2, cfg=1.0), sample(model, steps=2, cfg=1.0))
        assert "nothing to do (no block is set, or start_time is after end_time)" in caplog.text

    def test_one_pair_off_leaves_the_other(self, sd15):
        no_ca = chosen(advanced(sd15, ca_start_time=1.0, ca_end_time=0.0))
        assert (no_ca.input_blocks, no_ca.ca_input_blocks, no_ca.ca_output_blocks) == ((3,), (), ())
        only_ca = chosen(advanced(sd15, start_time=0.5))
        assert (only_ca.input_blocks, only_ca.output_blocks, only_ca.ca_input_blocks) == ((), (), (4,))
        both = chosen(advanced(sd15, start_time=0.45))
        assert both.input_blocks == (3,)


class TestBlockLists:
    def test_a_list_of_several(self, sd15):
        settings = chosen(advanced(sd15, input_blocks="3, 6", output_blocks="5,8"))
        assert settings.input_blocks == (3, 6)
        assert sorted(settings.output_blocks) == [5, 8]

    def test_empty_output_lists_are_filled_in(self, sdxl):
        settings = chosen(advanced(sdxl, output_blocks="", ca_output_blocks=" "))
        assert (settings.output_blocks, settings.ca_output_blocks) == ((5,), (5,))

    def test_empty_lists_switch_a_pair_off(self, sd15):
        assert torch.equal(sample(advanced(sd15, **NO_BLOCKS), cfg=1.0), sample(sd15, cfg=1.0))

    @pytest.mark.parametrize("socket", NO_BLOCKS)
    def test_what_is_no_list_names_its_socket(self, sd15, socket):
        with pytest.raises(
            ValueError, match=rf"^{socket}: expected block numbers separated by commas, got '3-8'\. "
        ):
            advanced(sd15, **{socket: "3-8"})

    @pytest.mark.parametrize(
        ("socket", "text"),
        [("input_blocks", "4"), ("output_blocks", "5"), ("ca_input_blocks", "12"), ("ca_output_blocks", "6")],
    )
    def test_blocks_that_are_no_pair_name_their_socket(self, sd15, socket, text):
        with pytest.raises(ValueError, match=rf"^{socket}: expected .*, got {text}\. "):
            advanced(sd15, **{socket: text})


ALL_AT_ONCE = """
# Patches input blocks after the skip connection when enabled.
ca_input_after_skip_mode: false
ca_fadeout_start_time: null
ca_fadeout_cap: 0.0
ca_downscale_factor_w: null
ca_latent_pixel_increment: 8
ca_avg_pool2d_ceil_mode: true

pre_upscale_multiplier: 1.0
post_upscale_multiplier: 1.0
pre_downscale_multiplier: 1.0
post_downscale_multiplier: 1.0
ca_pre_upscale_multiplier: 1.0
ca_post_upscale_multiplier: 1.0
ca_pre_downscale_multiplier: 1.0
ca_post_downscale_multiplier: 1.0
verbose: 0
"""
WORKFLOWS = {
    "a gentle fade": (
        "ca_fadeout_start_time: 0.1  # soft\nca_fadeout_cap: 0.3\nca_end_time: 0.5",
        {"ca_fadeout_start_time": 0.1, "ca_fadeout_cap": 0.3, "ca_end_time": 0.5},
    ),
    "JSON of a wide picture": (
        '{"ca_downscale_factor_w": 1, "ca_downscale_mode": "area", "verbose": true}',
        {"ca_downscale_factor_w": 1.0, "ca_downscale_mode": "area"},
    ),
    "timesteps": (
        "time_mode: timestep\nstart_time: 999\nend_time: 250\nca_start_time: 999\nca_end_time: 400\n",
        {"time_mode": "timestep", "start_time": 999.0, "end_time": 250.0, "ca_start_time": 999.0,
         "ca_end_time": 400.0},
    ),
    "Deep Shrink's way": (
        "ca_input_after_skip_mode: true\nca_input_blocks: [3]\nca_output_blocks: [8]\ninput_blocks: ''\n"
        "output_blocks: []",
        {"ca_input_after_skip_mode": True, "ca_input_blocks": "3", "ca_output_blocks": "8", "input_blocks": "",
         "output_blocks": ""},
    ),
    "the old rounding": (
        "ca_latent_pixel_increment: 1\nca_post_upscale_multiplier: 1.02",
        {"ca_latent_pixel_increment": 1, "ca_post_upscale_multiplier": 1.02},
    ),
}  # fmt: skip
KEYS = {  # key: (text, what becomes of it)
    "input_blocks": ("[6]", (6,)),
    "output_blocks": ("''", (8,)),
    "time_mode": ("steps", "steps"),
    "start_time": ("0.1", 0.1),
    "end_time": ("0.7", 0.7),
    "upscale_mode": ("bislerp", "bislerp"),
    "ca_start_time": ("0.2", 0.2),
    "ca_end_time": ("1", 1),
    "ca_input_blocks": ("1", (1,)),
    "ca_output_blocks": ("'8'", (8,)),
    "ca_upscale_mode": ("nearest", "nearest"),
    "ca_downscale_mode": ("avg_pool2d", "avg_pool2d"),
    "ca_downscale_factor": ("3", 3),
    "two_stage_upscale_mode": ("area", "area"),
    "ca_input_after_skip_mode": ("true", True),
    "ca_fadeout_start_time": ("0.25", 0.25),
    "ca_fadeout_cap": ("0.5", 0.5),
    "ca_downscale_factor_w": ("1.25", 1.25),
    "ca_latent_pixel_increment": ("4", 4),
    "ca_avg_pool2d_ceil_mode": ("false", False),
} | {
    f"{pair}{place}_{way}_multiplier": ("0.9", 0.9)
    for pair in ("", "ca_") for place in ("pre", "post") for way in ("upscale", "downscale")
}  # fmt: skip
PARTNERS = {  # what else a key needs to be no contradiction
    "input_blocks": {"output_blocks": ""},
    "ca_input_blocks": {"ca_output_blocks": ""},
    "ca_input_after_skip_mode": {"ca_output_blocks": ""},
}


@pytest.fixture(scope="module")
def default_picture(sd15):
    return sample(advanced(sd15), (32, 64), steps=4, cfg=1.0)


class TestText:
    def test_the_defaults_written_out_change_nothing(self, sd15):
        settings = chosen(advanced(sd15, yaml_parameters=ALL_AT_ONCE))
        assert settings == RAUNet()

    @pytest.mark.parametrize(("text", "sockets"), WORKFLOWS.values(), ids=WORKFLOWS)
    def test_an_older_workflow_is_what_the_sockets_would_say(self, sd15, default_picture, text, sockets):
        ours = advanced(sd15, yaml_parameters=text)
        assert chosen(ours) == chosen(advanced(sd15, **sockets))
        assert chosen(ours) != RAUNet()
        assert not torch.equal(sample(ours, (32, 64), steps=4, cfg=1.0), default_picture)

    def test_every_socket_has_its_key(self):
        assert set(shown(MegapixelRAUNet, "yaml_parameters")) == set(KEYS)

    @pytest.mark.parametrize("key", KEYS)
    def test_each_key_replaces_its_socket_alone(self, sd15, key):
        text, value = KEYS[key]
        partners = PARTNERS.get(key, {})
        settings = chosen(advanced(sd15, yaml_parameters=f"{key}: {text}", **partners))
        assert getattr(settings, key) == value
        others = {name for name in RAUNet.__dataclass_fields__ if not (name == key or name in partners)}
        assert all(getattr(settings, name) == getattr(RAUNet(), name) for name in others)

    def test_a_fade_from_the_start_is_a_fade(self, sd15):
        assert chosen(advanced(sd15, ca_fadeout_start_time=0.0)).ca_fadeout_start_time == 0.0
        assert chosen(advanced(sd15, ca_fadeout_start_time=-0.5)).ca_fadeout_start_time is None

    @pytest.mark.parametrize("key", ["ca_fadeout_start_time", "ca_downscale_factor_w"])
    def test_null_is_off_and_overrides_the_socket(self, sd15, key):
        assert getattr(chosen(advanced(sd15, **{key: 0.2})), key) == 0.2
        assert getattr(chosen(advanced(sd15, **{key: 0.2}, yaml_parameters=f"{key}: null")), key) is None

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("upscale_mod: area", "yaml_parameters: expected keys among .*, got \"upscale_mod\"\\. Did you mean upscale_mode\\?"),
            ("upscale_mode: lanczos", 'yaml_parameters: expected one of bicubic, .* for upscale_mode, got "lanczos"\\. '),
            ("ca_downscale_factor: null", "yaml_parameters: expected a number .* for ca_downscale_factor, got null\\. "),
            ("ca_fadeout_cap: 2", "yaml_parameters: expected a number from 0 to 1 for ca_fadeout_cap, got 2\\. "),
            ("verbose: all", "yaml_parameters: expected .* for verbose, got \"all\"\\. "),
            ("just words", "yaml_parameters: expected lines of the form key: value, got "),
            ("input_blocks: '4'", "input_blocks: expected blocks with a Downsample, got 4\\. "),
            ("ca_fadeout_start_time: 0.4", r"ca_fadeout_start_time: expected a time before ca_end_time \(0.3\), got 0.4\. "),
        ],
    )  # fmt: skip
    def test_what_is_wrong_in_it_is_an_error_message(self, sd15, text, sentence):
        with pytest.raises(ValueError, match="^" + sentence):
            advanced(sd15, yaml_parameters=text)
