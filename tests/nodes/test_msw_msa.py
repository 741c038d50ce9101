"""The nodes of MSW-MSA on tiny real models: the known numbers, the presets, the text of older workflows."""

from __future__ import annotations

import logging
import re

import pytest
import torch
from comfy_api.latest import io
from megapixel.nodes.msw_msa import MegapixelMSWMSA, MegapixelMSWMSASimple
from megapixel.patches.msw_msa import MSWMSA, apply_msw_msa
from megapixel.patches.wrapper import effects_of

from devhost.sampling import sample
from devhost.tiny import random_models

KNOWN = {
    "input_blocks": "1,2", "middle_blocks": "", "output_blocks": "9,10,11", "time_mode": "percent",
    "start_time": 0.0, "end_time": 1.0,
}  # fmt: skip
NO_BLOCKS = {"input_blocks": "", "middle_blocks": "", "output_blocks": ""}


def advanced(model, **settings):
    [patched] = MegapixelMSWMSA.execute(model=model, **KNOWN | settings).args
    return patched


def simple(model, model_type="auto", **settings):
    [patched] = MegapixelMSWMSASimple.execute(model_type=model_type, model=model, **settings).args
    return patched


def chosen(model):
    """The settings that the node put on a model."""
    return effects_of(model)["msw_msa"].config


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


class TestKnownInputs:
    def test_they_come_first_in_their_order_with_their_defaults(self):
        sockets = MegapixelMSWMSA.GET_SCHEMA().inputs
        names = [socket.id for socket in sockets]
        assert names[:8] == [*KNOWN, "model", "yaml_parameters"]
        assert [socket.id for socket in sockets if not socket.optional] == names[:7]
        values = shown(MegapixelMSWMSA)
        assert {name: values[name] for name in KNOWN} == KNOWN
        assert values["yaml_parameters"] == ""

    def test_their_choices_come_in_their_order(self):
        options = {
            s.id: s.options for s in MegapixelMSWMSA.GET_SCHEMA().inputs if isinstance(s, io.Combo.Input)
        }
        assert options == {
            "time_mode": ["percent", "timestep", "sigma", "steps"],
            "windows": ["2x2", "native"],
            "last_shift_mode": ["global", "block", "both", "ignore"],
            "last_shift_strategy": ["increment", "decrement", "retry"],
        }

    def test_the_simple_node_has_the_original_inputs(self):
        sockets = MegapixelMSWMSASimple.GET_SCHEMA().inputs
        assert [(s.id, s.optional) for s in sockets] == [
            ("model_type", False), ("model", False), ("windows", True), ("trained_size", True)
        ]  # fmt: skip
        assert sockets[0].options == ["auto", "SD15", "SDXL"]


class TestFreshNode:
    def test_the_advanced_one_does_what_it_shows(self, sd15):
        by_widgets = advanced(sd15, **shown(MegapixelMSWMSA))
        assert chosen(by_widgets) == chosen(advanced(sd15)) == MSWMSA()
        picture = sample(by_widgets, cfg=1.0)
        assert torch.equal(picture, sample(apply_msw_msa(sd15, MSWMSA()), cfg=1.0))
        assert not torch.equal(picture, sample(sd15, cfg=1.0))

    def test_the_simple_one_does_what_it_shows(self, sd15):
        assert chosen(simple(sd15, **shown(MegapixelMSWMSASimple, "model_type"))) == chosen(simple(sd15))


PRESETS = {
    "sd15": {"input_blocks": "1,2", "output_blocks": "9,10,11"},
    "sdxl": {"input_blocks": "4,5", "output_blocks": "3,4,5"},
}


class TestPresets:
    @pytest.mark.parametrize("windows", ["2x2", "native"])
    @pytest.mark.parametrize("family", PRESETS)
    def test_the_log_has_what_the_advanced_node_needs_for_the_same_picture(
        self, request, caplog, family, windows
    ):
        model = request.getfixturevalue(family)
        size = {"trained_size": 128} if windows == "native" else {}
        with caplog.at_level(logging.INFO, "megapixel"):
            picture = sample(simple(model, windows=windows, **size), (40, 24), steps=3, cfg=1.0)
        [line] = [record.getMessage() for record in caplog.records if record.name == "megapixel"]
        name, _, entries = line.partition(": ")
        assert name == "MSW-MSA"
        values = dict(entry.split(" ", 1) for entry in entries.split(", "))
        # A trained size is typed by the person who knows it; the log repeats it or not.
        values = {
            n: float(v) if re.fullmatch(r"[\d.]+", v) and "time" in n else v for n, v in values.items()
        } | size
        assert values == PRESETS[family] | {"start_time": 0.2, "end_time": 1.0, "windows": windows} | size
        by_hand = sample(advanced(model, **NO_BLOCKS | values), (40, 24), steps=3, cfg=1.0)
        assert torch.equal(by_hand, picture)
        assert not torch.equal(sample(model, (40, 24), steps=3, cfg=1.0), picture)

    def test_native_windows_go_by_the_trained_size(self, sd15):
        plain = sample(sd15, cfg=1.0)
        assert torch.equal(sample(simple(sd15, windows="native"), cfg=1.0), plain)  # 512 px: one window
        assert not torch.equal(sample(simple(sd15, windows="native", trained_size=128), cfg=1.0), plain)

    def test_a_model_type_that_the_model_is_not(self, sd15, sdxl):
        assert chosen(simple(sdxl, "SDXL")) == chosen(simple(sdxl))
        with pytest.raises(ValueError, match=r"^model_type: expected SDXL for this model, got SD15\. "):
            simple(sdxl, "SD15")

    @pytest.mark.parametrize("node", [simple, advanced])
    def test_a_model_without_input_blocks_is_an_error_message(self, node):
        with pytest.raises(ValueError, match=r"^model: expected an SD 1\.x, .*, got Flux\. "):
            node(random_models.flux())


class TestTimes:
    @pytest.mark.parametrize("denoise", [1.0, 0.5])
    def test_steps_are_shares_of_what_the_run_executes(self, sd15, denoise):
        """The last of four steps has no windows whatever the noise that the run starts at."""

        def picture(**settings):
            return sample(advanced(sd15, **settings), steps=4, cfg=1.0, denoise=denoise)

        of_steps = picture(time_mode="steps", end_time=0.75)
        assert not torch.equal(of_steps, picture())
        assert torch.equal(of_steps, picture(time_mode="steps", end_time=0.99))
        assert not torch.equal(of_steps, picture(time_mode="steps", end_time=0.5))
        assert torch.equal(of_steps, picture(time_mode="percent", end_time=0.75)) == (denoise == 1.0)

    @pytest.mark.parametrize(
        ("mode", "start", "end"),
        [("percent", 1.0, 0.0), ("steps", 1.0, 0.0), ("timestep", 0.0, 999.0), ("sigma", 0.0, 14.0)],
    )
    def test_an_end_before_the_start_switches_it_off(self, sd15, mode, start, end):
        off = advanced(sd15, time_mode=mode, start_time=start, end_time=end)
        assert torch.equal(sample(off, cfg=1.0), sample(sd15, cfg=1.0))


class TestBlockLists:
    def test_lists_of_all_kinds(self, sd15):
        settings = chosen(advanced(sd15, input_blocks="2 , 1", middle_blocks="0", output_blocks=""))
        assert (settings.input_blocks, settings.middle_blocks, settings.output_blocks) == ((1, 2), (0,), ())

    def test_empty_lists_switch_it_off(self, sd15):
        assert torch.equal(sample(advanced(sd15, **NO_BLOCKS), cfg=1.0), sample(sd15, cfg=1.0))

    @pytest.mark.parametrize("socket", NO_BLOCKS)
    def test_what_is_no_list_names_its_socket(self, sd15, socket):
        with pytest.raises(
            ValueError, match=rf"^{socket}: expected block numbers separated by commas, got 'all'\. "
        ):
            advanced(sd15, **{socket: "all"})

    @pytest.mark.parametrize(
        ("socket", "text"), [("input_blocks", "3"), ("middle_blocks", "1"), ("output_blocks", "0")]
    )
    def test_blocks_without_attention_name_their_socket(self, sd15, socket, text):
        with pytest.raises(ValueError, match=rf"^{socket}: expected blocks with attention .*, got {text}\. "):
            advanced(sd15, **{socket: text})


ALL_AT_ONCE = """
scale_mode: nearest-exact
reverse_scale_mode: nearest-exact
last_shift_mode: both
last_shift_strategy: decrement
silent: false

# Allow scaling the window.
pre_window_multiplier: 1.0
post_window_multiplier: 1.0
pre_window_reverse_multiplier: 1.0
post_window_reverse_multiplier: 1.0
rescale_search_tolerance: 1
force_apply_attn2: false
verbose: false
"""
WORKFLOWS = {
    "SDXL's sizes": ("scale_mode: skip\nsilent: true\nend_time: 0.5\n", {"end_time": 0.5}),
    "JSON": (
        '{"last_shift_mode": "ignore", "last_shift_strategy": "retry", "verbose": 1}',
        {"last_shift_mode": "ignore", "last_shift_strategy": "retry"},
    ),
    "another list": (
        "output_blocks: [10, 11]\ninput_blocks: 2",
        {"output_blocks": "10,11", "input_blocks": "2"},
    ),
    "gentle": (
        "rescale_search_tolerance: 32\npost_window_multiplier: 0.98\npre_window_reverse_multiplier: 1.02",
        {"post_window_multiplier": 0.98, "pre_window_reverse_multiplier": 1.02},
    ),
}
KEYS = {  # key: (text, what becomes of it)
    "input_blocks": ("[1]", (1,)),
    "middle_blocks": ("0", (0,)),
    "output_blocks": ("'9, 10'", (9, 10)),
    "time_mode": ("timestep", "timestep"),
    "start_time": ("0.2", 0.2),
    "end_time": ("999", 999),
    "windows": ("native", "native"),
    "trained_size": ("768", 768),
    "last_shift_mode": ("global", "global"),
    "last_shift_strategy": ("increment", "increment"),
    "pre_window_multiplier": ("0.9", 0.9),
    "post_window_multiplier": ("0.9", 0.9),
    "pre_window_reverse_multiplier": ("0.9", 0.9),
    "post_window_reverse_multiplier": ("0.9", 0.9),
}


class TestText:
    def test_the_defaults_written_out_change_nothing(self, sd15):
        assert chosen(advanced(sd15, yaml_parameters=ALL_AT_ONCE)) == MSWMSA()

    @pytest.mark.parametrize(("text", "sockets"), WORKFLOWS.values(), ids=WORKFLOWS)
    def test_an_older_workflow_is_what_the_sockets_would_say(self, sd15, text, sockets):
        ours = advanced(sd15, yaml_parameters=text)
        assert chosen(ours) == chosen(advanced(sd15, **sockets))
        picture = sample(ours, steps=4, cfg=1.0)
        assert torch.equal(picture, sample(advanced(sd15, **sockets), steps=4, cfg=1.0))
        assert not torch.equal(picture, sample(advanced(sd15), steps=4, cfg=1.0))

    def test_every_socket_has_its_key(self):
        assert set(shown(MegapixelMSWMSA, "yaml_parameters")) == set(KEYS)

    @pytest.mark.parametrize("key", KEYS)
    def test_each_key_replaces_its_socket_alone(self, sd15, key):
        text, value = KEYS[key]
        settings = chosen(advanced(sd15, yaml_parameters=f"{key}: {text}"))
        assert getattr(settings, key) == value
        others = set(MSWMSA.__dataclass_fields__) - {key}
        assert all(getattr(settings, name) == getattr(MSWMSA(), name) for name in others)

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("last_shift_mod: both", 'yaml_parameters: expected keys among .*, got "last_shift_mod"\\. Did you mean last_shift_mode\\?'),
            ("last_shift_mode: all", 'yaml_parameters: expected one of global, block, both, ignore for .*, got "all"\\. '),
            ("scale_mode: 2", "yaml_parameters: expected text for scale_mode, got 2\\. "),
            ("silent: 1", "yaml_parameters: expected true or false for silent, got 1\\. "),
            ("rescale_search_tolerance: 0.5", "yaml_parameters: expected a whole number for .*, got 0\\.5\\. "),
            ("force_apply_attn2: true", r"yaml_parameters: expected false \(windows are for self-attention alone\) for .*, got true\. "),
            ("input_blocks: 3", "input_blocks: expected blocks with attention"),
        ],
    )  # fmt: skip
    def test_what_is_wrong_in_it_is_an_error_message(self, sd15, text, sentence):
        with pytest.raises(ValueError, match="^" + sentence):
            advanced(sd15, yaml_parameters=text)
