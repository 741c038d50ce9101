"""`dev.py whole-objects`: pictures are paired and kept, and the table shows what is kept."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from devhost.sampling import sample
from devhost.tiny.forms import CLASS_TEXTS, TEXTS
from devhost.whole_objects import __main__ as command
from devhost.whole_objects.methods import DEEP_SHRINK, HIDIFFUSION, KOHYA, METHODS, PLAIN, same_as
from devhost.whole_objects.plan import BLOCK, MODELS, SIZES, Cell, latent_size, prompts_of, tasks
from devhost.whole_objects.records import Records, record_of
from devhost.whole_objects.table import FEWEST, as_json, as_markdown, composition, distance, rows

MODEL, WEIGHTS = "a model", "0123"


def picture(*discs: tuple[float, float, float], side: int = 96) -> np.ndarray:
    """Return a picture (H, W, 3) with discs at (y, x) of a radius, as shares of its side."""
    y, x = (np.mgrid[0:side, 0:side] + 0.5) / side
    pixels = np.full((side, side, 3), 200, dtype=np.uint8)
    for top, left, radius in discs:
        pixels[(y - top) ** 2 + (x - left) ** 2 < radius**2] = (20, 20, 90)
    return pixels


ONE, TWO = picture((0.5, 0.5, 0.3)), picture((0.3, 0.3, 0.2), (0.7, 0.7, 0.2))


@pytest.fixture
def records(tmp_path):
    """Plain is whole in a half of 4 pictures, HiDiffusion in all; two pictures at the trained size."""
    kept = Records(tmp_path / "kept")
    for number in range(4):
        kept.add(Cell(MODEL, "2x", PLAIN), number, WEIGHTS, (ONE, TWO)[number % 2], 4.0)
        kept.add(Cell(MODEL, "2x", HIDIFFUSION), number, WEIGHTS, ONE, 2.0)
    for number in range(2):
        kept.add(Cell(MODEL, "1x", PLAIN), number, WEIGHTS, ONE, 1.0)
    return kept


def test_methods_said_to_give_the_same_bits_do(sd15):
    trained_side, checked = 128, 0
    for size in SIZES:
        noise = torch.randn(
            1, 4, *latent_size(size, trained_side), generator=torch.Generator().manual_seed(3)
        )
        for method in METHODS:
            if (other := same_as(method, size)) != method:
                first, second = (
                    sample(METHODS[name](sd15, trained_side), noise.shape[2:], noise=noise, latent=0 * noise)
                    for name in (method, other)
                )
                assert torch.equal(first, second), (method, size)
                checked += 1
    assert checked == 4


def test_every_cell_grows_by_a_block_and_equal_cells_are_sampled_once():
    cells = [Cell(MODEL, size, method) for size in ("2x", "1x") for method in (PLAIN, KOHYA, DEEP_SHRINK)]
    listed = list(tasks(cells, BLOCK + 3))
    assert len(listed) == len(set(listed)) == 4 * (BLOCK + 3)
    assert {picture for _, picture in listed[: 4 * BLOCK]} == set(range(BLOCK))
    assert Cell(MODEL, "2x", DEEP_SHRINK) not in {cell for cell, _ in listed}


def test_sizes_are_those_of_the_trained_side():
    assert [latent_size(size, 128) for size in SIZES] == [(16, 16), (32, 32), (24, 24), (24, 48), (48, 48)]
    assert latent_size("1:2", 192) == (36, 72)


def test_a_model_is_asked_for_one_object():
    assert prompts_of(TEXTS) == CLASS_TEXTS
    assert prompts_of(["owl", "fox", "crab"]) == ("fox", "crab")
    assert prompts_of(["a vase", "a chair"]) == ("a vase", "a chair")


def test_a_record_is_read_back_and_a_broken_line_is_not_one(records):
    found = list(records)
    assert len(found) == 10
    assert record_of(found[0].as_json()) == found[0]
    with records.lines.open("a") as lines:
        lines.write(found[0].as_json()[:50])
    assert list(records) == found
    added = records.add(Cell(MODEL, "3x", PLAIN), 0, WEIGHTS, ONE, 1.0)
    assert list(records) == [*found, added]


def test_counts_of_an_earlier_counter_are_made_again(records):
    lines = records.lines.read_text().replace('"objects": 1', '"objects": 9')
    records.lines.write_text(lines)
    assert {record.count.objects for record in records} == {2, 9}
    records.lines.write_text(lines.replace('"counter": "', '"counter": "older'))
    assert {record.count.objects for record in records} == {1, 2}


def test_rows_hold_what_was_counted(records):
    found = {(row.cell.size, row.cell.method): row for row in rows(records, {MODEL: WEIGHTS})}
    plain, cured = found["2x", PLAIN], found["2x", HIDIFFUSION]
    assert (plain.n, plain.one_whole, plain.several, plain.pieces) == (4, 0.5, 0.5, 0.0)
    assert (cured.one_whole, cured.seconds, cured.seconds_ratio) == (1.0, 2.0, 0.5)
    assert cured.one_whole_interval == pytest.approx((0.51, 1.0), abs=0.01)
    assert found["1x", HIDIFFUSION].equal_to == PLAIN
    assert ("3x", PLAIN) not in found
    assert rows(records, {MODEL: "other weights"}) == []


def test_a_distance_is_small_for_pictures_of_the_same_kind_alone():
    generator = np.random.default_rng(1)

    def compositions(doubled: bool) -> np.ndarray:
        found = []
        for _ in range(FEWEST):
            top, left, radius = generator.uniform((0.35, 0.35, 0.2), (0.65, 0.65, 0.3))
            others = [(1 - top, 1 - left, 0.15)] if doubled else []
            found.append(composition(picture((top, left, radius), *others, side=48)))
        return np.stack(found)

    real, same, doubled = compositions(False), compositions(False), compositions(True)
    assert distance(real, real) == pytest.approx(0.0, abs=1e-6)
    assert distance(real, same) < 0.7 * distance(real, doubled)


def test_a_distance_is_from_the_pictures_of_the_trained_size(records):
    for row in rows(records, {MODEL: WEIGHTS}):
        assert row.distance is None  # fewer pictures than a distance needs


def test_the_table_has_a_line_a_cell_and_the_json_every_number(records):
    found = rows(records, {MODEL: WEIGHTS})
    glance, table = as_markdown(found, [MODEL]).split("### 20 steps")
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(found)
    assert len({line.count("|") for line in lines}) == 1
    [line] = [line for line in lines if f"| 1x | {HIDIFFUSION} |" in line]
    assert "the same bits as plain" in line
    assert f"| {MODEL} | {KOHYA} |{' not measured |' * len(SIZES)}" in glance
    [line] = [line for line in glance.splitlines() if f"| {HIDIFFUSION} |" in line]
    assert line.split(" | ")[4].startswith("1.00 (0.51 to 1.00; n 4)")  # 2x comes third, by area
    assert json.loads(as_json(found))["rows"][0]["n"] == 2


@pytest.mark.slow
def test_the_command_goes_on_where_it_stopped(tmp_path, capsys):
    arguments = [
        "--model",
        MODELS[0].name,
        "--sizes",
        "1x",
        "--methods",
        PLAIN,
        "--steps",
        "2",
        "--out",
        str(tmp_path),
    ]
    assert command.main([*arguments, "--pictures", "1"]) == 0
    first = (tmp_path / "records.jsonl").read_text()
    assert command.main([*arguments, "--pictures", "2"]) == 0
    both = (tmp_path / "records.jsonl").read_text()
    assert both.startswith(first)
    assert both.count("\n") == 2
    capsys.readouterr()
    assert command.main([*arguments, "--pictures", "2"]) == 0
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "table.md"), str(tmp_path / "counts.json")]
