"""The nodes around Upscale SEGS: makers, preview, filter, sharing, hook and scheduler function."""

from __future__ import annotations

from types import SimpleNamespace

import comfy.supported_models
import folder_paths
import numpy as np
import pytest
import torch
from comfy.cli_args import args
from megapixel.host.save_progress import SaveProgress
from megapixel.host.sigmas import resample_levels
from megapixel.nodes.segs_filter import MegapixelSEGSFilter
from megapixel.nodes.segs_hooks import MegapixelSaveProgressHook, MegapixelSchedulerFunction
from megapixel.nodes.segs_makers import MegapixelFacesToSEGS, MegapixelMaskToSEGS, MegapixelTilesToSEGS
from megapixel.nodes.segs_preview import MegapixelSEGSPreview
from megapixel.nodes.segs_share import MegapixelSEGSMerge, MegapixelSEGSSend, MegapixelSEGSSlice
from megapixel.patches.trained_size import TABLE, trained_pixels
from megapixel.segs.segment import SEG, FrameSEG, Slice
from PIL import Image

from devhost.tiny import topology
from devhost.tiny.faces import Portrait, draw_portraits
from devhost.tiny.families import FAMILIES
from devhost.tiny.random_models import random_state
from devhost.tiny.unet import build_unet

MASK = {"combined": False, "crop_factor": 1.5, "bbox_fill": False, "drop_size": 1, "contour_fill": False}
ALL = {
    "labels": "", "order": "as found", "reverse": False, "min_confidence": 0.0,
    "min_size": 0, "max_size": 0, "first": 0, "count": 0,
}  # fmt: skip


def squares(*boxes, size=(60, 90)):
    """Return a mask with a white square for each (top, left, side)."""
    mask = torch.zeros(size)
    for top, left, side in boxes:
        mask[top : top + side, left : left + side] = 1
    return mask


def segment(left, top, side, label="a", confidence=1.0):
    corners = (left, top, left + side, top + side)
    return SEG(None, np.ones((side, side), dtype=np.float32), confidence, corners, corners, label)


def test_a_mask_becomes_a_segment_for_each_part_of_it_in_the_masks_size():
    [(size, segments)] = MegapixelMaskToSEGS.execute(squares((5, 10, 8), (30, 50, 20)), **MASK).args
    assert size == (60, 90)
    assert [entry.bbox for entry in segments] == [(50, 30, 70, 50), (10, 5, 18, 13)]
    assert [entry.label for entry in segments] == ["mask", "mask"]
    assert type(segments[0]) is SEG


def test_several_masks_are_the_segments_of_several_frames():
    masks = torch.stack([squares((5, 10, 8)), squares(), squares((0, 0, 9), (40, 70, 20))])
    [(_, segments)] = MegapixelMaskToSEGS.execute(masks, label="x", **MASK).args
    assert [entry.frame for entry in segments] == [0, 2, 2]
    assert all(isinstance(entry, FrameSEG) and entry.label == "x" for entry in segments)


def test_an_empty_tensor_of_masks_is_an_error_message():
    with pytest.raises(
        ValueError, match=r"mask: expected masks of at least 1x1 pixels, got a tensor of 0x5x5\. "
    ):
        MegapixelMaskToSEGS.execute(torch.zeros(0, 5, 5), **MASK)


def test_tiles_cover_the_picture_and_a_mask_of_any_size_chooses_among_them():
    image = torch.rand(1, 100, 150, 3, generator=torch.Generator().manual_seed(0))
    [(size, tiles)] = MegapixelTilesToSEGS.execute(image, 64, 16).args
    assert size == (100, 150)
    assert len(tiles) == 6
    assert {entry.cropped_mask.shape for entry in tiles} == {(64, 64)}
    corner = torch.zeros(1, 20, 30)
    corner[:, :2, :2] = 1  # the upper left ten by ten pixels of the picture
    [(_, chosen)] = MegapixelTilesToSEGS.execute(image, 64, 16, corner).args
    assert [entry.crop_region for entry in chosen] == [(0, 0, 64, 64)]


def test_the_preview_draws_each_segment_where_it_is_and_leaves_the_picture_as_it_was():
    grey = 128 / 255  # a value that eight bits hold
    picture = torch.full((2, 600, 900, 3), grey)
    kept = picture.clone()
    segs = ((60, 90), [segment(10, 5, 20), FrameSEG.of(segment(60, 30, 20), 1)])
    drawn = MegapixelSEGSPreview.execute(segs, picture).args[0]
    assert torch.equal(picture, kept)
    changed = (drawn - grey).abs().amax(dim=-1) > 1e-6
    inside_first, inside_second = (slice(80, 240), slice(110, 290)), (slice(330, 490), slice(610, 790))
    for frame, here in ((0, inside_first), (1, inside_first), (1, inside_second)):
        assert changed[frame][here].all()
    assert not changed[0][inside_second].any()
    assert not changed[:, 520:, :500].any()


def test_the_preview_needs_no_picture_and_takes_grey_ones():
    segs = ((60, 90), [segment(10, 5, 20)])
    for given in (None, torch.zeros(1, 30, 45, 1)):
        drawn = MegapixelSEGSPreview.execute(segs, given).args[0]
        assert drawn.shape[-1] == 3
        assert max(drawn.shape[1:3]) >= 512
        assert drawn.std() > 0


def test_the_filter_chooses_joins_and_gives_back_the_rest():
    first = ((60, 90), [segment(0, 0, 10, "face", 0.9), segment(50, 0, 20, "hand", 0.3)])
    more = ((60, 90), [segment(70, 40, 15, "face", 0.6)])
    chosen, others, count = MegapixelSEGSFilter.execute(
        first, **{**ALL, "labels": "face, foot", "order": "area"}, more_segs=more
    ).args
    assert [entry.bbox[0] for entry in chosen[1]] == [70, 0]
    assert [entry.label for entry in others[1]] == ["hand"]
    assert (chosen[0], others[0], count) == ((60, 90), (60, 90), 2)


def test_lists_of_pictures_of_other_sizes_are_not_joined():
    with pytest.raises(
        ValueError, match=r"more_segs: expected segments of an image of 90x60, as in segs, got 9x6\. "
    ):
        MegapixelSEGSFilter.execute(
            ((60, 90), [segment(0, 0, 10)]), **ALL, more_segs=((6, 9), [segment(0, 0, 5)])
        )


def test_a_list_of_nothing_joins_any_other():
    found, nothing = ((60, 90), [segment(0, 0, 10)]), ((0, 0), [])
    for first, more in ((found, nothing), (nothing, found)):
        chosen, _, count = MegapixelSEGSFilter.execute(first, **ALL, more_segs=more).args
        assert (chosen, count) == (found, 1)


def test_the_preview_draws_a_frame_with_its_own_mask():
    masks = np.zeros((2, 20, 20), np.float32)
    masks[0, :, :10], masks[1, :, 10:] = 1, 1
    segs = ((60, 90), [segment(10, 5, 20)._replace(cropped_mask=masks, bbox=(60, 30, 70, 40))])
    drawn = MegapixelSEGSPreview.execute(segs, torch.full((2, 600, 900, 3), 0.5)).args[0]
    left, right = (slice(90, 210), slice(120, 190)), (slice(90, 210), slice(210, 280))
    for frame, white, black in ((0, left, right), (1, right, left)):
        assert (drawn[frame][white].std(dim=-1) > 0.05).all()
        assert (drawn[frame][black].std(dim=-1) < 0.01).all()


def test_slices_hold_every_segment_once_and_an_index_beyond_the_workers_is_an_error_message():
    segs = ((60, 90), [segment(left, 0, 10) for left in range(0, 80, 10)])
    shares = [MegapixelSEGSSlice.execute(segs, index, 3, False).args[0][1] for index in range(3)]
    assert sorted(entry.bbox[0] for share in shares for entry in share) == list(range(0, 80, 10))
    with pytest.raises(
        ValueError, match=r"index: expected 0 to 2 for 3 workers, got 3\. The first worker is 0\."
    ):
        MegapixelSEGSSlice.execute(segs, 3, 3, False)


def test_results_are_merged_frame_by_frame_and_other_sizes_are_one_sentence():
    image = torch.rand(2, 8, 9, 3, generator=torch.Generator().manual_seed(1))
    first, second = image.clone(), image.clone()
    first[0, :3], second[1, :, 4:] = 0.25, 0.75
    merged = MegapixelSEGSMerge.execute(image, torch.cat([first, second])).args[0]
    expected = image.clone()
    expected[0, :3], expected[1, :, 4:] = 0.25, 0.75
    assert torch.equal(merged, expected)
    for results in (torch.zeros(3, 8, 9, 3), torch.zeros(2, 8, 8, 3)):
        with pytest.raises(
            ValueError, match=r"results: expected images of 9x8 with 3 channels, a multiple of 2 frames, got "
        ):
            MegapixelSEGSMerge.execute(image, results)


WHOLE = ((60, 90), [segment(left, 0, 10) for left in range(0, 80, 10)])


def white(image, segs):
    """Return IMAGE with its segments white."""
    result = image.clone()
    for entry in segs[1]:
        left, top, right, bottom = entry.crop_region
        result[:, top:bottom, left:right] = 1.0
    return result


def sent(image, index, count, segs=WHOLE):
    """Return what one worker sends that makes its segments white, as a PNG brings it."""
    share = MegapixelSEGSSlice.execute(segs, index, count, False).args[0]
    result = white(image, share)
    batch = MegapixelSEGSSend.execute(result, image, share).args[0]
    return (batch * 255).clamp(0, 255).byte().float() / 255


@pytest.fixture
def plain():
    return torch.rand(1, 60, 90, 3, generator=torch.Generator().manual_seed(1)) * 0.9


@pytest.mark.parametrize("orchestrates", [False, True], ids=["master works", "master only orchestrates"])
def test_sent_results_are_merged_and_nothing_is_missing(orchestrates, plain):
    results = torch.cat([sent(plain, index, 3) for index in range(3)])
    given = {} if orchestrates else {"image": plain, "segs": WHOLE}
    with torch.inference_mode():
        merged = MegapixelSEGSMerge.execute(results=results, **given)
    picture, missing = merged.args
    assert merged.ui is None
    assert bool((picture[:, :10, :80] == 1).all())
    difference = (picture - plain)[:, 10:]
    assert difference.abs().max() <= (0.51 / 255 if orchestrates else 0)
    assert missing == (((60, 90), []) if not orchestrates else ((0, 0), []))


def test_sent_results_without_a_change_are_reported(plain, caplog):
    caplog.set_level("INFO", logger="megapixel")
    shares = [MegapixelSEGSSlice.execute(WHOLE, index, 2, False).args[0] for index in range(2)]
    results = torch.cat([MegapixelSEGSSend.execute(plain, plain, share).args[0] for share in shares])
    merged = MegapixelSEGSMerge.execute(plain, results, segs=WHOLE)
    assert torch.equal(merged.args[0], plain)
    [shown] = merged.ui.as_dict()["text"]
    text = "results: nothing to do, no worker changed a pixel of image."
    assert shown.split("\n") == [
        "results: a worker was cancelled or had NaN: 8 of 8 segments are not refined. They are in the output missing.",
        text,
    ]
    assert caplog.messages.count(text) == 1


@pytest.mark.parametrize("orchestrates", [False, True], ids=["master works", "master only orchestrates"])
def test_segments_that_a_cancelled_worker_left_come_out_as_missing(orchestrates, plain, caplog):
    share = MegapixelSEGSSlice.execute(WHOLE, 0, 2, False).args[0]
    done, left = share[1].positions[:1], share[1].positions[1:]
    half = (WHOLE[0], Slice(WHOLE[1], done, 0, 2))
    result = white(plain, half)
    cancelled = MegapixelSEGSSend.execute(result, plain, share).args[0]
    results = torch.cat([cancelled, sent(plain, 1, 2)])
    given = {} if orchestrates else {"image": plain, "segs": WHOLE}
    merged = MegapixelSEGSMerge.execute(results=results, **given)
    what = "They stay unrefined." if orchestrates else "They are in the output missing."
    text = f"results: a worker was cancelled or had NaN: {len(left)} of 8 segments are not refined. {what}"
    assert merged.ui.as_dict()["text"] == (text,)
    assert text in caplog.messages
    if not orchestrates:
        assert merged.args[1][1].positions == left


def test_segments_of_a_lost_worker_come_out_as_missing_and_are_refined_like_a_slice(plain, caplog):
    results = torch.cat([sent(plain, index, 3) for index in (0, 2)])
    merged = MegapixelSEGSMerge.execute(plain, results, segs=WHOLE)
    size, missing = merged.args[1]
    lost = MegapixelSEGSSlice.execute(WHOLE, 1, 3, False).args[0][1]
    assert size == (60, 90)
    assert (missing.whole, missing.positions) == (WHOLE[1], lost.positions)
    text = f"results: slice 1 of 0 to 2 is missing: {len(lost)} of 8 segments are not refined. They are in the output missing."
    assert merged.ui.as_dict()["text"] == (text,)
    assert caplog.messages.count(text) == 1


STOPS = {"stop": {"segs": WHOLE, "on_missing": "stop"}, "nobody can refine them": {}}


@pytest.mark.parametrize("settings", STOPS.values(), ids=STOPS)
def test_a_lost_worker_ends_the_run_where_nobody_refines_its_segments(settings, plain):
    results = torch.cat([sent(plain, index, 3) for index in (0, 2)])
    with pytest.raises(
        ValueError, match=r"^results: expected all 3 slices, got fewer: slice 1 of 0 to 2 is missing: "
    ):
        MegapixelSEGSMerge.execute(plain, results, **settings)


def test_a_count_above_the_number_of_workers_is_a_lost_worker(plain):
    results = torch.cat([sent(plain, index, 4) for index in range(3)])
    merged = MegapixelSEGSMerge.execute(plain, results, segs=WHOLE, on_missing="leave")
    [text] = merged.ui.as_dict()["text"]
    assert text.startswith(
        "results: slice 3 of 0 to 3 is missing: 2 of 8 segments are not refined. They stay "
    )


def test_pictures_of_eight_bits_without_a_description_are_reported(plain, caplog):
    caplog.set_level("INFO", logger="megapixel")
    result = plain.clone()
    result[:, :10] = 1.0
    eight_bits = (result * 255).byte().float() / 255
    merged = MegapixelSEGSMerge.execute(plain, torch.cat([result, eight_bits]), 0.002)
    [text] = merged.ui.as_dict()["text"]
    assert text.startswith("results: a worker's image has only 8 bits, ")
    assert caplog.messages.count(text) == 1
    caplog.clear()
    assert MegapixelSEGSMerge.execute(plain, torch.cat([result, result])).ui is None


def test_what_cannot_be_merged_or_sent_is_an_error_message(plain):
    with pytest.raises(ValueError, match=r"^results: expected the workers' images, got nothing\. "):
        MegapixelSEGSMerge.execute(plain)
    with pytest.raises(
        ValueError,
        match=r"^results: expected frames of Send SEGS Result, because image is not connected, got none",
    ):
        MegapixelSEGSMerge.execute(results=plain)
    with pytest.raises(ValueError, match=r"^segs: expected the 8 segments of the workers, got 1\. "):
        MegapixelSEGSMerge.execute(plain, sent(plain, 0, 1), segs=((60, 90), WHOLE[1][:1]))
    with pytest.raises(
        ValueError, match=r"^result: expected images of 90x60 with 3 channels, as in image, got 90x59 "
    ):
        MegapixelSEGSSend.execute(plain[:, 1:], plain, WHOLE)


@pytest.fixture
def output(tmp_path, monkeypatch):
    before = folder_paths.get_output_directory()
    folder_paths.set_output_directory(str(tmp_path))
    yield tmp_path
    folder_paths.set_output_directory(before)


def test_the_progress_hook_saves_the_picture_so_far_to_one_file_a_run(output):
    hook = SaveProgress("halfway/there", 0.0, {"workflow": {"nodes": []}})
    picture = torch.zeros(1, 6, 8, 3)
    for brightness in (0.25, 0.5):
        picture += 0.25
        assert hook.post_paste(picture) is picture
        [file] = (output / "halfway").iterdir()
        with Image.open(file) as saved:
            assert np.asarray(saved)[0, 0, 0] == round(brightness * 255)
            assert saved.text["workflow"] == '{"nodes": []}'
    hook.post_paste(torch.ones(1, 6, 8, 1))  # another run: another file, a grey one
    assert len(list((output / "halfway").iterdir())) == 2


@pytest.mark.parametrize("disabled", [False, True])
def test_the_progress_hook_saves_the_workflow_only_where_the_host_does(disabled, output, monkeypatch):
    monkeypatch.setattr(args, "disable_metadata", disabled)
    monkeypatch.setattr(
        MegapixelSaveProgressHook, "hidden", SimpleNamespace(prompt={"1": {}}, extra_pnginfo={"workflow": {}})
    )
    [hook] = MegapixelSaveProgressHook.execute("p", 0.0).args
    hook.post_paste(torch.zeros(1, 6, 8, 3))
    [file] = output.iterdir()
    with Image.open(file) as saved:
        assert set(saved.text) == (set() if disabled else {"prompt", "workflow"})


def test_the_progress_hook_waits_between_two_saves(output):
    hook = SaveProgress("p", 3600.0, {})
    hook.post_paste(torch.zeros(1, 6, 8, 4))
    assert not list(output.iterdir())


def test_a_curve_of_noise_levels_is_kept_at_any_number_of_steps():
    sigmas = torch.cat([torch.logspace(1, -1, 21), torch.zeros(1)])
    [function] = MegapixelSchedulerFunction.execute(sigmas).args
    assert function(None, "euler", 21) is sigmas
    for steps in (1, 2, 7, 40):
        levels = function(None, "euler", steps)
        assert len(levels) == steps + 1
        assert levels[-1] == 0
        assert bool((levels.diff() < 0).all())
    assert torch.allclose(function(None, "euler", 41)[:-1:2], sigmas[:-1], rtol=1e-5)


def test_a_curve_without_a_zero_at_its_end_keeps_both_ends():
    levels = resample_levels(torch.tensor([8.0, 4.0, 2.0]), 4)
    assert torch.allclose(levels, torch.tensor([8.0, 32**0.5, 4.0, 8**0.5, 2.0]))


def test_one_noise_level_is_no_schedule():
    with pytest.raises(
        ValueError,
        match=r"sigmas: expected at least 2 noise levels, got 1\. A single step needs two noise levels, its start and its end\.",
    ):
        MegapixelSchedulerFunction.execute(torch.ones(1))


def test_a_share_of_a_share_still_knows_all_segments():
    segs = ((60, 90), [segment(left, 0, 10) for left in range(0, 80, 10)])
    half = MegapixelSEGSSlice.execute(segs, 0, 2, False).args[0]
    [quarter, other] = [MegapixelSEGSSlice.execute(half, index, 2, False).args[0][1] for index in range(2)]
    assert sorted([*quarter.positions, *other.positions]) == half[1].positions
    assert quarter.whole == other.whole == segs[1]
    assert list(quarter) == [segs[1][position] for position in quarter.positions]


PORTRAITS = [Portrait(1, (60.0, 70.0), 48.0), Portrait(2, (200.0, 90.0), 80.0)]


def test_faces_become_segments_of_their_heads_the_largest_first(face_analysis):
    image = torch.from_numpy(draw_portraits((180, 280), *PORTRAITS)).float()[None] / 255
    [(size, segments)] = MegapixelFacesToSEGS.execute(face_analysis, image, 2.0, "ellipse", 1.2).args
    assert size == (180, 280)
    assert [entry.label for entry in segments] == ["face", "face"]
    for entry, portrait in zip(segments, reversed(PORTRAITS), strict=True):
        top, left, bottom, right = portrait.box
        assert np.abs(np.array(entry.bbox) - (left, top, right, bottom)).max() < 4
        assert entry.confidence == pytest.approx(0.9, abs=0.05)
        left, top, right, bottom = entry.crop_region
        mask = torch.zeros(size)
        mask[top:bottom, left:right] = torch.from_numpy(entry.cropped_mask)
        x, y = portrait.nose
        for share, inside in ((0.5, True), (0.58, True), (0.64, False)):  # of the width, to either side
            assert bool(mask[round(y), round(x + share * portrait.width)]) == inside
            assert bool(mask[round(y), round(x - share * portrait.width)]) == inside
        assert not mask[round(y + 0.75 * portrait.width), round(x + 0.5 * portrait.width)]


def test_faces_of_several_pictures_belong_to_their_frames_and_a_box_has_corners(face_analysis):
    pictures = [draw_portraits((180, 280), *faces) for faces in ([], PORTRAITS[:1], PORTRAITS[1:])]
    image = torch.from_numpy(np.stack(pictures)).float() / 255
    [(_, segments)] = MegapixelFacesToSEGS.execute(face_analysis, image, 1.0, "box", 1.0).args
    assert [entry.frame for entry in segments] == [1, 2]
    assert all(entry.cropped_mask.all() for entry in segments)


@pytest.mark.parametrize(("factor", "side"), [(2.0, 256), (1.0, 512), (1.5, 344), (4.0, 128)])
def test_tiles_of_size_0_are_of_the_models_trained_size_when_they_are_enlarged(sd15, factor, side):
    image = torch.zeros(1, 1024, 1100, 3)
    [(_, tiles)] = MegapixelTilesToSEGS.execute(image, 0, 32, model=sd15, rescale_factor=factor).args
    assert {tile.cropped_mask.shape for tile in tiles} == {(side, side)}
    assert abs(side * factor - 512) <= 4 * factor


def test_tiles_of_size_0_need_a_model_that_is_known(sd15):
    image = torch.zeros(1, 64, 64, 3)
    with pytest.raises(
        ValueError,
        match=r"^tile_size: expected a connected model, because tile_size is 0, got none\. Connect model\.",
    ):
        MegapixelTilesToSEGS.execute(image, 0, 16)
    unknown = FAMILIES["Anima"].model()
    with pytest.raises(
        ValueError, match=r"^tile_size: expected a size in pixels, because the trained size of Anima"
    ):
        MegapixelTilesToSEGS.execute(image, 0, 16, model=unknown)
    with pytest.raises(ValueError, match=r"^tile_size: expected 0 or at least 32, got 24"):
        MegapixelTilesToSEGS.execute(image, 24, 16)


def test_each_trained_size_has_a_source_and_belongs_to_one_row():
    names = [name for row in TABLE for name in (*row.models, *row.latents)]
    assert len(names) == len(set(names))
    assert all(row.source and row.pixels % 16 == 0 for row in TABLE)


@pytest.mark.parametrize(
    ("name", "pixels"),
    [
        ("Flux", 1024),
        ("Flux.2", 1024),
        ("Qwen-Image", 1328),
        ("Z-Image", 1024),
        ("Krea 2", 1024),
        ("Wan", None),
    ],
)
def test_the_trained_size_of_a_family(name, pixels):
    assert trained_pixels(FAMILIES[name].model().model) == pixels


VIDEO = {
    "in_channels": 8, "num_head_channels": 16, "num_heads": -1, "num_classes": "sequential", "merge_factor": 0.0,
    "merge_strategy": "learned_with_images", "video_kernel_size": [3, 1, 1], "extra_ff_mix_layer": True,
    "disable_temporal_crossattention": False, "use_temporal_attention": True, "use_temporal_resblock": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "width", "pixels"), [("SVD_img2vid", 768, 768), ("SV3D_u", 256, 576), ("SV3D_p", 1280, 576)]
)
def test_the_trained_size_of_a_video_model_is_not_that_of_the_images_whose_latents_it_has(
    name, width, pixels
):
    family, config = getattr(comfy.supported_models, name), topology.SD15 | VIDEO | {"adm_in_channels": width}
    model = build_unet(family, config, lambda network: random_state(network, 0))
    assert trained_pixels(model.model) == pixels
