"""Measurements in the user's folder: what somebody changed there is measured again."""

from __future__ import annotations

import json
import math

import folder_paths
import pytest
import torch
from megapixel.host.measurements import FORMAT, MeasuredModel
from megapixel.upscale.budget import Budget
from megapixel.upscale.network import Network
from megapixel.upscale.tensor_format import choose_tensor_format
from megapixel.upscale.upscaler import Hooks, Options, upscale_pictures

from devhost.tiny.random_upscalers import pictures, random_upscaler

CPU = torch.device("cpu")
PLENTY = 1e15

KEYS = {
    "tensor_format": "tensor_format cpu float32 32",
    "memory_estimate": "memory_estimate whole cpu torch.float32 False",
    "receptive_field": "receptive_field whole",
}
NOT_A_RECORD = [None, 5, "text", True, [], [[]], {}, {"other": 1}]
NOT_A_FIELD = {
    "memory_estimate": {
        "peak": [math.nan, math.inf, -math.inf, -1.0, 0.0, 1e-9, 1e30, 10**400, "1000", None, True, [9.0]],
        "largest": [math.nan, -1.0, 1e-9, 1e30, "64", None, True, [9.0]],
    },
    "receptive_field": {
        "bound": [-1, 0.5, math.nan, 10**9, "6", False, [6]],
        "margin": [-1, 0, 6.5, 6.0, math.nan, 10**9, 300, 7, "6", None, True],
        "period": [-1, 0, 1.0, math.inf, 10**6, "1", None, True],
    },
    "tensor_format": {
        "dtype": ["bfloat16", "float64", "int64", "torch.float32", "Tensor", "load", "", None, 5, ["float32"]],
        "channels_last": [0, 1, None, "yes", [True]],
    },
}  # fmt: skip
NOT_AN_ENTRY = {
    "format": [None, FORMAT - 1, "2"],
    "seal": [None, 5, "", "0" * 64],
    "values": [None, [], "text", {}],
}


def damages():
    """Yield (record, what is damaged in it, how): the whole of it, a field more, a field less, each field."""
    for name, fields in NOT_A_FIELD.items():
        yield from ((name, None, damaged) for damaged in NOT_A_RECORD)
        yield name, "more", 1
        for field, wrong in fields.items():
            yield name, field, "left out"
            yield from ((name, field, damaged) for damaged in wrong)


class Measurements:
    """A model and the file with what is measured of it."""

    def __init__(self, folder):
        self.descriptor = random_upscaler("Compact 16x4")
        self.file = folder / "megapixel" / "upscale_models.json"
        self.expected = self.run()
        self.content = self.file.read_text(encoding="utf-8")

    def run(self):
        """Return what becomes of a picture by what the file holds."""
        store = MeasuredModel(self.descriptor, CPU)
        with torch.inference_mode():
            budget = Budget(45 * 70)
            choose_tensor_format(
                self.descriptor, CPU, lambda *_: None, "float32", store, (45, 70), lambda: 45 * 70, budget
            )
            network = Network(self.descriptor, [CPU], lambda descriptor, device: None, store=store)
            return upscale_pictures(pictures(1, 3, 45, 70), network, Options(tile=48), Hooks(lambda: PLENTY))

    def entry(self):
        """Return the file's content, and the model's entry in it."""
        content = json.loads(self.file.read_text(encoding="utf-8"))
        [entry] = content.values()
        return content, entry

    def assert_whole_again(self, content):
        """Assert that with this content the same is measured again, and that the file holds it."""
        self.file.write_text(content, encoding="utf-8")
        assert torch.equal(self.run(), self.expected)
        good, entry = json.loads(self.content), self.entry()[1]
        [values] = [entry["values"] for entry in good.values()]
        assert set(values) == set(KEYS.values())
        chosen = entry["values"].pop(KEYS["tensor_format"])  # which one is faster may change
        assert chosen in [{"dtype": "float32", "channels_last": last} for last in (False, True)]
        assert entry["values"] == {
            key: value for key, value in values.items() if key != KEYS["tensor_format"]
        }
        kept = MeasuredModel(self.descriptor, CPU)
        assert kept == entry["values"] | {KEYS["tensor_format"]: chosen}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    before, folder = folder_paths.get_user_directory(), tmp_path_factory.mktemp("user")
    folder_paths.set_user_directory(str(folder))
    yield Measurements(folder)
    folder_paths.set_user_directory(before)


@pytest.mark.parametrize(("name", "field", "damaged"), damages(), ids=lambda value: repr(value)[:30])
def test_a_damaged_record_is_measured_again(name, field, damaged, measured):
    measured.file.write_text(measured.content, encoding="utf-8")
    content, entry = measured.entry()
    values = entry["values"]
    before = json.dumps(content)
    if field is None:
        values[KEYS[name]] = damaged
    elif damaged == "left out":
        del values[KEYS[name]][field]
    else:
        values[KEYS[name]][field] = damaged
    assert json.dumps(content) != before
    measured.assert_whole_again(json.dumps(content))


@pytest.mark.parametrize("field", NOT_AN_ENTRY)
def test_a_damaged_entry_is_measured_again(field, measured):
    for damaged in NOT_AN_ENTRY[field]:
        measured.file.write_text(measured.content, encoding="utf-8")
        content, entry = measured.entry()
        entry[field] = damaged
        measured.assert_whole_again(json.dumps(content))
        del entry[field]
        measured.assert_whole_again(json.dumps(content))


def test_values_without_a_seal_are_measured_again(measured):
    content = {key: entry["values"] for key, entry in json.loads(measured.content).items()}
    measured.assert_whole_again(json.dumps(content))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_file_is_measured_again(share, measured):
    measured.assert_whole_again(measured.content[: int(share * len(measured.content))])


def test_what_matches_its_seal_is_not_measured_again(measured):
    measured.file.write_text(measured.content, encoding="utf-8")
    written = measured.file.stat().st_mtime_ns
    assert torch.equal(measured.run(), measured.expected)
    assert measured.file.stat().st_mtime_ns == written


def test_an_entry_of_another_model_stays(measured):
    measured.file.write_text(measured.content, encoding="utf-8")
    other = random_upscaler("DnCNN")
    MeasuredModel(other, CPU)["receptive_field whole"] = {"bound": 17, "margin": 17, "period": 1}
    content = json.loads(measured.file.read_text(encoding="utf-8"))
    assert len(content) == 2
    assert content.items() >= json.loads(measured.content).items()
    measured.file.write_text(measured.content, encoding="utf-8")
