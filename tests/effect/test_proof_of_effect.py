"""`dev.py effect`: pictures are paired, what is finished is kept,
and the results are those of what is kept.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from megapixel.patches.model_call import first_call
from megapixel.patches.rau_net_published import Published
from PIL import Image

from devhost.effect import __main__ as command, draw as drawing
from devhost.effect.features import residual_noise
from devhost.effect.kept import COUNTER, Kept, record_of, samples
from devhost.effect.methods import (
    CURVES,
    DRAWN,
    METHODS,
    PLAIN,
    SETTLED,
    _Until,
    curve_method,
    curve_point,
    method_of,
)
from devhost.effect.plan import BLOCK, SIZES, STEPS, Cell, Unit, class_of, cut
from devhost.effect.plot import draw_plot
from devhost.effect.rows import REFERENCE, crowd_row, figures, paired
from devhost.effect.run import run
from devhost.effect.table import as_json, as_markdown
from devhost.environment import ROOT
from devhost.sampling import sample
from devhost.tiny.counting import PictureCount, count_objects
from devhost.tiny.forms import CLASS_TEXTS, CROWD_TEXTS, crowd_count
from devhost.tiny.scenes import random_scenes

SEED = 50_000
SOURCES = {"sd15": "weights", DRAWN: "scenes"}
SCENES = Cell(DRAWN, "one", "1x", DRAWN)
ONE = PictureCount(components=1, light_parts=1, overlap=0.9, edge=1.0)
TWO = replace(ONE, components=2)


def unit(*pictures, size="1x", method=PLAIN, subject="one"):
    return Unit(Cell("sd15", subject, size, method), pictures, SEED, SOURCES["sd15"])


def cell_of(kept, cell, counts, first=0):
    """Keep as many drawn scenes as there are counts, under a cell, with counts of our own."""
    numbers = range(first, first + len(counts))
    [record] = draw_all([Unit(replace(SCENES, size=cell.size), tuple(numbers), SEED, "any")], kept)
    named = replace(record.unit, cell=cell, source=SOURCES[cell.model])
    classes = tuple(class_of(cell.subject, number) for number in numbers)
    latents = kept.latents(record.latents).astype(np.float16)
    kept.append(
        replace(
            record,
            unit=named,
            classes=classes,
            counts=tuple(
                replace(count, asked=crowd_count(number))
                for count, number in zip(counts, classes, strict=True)
            ),
            latents=kept.save_latents(named, latents),
        )
    )


def draw_all(units, kept):
    return [drawing.draw(one, kept.folder) for one in units]


def wanted(count, cell=SCENES):
    return {cell: range(count)}


@pytest.fixture
def kept(tmp_path):
    return Kept(tmp_path / "kept")


@pytest.fixture
def importable(monkeypatch):
    """Let new processes find `devhost`, as they do where the command runs."""
    monkeypatch.syspath_prepend(str(ROOT))


# Pairs


@pytest.mark.parametrize("size", SIZES)
def test_a_picture_has_its_noise_whatever_the_method_and_the_batch(size):
    whole = drawing.start_noise(unit(0, 1, 2, 40, size=size))
    assert whole.shape == (4, 4, *SIZES[size])
    assert torch.equal(drawing.start_noise(unit(2, 40, size=size, method="HiDiffusion auto")), whole[2:])
    assert len({picture.sum().item() for picture in whole}) == 4


def test_a_block_has_one_sampler_seed_however_it_is_cut():
    assert {unit(first).sampler_seed for first in range(BLOCK)} == {SEED}
    assert unit(BLOCK).sampler_seed == SEED + 1
    for one in cut(wanted(3 * BLOCK + 5), {SCENES: set(range(7))}, SEED, SOURCES):
        assert len({number // BLOCK for number in one.pictures}) == 1


def test_the_batch_does_not_change_a_picture():
    classes, whole = drawing.sampled(unit(0, 3, 4))
    assert classes == [0, 3, 4]
    colours = [(picture[:3] * (picture[3] > 0)).sum((1, 2)).argmax().item() for picture in whole]
    assert colours == [0, 0, 1]  # as the prompts say
    parts = [drawing.sampled(unit(0))[1], drawing.sampled(unit(3, 4))[1]]
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-3, rtol=0)


def test_a_method_that_does_nothing_at_the_trained_size_gives_plain_bits():
    plain, cured = (drawing.sampled(unit(1, 5, method=method))[1] for method in (PLAIN, "Deep Shrink auto"))
    assert torch.equal(plain, cured)


def test_prompts_take_turns_and_name_what_is_counted():
    assert [class_of("one", number) for number in range(7)] == [0, 1, 2, 3, 4, 5, 0]
    several_objects = [class_of("many", number) for number in range(13)]
    assert several_objects == [*range(6, 18), 6]
    assert [crowd_count(number) for number in several_objects[::3]] == [2, 3, 4, 5, 2]


def test_a_conditioning_has_a_row_for_each_prompt_with_its_pooled_text():
    [[tokens, options]] = drawing.prompts("sdxl", [CLASS_TEXTS[0], CLASS_TEXTS[4], CLASS_TEXTS[0]])
    for rows in (tokens, options["pooled_output"]):
        assert len(rows) == 3
        assert torch.equal(rows[0], rows[2])
        assert not torch.equal(rows[0], rows[1])


# Methods


def test_every_method_applies_to_both_families_and_leaves_the_model_alone(sd15, sdxl):
    names = [*METHODS, curve_method("Deep Shrink", 0.35), curve_method("RAU-Net", 0.6)]
    for model in (sd15, sdxl):
        for name in names:
            assert (method_of(name)(model) is model) == (name == PLAIN)


def test_the_curve_of_deep_shrink_passes_through_its_automatic_end(sd15):
    size, seed = (32, 32), 5
    of_curve, auto = method_of(curve_method("Deep Shrink", 0.35))(sd15), METHODS["Deep Shrink auto"](sd15)
    assert torch.equal(sample(of_curve, size, seed=seed), sample(auto, size, seed=seed))


@pytest.mark.parametrize("subject", ["one", "many"])
def test_the_bound_begins_with_scenes_of_the_trained_size_as_asked(subject):
    begun = unit(0, 7, 11, size="2x", method=curve_method(SETTLED, 0.9), subject=subject)
    classes, latents = drawing.sampled(begun)
    scenes = drawing.enlarged_scenes(begun, classes)
    assert classes == [class_of(subject, picture) for picture in begun.pictures]
    assert all(count.exact for count in count_objects(scenes.numpy(), classes))
    assert scenes.shape == latents.shape == (3, 4, 32, 32)
    assert 0.01 < (latents - scenes).abs().mean() < 0.1  # sharpened, and not drawn anew


def test_the_bound_takes_the_last_steps_of_the_whole_sampling(sd15):
    whole, part = drawing.sigmas_from(sd15, 0.0), drawing.sigmas_from(sd15, 0.5)
    assert (len(whole), len(part)) == (STEPS + 1, STEPS // 2 + 1)
    assert torch.equal(whole[-len(part) :], part)
    assert part[0] <= sd15.get_model_object("model_sampling").percent_to_sigma(0.5) < whole[-len(part) - 1]


def test_names_on_a_curve_are_read_back():
    assert curve_point(curve_method("RAU-Net", 0.45)) == ("RAU-Net", 0.45)
    assert curve_point("RAU-Net published") is None
    with pytest.raises(KeyError):
        method_of("nothing")


def test_rau_net_with_the_published_end_is_the_published_one(sd15, sdxl):
    for model in (sd15, sdxl):
        call = first_call(model, (32, 32), torch.linspace(10, 0, 21))
        assert _Until(0.4).settings(call) == Published().settings(call)
    early, late = (_Until(end).settings(call) for end in (0.1, 0.8))  # SDXL: two phases
    assert (early.end_time, early.ca_start_time, early.ca_end_time) == (0.1, 0.1, 0.1)
    assert (late.end_time, late.ca_start_time, late.ca_end_time) == (0.16, 0.16, 0.8)


# What is kept


def test_an_interrupted_run_goes_on(kept):
    def interrupted(one, folder):
        if one.pictures[0] == BLOCK:
            raise KeyboardInterrupt
        return drawing.draw(one, folder)

    units = cut(wanted(2 * BLOCK + 3), {}, SEED, SOURCES)
    assert [one.pictures[0] for one in units] == [0, BLOCK, 2 * BLOCK]
    with pytest.raises(KeyboardInterrupt):
        run(units, kept, jobs=1, task=interrupted)
    found = samples(kept.records(), SEED, SOURCES)
    assert list(found[SCENES].counts) == list(range(BLOCK))
    rest = cut(wanted(2 * BLOCK + 3), {SCENES: found[SCENES].counts}, SEED, SOURCES)
    assert rest == units[1:]
    run(rest, kept, jobs=1)
    found = samples(kept.records(), SEED, SOURCES)
    assert cut(wanted(2 * BLOCK + 3), {SCENES: found[SCENES].counts}, SEED, SOURCES) == []
    once = torch.from_numpy(found[SCENES].latents(kept))
    torch.testing.assert_close(
        once, drawing.drawn_scenes(Unit(SCENES, tuple(range(67)), SEED, ""))[1], atol=1e-3, rtol=0
    )


def test_processes_give_what_one_process_gives(kept, importable, tmp_path):
    units = cut(wanted(2 * BLOCK), {}, SEED, SOURCES)
    run(units, kept, jobs=2)
    alone = Kept(tmp_path / "alone")
    run(units, alone, jobs=1)
    several, one = (samples(folder.records(), SEED, SOURCES)[SCENES] for folder in (kept, alone))
    assert several.counts == one.counts
    assert np.array_equal(several.latents(kept), one.latents(alone))


def test_an_error_ends_all_processes(kept, importable):
    long = Unit(replace(SCENES, size="3x"), tuple(range(4000)), SEED, "scenes")  # minutes
    broken = Unit(SCENES, (), SEED, "scenes")  # there is nothing to make a batch of
    began = time.monotonic()
    with pytest.raises(ValueError, match="non-empty"):
        run([long, broken], kept, jobs=2)
    assert time.monotonic() - began < 60
    for child in multiprocessing.active_children():
        child.join(timeout=20)
    assert multiprocessing.active_children() == []


def test_a_line_that_was_cut_off_is_no_unit_and_spoils_none(kept):
    records = draw_all(cut(wanted(2 * BLOCK), {}, SEED, SOURCES), kept)
    kept.append(records[0])
    with kept.lines.open("a") as file:
        file.write(records[1].as_json()[:100])
    assert list(kept.records()) == records[:1]
    kept.append(records[1])
    assert list(kept.records()) == records


def test_a_record_is_read_back_from_its_line(kept):
    [record] = draw_all([Unit(SCENES, (0, 4), SEED, "scenes")], kept)
    assert record_of(record.as_json()) == record
    for line in ("", "[]", "{}", '{"unit": 1}', "null"):
        with pytest.raises(ValueError):  # noqa: PT011
            record_of(line)


def test_counts_by_other_rules_are_made_again(kept):
    [record] = draw_all([Unit(SCENES, (0, 1, 2), SEED, "scenes")], kept)
    kept.append(replace(record, counts=(TWO,) * 3, counter="older rules"))
    [found] = kept.records()
    assert found.counts == record.counts != (TWO,) * 3
    assert found.counter == COUNTER
    assert list(found.counts) == count_objects(kept.latents(record.latents), record.classes)


def test_what_was_made_in_another_way_is_not_used(kept):
    [record] = draw_all([Unit(SCENES, (0,), SEED, "scenes")], kept)
    other_seed = replace(record, unit=replace(record.unit, seed=SEED + 1))
    other_source = replace(record, unit=replace(record.unit, source="older"))
    for other in (
        other_seed,
        other_source,
        replace(record, settings="euler"),
        replace(record, latents="lost.npz"),
    ):
        kept.append(other)
    assert samples(kept.records(), SEED, SOURCES) == {}
    kept.append(record)
    assert list(samples(kept.records(), SEED, SOURCES)) == [SCENES]


# The results


@pytest.fixture
def filled(kept):
    """A kept folder: plain has two objects in half of its pictures, Deep Shrink in the first;
    RAU-Net ends at two times.
    """
    for size in ("1x", "2x"):
        cell_of(kept, replace(SCENES, size=size), [ONE] * 32)
        cell_of(kept, replace(SCENES, size=size), [ONE] * 64, first=REFERENCE[0])
        cell_of(kept, Cell("sd15", "one", size, PLAIN), [ONE, TWO] * 16)
        cell_of(kept, Cell("sd15", "one", size, "Deep Shrink auto"), [TWO, *[ONE] * 31])
    for end in (0.35, 0.65):
        cell_of(kept, Cell("sd15", "one", "2x", curve_method("RAU-Net", end)), [ONE] * 20)
    cell_of(kept, Cell("sd15", "many", "2x", PLAIN), [replace(ONE, components=n) for n in (2, 2, 1, 6)])
    return kept


@pytest.fixture
def found(filled):
    return figures(filled, samples(filled.records(), SEED, SOURCES))


def test_rows_say_what_was_counted(found):
    places = [(row.model, row.size, row.method) for row in found.objects]
    assert places == [
        (model, size, method)
        for model, methods in ((DRAWN, [DRAWN]), ("sd15", [PLAIN, "Deep Shrink auto"]))
        for size in ("1x", "2x")
        for method in methods
    ]
    plain, cured = found.objects[-2:]
    assert (plain.n, plain.one, plain.whole, plain.mean_count) == (32, 0.5, 0.5, 1.5)
    assert plain.whole_change is None
    assert (cured.one, cured.one_change.gained, cured.one_change.lost) == (31 / 32, 16, 1)
    assert cured.one_interval == pytest.approx((0.843, 0.994), abs=1e-3)
    assert cured.edge_ratio == 1.0
    assert found.reference == 64


def test_distances_are_from_scenes_that_have_no_row(found):
    drawn, plain = found.objects[0], found.objects[2]
    assert drawn.n == 32
    assert drawn.composition == pytest.approx(plain.composition)  # the same latents here
    assert drawn.composition > 0
    assert found.objects[1].patches > 0
    assert all(point.row.composition is None for point in found.curves)  # too few


def test_a_crowd_is_compared_with_what_the_prompt_names(found):
    [row] = found.several_objects
    assert [crowd_count(class_of("many", number)) for number in range(4)] == [2, 2, 2, 3]
    assert row.ratio == pytest.approx((1 + 1 + 0.5 + 2) / 4)
    assert (row.exact, row.fewer, row.more) == (0.5, 0.25, 0.25)


def test_only_pictures_that_both_have_are_compared(filled):
    known = samples(filled.records(), SEED, SOURCES)
    plain = known[Cell("sd15", "one", "2x", PLAIN)]
    few = plain.only(lambda number: number in (1, 2, 3, 99))
    changed = replace(few, counts={1: ONE, 2: TWO, 3: TWO})
    result = paired(plain, changed, lambda count: count.exactly_one)
    assert (result.gained, result.lost) == (1, 1)
    changed = replace(few, counts={1: ONE, 3: ONE})
    assert paired(changed, plain, lambda count: count.exactly_one).lost == 2
    crowd = Cell("sd15", "many", "2x", PLAIN)
    assert crowd_row(crowd, known[crowd], known[crowd]).exact_change.p == 1.0


def test_the_table_has_every_row_and_the_json_every_number(found):
    lines = as_markdown(found, "Title").splitlines()
    assert lines[0] == "# Title"
    rows = [line for line in lines if line.startswith("|") and "---" not in line]
    assert len(rows) == 1 + 6 + 1 + 1 + 1 + 2
    assert len({line.count("|") for line in rows[:7]}) == 1
    [cured] = [line for line in rows if "| 2x | Deep Shrink auto |" in line]
    assert "| 32 | 0.969 (0.84 to 0.99) |" in cured
    assert "| +16 / -1, 0.0003 |" in cured
    values = json.loads(as_json(found, {"seed": SEED}))
    assert values["seed"] == SEED
    assert values["objects"][-1]["whole_change"] == {
        "gained": 16,
        "lost": 1,
        "p": pytest.approx(0.000275, abs=1e-6),
    }
    assert [point["end"] for point in values["curves"]] == [0.35, 0.65]


def test_the_plot_is_small_and_drawn_for_every_model(found, tmp_path):
    draw_plot(found, tmp_path / "one.png")
    both = replace(
        found, objects=found.objects + tuple(replace(row, model="sdxl") for row in found.objects[2:])
    )
    draw_plot(both, tmp_path / "two.png")
    with Image.open(tmp_path / "one.png") as one, Image.open(tmp_path / "two.png") as two:
        assert two.size == (one.width, 2 * one.height)
        assert one.width <= 1400
    assert (tmp_path / "two.png").stat().st_size < 400_000


def test_the_command_samples_once_and_writes_all_results(tmp_path, capsys):
    small = ["--model", "sd15", "--quick", "--pictures", "4", "--parts", "one", "--sizes", "1x"]
    arguments = [*small, "--methods", "Deep Shrink auto", "--jobs", "1", "--out", str(tmp_path)]
    assert command.main([*arguments, "--render-only"]) == 1
    assert command.main(arguments) == 0
    lines = (tmp_path / "kept" / "units.jsonl").read_text()
    first = {file.name: file.read_bytes() for file in tmp_path.glob("effect.*")}
    assert sorted(first) == ["effect.json", "effect.md", "effect.png"]
    assert json.loads(first["effect.json"])["objects"][1]["n"] == 4
    capsys.readouterr()
    assert command.main(arguments) == 0
    assert "/" not in capsys.readouterr().err  # nothing to do
    assert (tmp_path / "kept" / "units.jsonl").read_text() == lines
    for file in tmp_path.glob("effect.*"):
        file.unlink()
    assert command.main(["--render-only", "--out", str(tmp_path)]) == 0
    assert {file.name: file.read_bytes() for file in tmp_path.glob("effect.*")} == first


def test_a_wish_names_every_cell_once():
    options = command._parse(["--quick", "--methods", "main", "Deep Shrink known", "--model", "sd15"])
    cells = command._wish(options).cells()
    by_part = {
        part: [
            cell
            for cell in cells
            if cell.subject == part and cell.model == "sd15" and not curve_point(cell.method)
        ]
        for part in ("one", "many")
    }
    assert [len(chosen) for chosen in by_part.values()] == [8, 8]
    assert {len(cells[cell]) for cell in by_part["one"]} == {command.QUICK_PICTURES}
    assert {len(cells[cell]) for cell in by_part["many"]} == {len(CROWD_TEXTS)}
    assert sum(curve_point(cell.method) is not None for cell in cells) == len(CURVES) * 2 * 2
    assert set(cells[Cell(DRAWN, "one", "2x", DRAWN)]) > set(range(32))


def test_residual_noise_is_the_noise_of_the_background_alone():
    scenes = random_scenes(24, (32, 32), torch.Generator().manual_seed(3)).latents(samples=4).numpy()
    noise = np.random.default_rng(4).normal(0, 0.1, scenes.shape)
    assert residual_noise(scenes) < 0.01
    assert residual_noise(scenes + noise) == pytest.approx(0.1 * (8 / 9) ** 0.5, rel=0.1)
    assert residual_noise(scenes + noise * (scenes[:, 3:] > 0)) < 0.01


def test_the_sheet_has_a_block_for_each_method(filled, tmp_path):
    known = samples(filled.records(), SEED, SOURCES)
    chosen = {cell: sample for cell, sample in known.items() if cell.method != DRAWN}
    [file] = command.draw_sheets(filled, chosen, tmp_path)
    assert file.name == "sheet_sd15_2x.png"
    assert file.stat().st_size < 400_000
    alone = {cell: sample for cell, sample in chosen.items() if cell.method == PLAIN}
    with Image.open(file) as both:
        width, height = both.size
    [file] = command.draw_sheets(filled, alone, tmp_path)
    with Image.open(file) as one:
        assert one.width == width
        assert one.height < 0.7 * height
