"""Every condition under which a node changes nothing: one line in the log and the same text at the node; an
ordinary run has neither.
"""

from __future__ import annotations

import inspect
import logging
import shutil
import sys

import numpy as np
import pytest
import torch
from megapixel.host import upscale_hints
from megapixel.host.compat import SHOWN_AGAIN
from megapixel.nodes import (
    NODES,
    MegapixelDeepShrink,
    MegapixelFaceKeypoints,
    MegapixelFacesToSEGS,
    MegapixelHiDiffusion,
    MegapixelMaskToSEGS,
    MegapixelMSWMSA,
    MegapixelPlan,
    MegapixelRAUNet,
    MegapixelSEGSFilter,
    MegapixelSEGSMerge,
    MegapixelSEGSPreview,
    MegapixelSEGSSend,
    MegapixelSEGSSlice,
    MegapixelSEGSTexts,
    MegapixelSEGSUpscale,
    MegapixelTilesToSEGS,
    MegapixelUpscale,
)
from megapixel.segs.segment import SEG, FrameSEG

from devhost.sampling import sample
from devhost.tiny import random_models
from devhost.tiny.faces import Portrait, draw_portraits
from devhost.tiny.random_models import conditioning

REPORTING = [
    node for node in NODES if "host.notice import" in inspect.getsource(sys.modules[node.__module__])
]
SIZE = (48, 64)
BLACK = torch.zeros(1, *SIZE)


@pytest.fixture(autouse=True)
def all_lines(caplog):
    caplog.set_level(logging.INFO, logger="megapixel")


def defaults(node):
    """The values that the front end would send for a node's widgets."""
    values = {}
    for socket in node.define_schema().inputs:
        default = getattr(socket, "default", None)
        options = getattr(socket, "options", None)
        if default is not None or options:
            values[socket.id] = default if default is not None else options[0]
    return values


def run(node, **inputs):
    """Return a node's result with its other widgets at their defaults."""
    inputs = defaults(node) | inputs
    taken = inspect.signature(node.execute).parameters
    if not any(each.kind is each.VAR_KEYWORD for each in taken.values()):
        inputs = {name: value for name, value in inputs.items() if name in taken}
    with torch.inference_mode():
        return node.execute(**inputs)


def shown(result):
    """The text at the node."""
    given = result.ui if isinstance(result.ui, dict) or result.ui is None else result.ui.as_dict()
    return "\n".join((given or {}).get("text", ()))


def reported(result, caplog):
    """The text at the node, which must be what the log says, one line each."""
    text = shown(result)
    lines = [record.getMessage() for record in caplog.records if record.name == "megapixel"]
    assert text
    for line in text.split("\n"):
        assert lines.count(line) == 1
    return text


def assert_silent(result, caplog):
    assert shown(result) == ""
    assert not [line for line in caplog.messages if "nothing to do" in line]


def segs_of(*boxes, size=SIZE, frame=None, mask=1.0):
    made = [
        SEG(None, np.ones((y2 - y1, x2 - x1), np.float32) * mask, 0.9, (x1, y1, x2, y2), (x1, y1, x2, y2), "thing", None)
        for x1, y1, x2, y2 in boxes
    ]  # fmt: skip
    return size, [made_one if frame is None else FrameSEG.of(made_one, frame) for made_one in made]


ONE = segs_of((0, 0, 32, 32))
TWO = segs_of((0, 0, 32, 32), (32, 0, 64, 32))
NONE = segs_of()
NOWHERE = ((0, 0), [])  # what other packs return where they find nothing


@pytest.mark.skipif(not SHOWN_AGAIN, reason="new after ComfyUI 0.18")
@pytest.mark.parametrize("node", REPORTING, ids=lambda node: node.__name__)
def test_what_a_node_reports_is_shown_again_where_its_result_is_cached(node):
    assert node.OUTPUT_NODE or node.HAS_INTERMEDIATE_OUTPUT


# Makers and choosers of segments


MASKS = {
    "black": (BLACK, {}, "mask: nothing to do, the mask is black: there is no segment."),
    "specks": (
        torch.zeros(1, *SIZE).index_fill(2, torch.tensor(3), 1.0), {"drop_size": 60},
        "mask: nothing to do, every region is smaller than drop_size: there is no segment.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MASKS)
def test_a_mask_without_a_segment(case, caplog):
    mask, settings, text = MASKS[case]
    assert reported(run(MegapixelMaskToSEGS, mask=mask, **settings), caplog) == text
    caplog.clear()
    assert_silent(run(MegapixelMaskToSEGS, mask=torch.ones(1, *SIZE)), caplog)


def test_tiles_under_a_black_mask(caplog):
    image, settings = torch.zeros(1, *SIZE, 3), {"tile_size": 32, "overlap": 8}
    result = run(MegapixelTilesToSEGS, image=image, mask=BLACK, **settings)
    assert reported(result, caplog) == "mask: nothing to do, the mask is black: there is no tile."
    caplog.clear()
    for mask in (None, torch.ones(1, *SIZE)):
        assert_silent(run(MegapixelTilesToSEGS, image=image, mask=mask, **settings), caplog)


@pytest.fixture(scope="module")
def portrait():
    return torch.from_numpy(draw_portraits((200, 301), Portrait(1, (150, 100), 80)))[None].float() / 255


NOBODY = torch.zeros(1, 200, 301, 3)


def test_no_face(face_analysis, portrait, caplog):
    result = run(MegapixelFacesToSEGS, faceanalysis=face_analysis, image=NOBODY)
    assert reported(result, caplog).startswith(
        "image: nothing to do, no face was detected: there is no segment."
    )
    result = run(MegapixelFaceKeypoints, faceanalysis=face_analysis, image=NOBODY)
    assert reported(result, caplog).startswith("image: nothing to do, no image shows the chosen face")
    caplog.clear()
    for node in (MegapixelFacesToSEGS, MegapixelFaceKeypoints):
        assert_silent(run(node, faceanalysis=face_analysis, image=portrait), caplog)


def test_some_pictures_without_a_face(face_analysis, portrait, caplog):
    some = torch.cat([portrait, NOBODY])
    text = "image: expected the chosen face, got none in image 2 of 2 (0 found)."
    result = run(MegapixelFacesToSEGS, faceanalysis=face_analysis, image=some)
    assert reported(result, caplog) == f"{text} There is no segment in it."
    result = run(MegapixelFaceKeypoints, faceanalysis=face_analysis, image=some)
    assert reported(result, caplog) == f"{text} The result is black there."


FILTERS = {
    "neutral": (TWO, {}, "segs: nothing to do, no condition is set."),
    "none chosen": (TWO, {"labels": "other"}, "segs: nothing to do, none of 2 segments is selected."),
    "none given": (NONE, {}, "segs: nothing to do, none of 0 segments is selected."),
    "nothing found": (NOWHERE, {}, "segs: nothing to do, none of 0 segments is selected."),
}


@pytest.mark.parametrize("case", FILTERS)
def test_a_filter_that_chooses_nothing_or_has_no_condition(case, caplog):
    segs, settings, text = FILTERS[case]
    assert reported(run(MegapixelSEGSFilter, segs=segs, **settings), caplog) == text
    caplog.clear()
    for settings in (
        {"labels": "thing"},
        {"order": "area"},
        {"reverse": True},
        {"count": 1},
        {"more_segs": ONE},
    ):
        assert_silent(run(MegapixelSEGSFilter, segs=TWO, **settings), caplog)


SLICES = {
    "one worker": (TWO, {"count": 1}, "segs: nothing to do, count is 1, so this worker has all segments."),
    "too many workers": (ONE, {"index": 1}, "segs: nothing to do, worker 1 gets none of 1 segments."),
    "no segment": (NONE, {}, "segs: nothing to do, worker 0 gets none of 0 segments."),
    "nothing found": (NOWHERE, {}, "segs: nothing to do, worker 0 gets none of 0 segments."),
}


@pytest.mark.parametrize("case", SLICES)
def test_a_share_of_nothing_or_of_everything(case, caplog):
    segs, settings, text = SLICES[case]
    assert reported(run(MegapixelSEGSSlice, segs=segs, **settings), caplog) == text
    caplog.clear()
    assert_silent(run(MegapixelSEGSSlice, segs=TWO), caplog)


def test_results_that_no_worker_has_changed(caplog, draw):
    image = draw(1, *SIZE, 3)
    result = run(MegapixelSEGSMerge, image=image, results=torch.cat([image, image]))
    assert reported(result, caplog) == "results: nothing to do, no worker changed a pixel of image."
    caplog.clear()
    changed = image.clone()
    changed[:, :8] = 0
    assert_silent(run(MegapixelSEGSMerge, image=image, results=torch.cat([image, changed])), caplog)


def test_a_worker_whose_picture_was_not_refined(caplog, draw):
    image = draw(1, *SIZE, 3)
    result = run(MegapixelSEGSSend, image=image, result=image, segs=ONE)
    assert reported(result, caplog) == "result: nothing to do, Upscale SEGS changed no pixel of image."
    caplog.clear()
    assert_silent(run(MegapixelSEGSSend, image=image, result=image, segs=NONE), caplog)  # an empty slice
    assert_silent(run(MegapixelSEGSSend, image=image, result=image * 0.5, segs=ONE), caplog)


@pytest.mark.parametrize("segs", [NONE, NOWHERE])
def test_a_preview_of_no_segment(segs, caplog, monkeypatch, tmp_path):
    monkeypatch.setattr("folder_paths.get_temp_directory", lambda: str(tmp_path))
    result = run(MegapixelSEGSPreview, segs=segs)
    assert reported(result, caplog) == "segs: nothing to do, there is no segment to draw."
    caplog.clear()
    assert_silent(run(MegapixelSEGSPreview, segs=ONE), caplog)


# Upscaling


@pytest.fixture(scope="module")
def upscale(sd15, draw):
    texts = [conditioning(sd15, seed, tokens=8) for seed in (1, 2)]
    fixed = {
        "model": sd15, "vae": random_models.vae(), "positive": texts[0], "negative": texts[1], "steps": 1, "cfg": 1.0,
        "sampler_name": "euler", "scheduler": "normal", "rescale_factor": 1.0, "smallest_crop": 16,
    }  # fmt: skip
    image = draw(1, *SIZE, 3)
    return lambda segs, image=image: run(MegapixelSEGSUpscale, segs=segs, image=image, **fixed)


FRAMES = "segs: {}1 of {} segments are skipped: they belong to frames that image does not have (it has 1). "
SEGMENTS = {
    "none": (NONE, "segs: nothing to do, there is no segment: the image is only enlarged."),
    "nothing found": (NOWHERE, "segs: nothing to do, there is no segment: the image is only enlarged."),
    "masks of other frames": (
        segs_of((0, 0, 32, 32), mask=np.ones((5, 1, 1))),
        "segs: 1 segments have masks for 5 frames, but image has 1: every frame gets all their masks together. Detect them in these frames.",
    ),
    "black": (
        segs_of((0, 0, 32, 32), mask=0.0),
        "segs: nothing to do, 1 of 1 segments are skipped: their masks are black. Check them with Preview SEGS.",
    ),
    "another frame": (
        segs_of((0, 0, 32, 32), frame=2), FRAMES.format("nothing to do, ", 1) + "Check them with Preview SEGS.",
    ),
    "some in another frame": (
        (SIZE, [*ONE[1], *segs_of((0, 0, 32, 32), frame=2)[1]]), FRAMES.format("", 2) + "Check them with Preview SEGS.",
    ),
    "outside": (
        segs_of((100, 100, 132, 132)),
        "segs: nothing to do, 1 of 1 segments are skipped: they are outside the image. Check them with Preview SEGS.",
    ),
    "another aspect ratio": (
        segs_of((0, 0, 32, 32), size=(64, 64)),
        "segs: detected in an image of 64x64, but image has 64x48: the segments are stretched. Detect them in this image.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SEGMENTS)
def test_segments_that_are_not_refined_or_are_stretched(case, upscale, caplog):
    segs, text = SEGMENTS[case]
    assert reported(upscale(segs), caplog) == text


def test_a_share_that_other_workers_have(upscale, caplog):
    [share] = run(MegapixelSEGSSlice, segs=ONE, index=1, count=2).args
    caplog.clear()
    text = "segs: nothing to do, other workers refine all 1 segments: the image is only enlarged."
    assert reported(upscale(share), caplog) == text


def test_segments_of_a_smaller_picture_of_nearly_the_same_shape_are_ordinary(upscale, caplog):
    for segs in (ONE, segs_of((0, 0, 16, 16), size=(24, 32)), segs_of((0, 0, 33, 32), size=(49, 65))):
        assert_silent(upscale(segs), caplog)


def test_hints_before_an_upscale_starts(monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(upscale_hints, "computes_natively", lambda dtype, device: False)
    assert upscale_hints.upscale_hints(None, "float16") == [
        "precision: this processor has no instructions for float16, so float32 is used. Set precision to auto."
    ]
    assert upscale_hints.upscale_hints(None, "auto") == []
    assert upscale_hints.upscale_hints(None, compile=True) == [
        "compile: nothing to do, C++ compiler (g++, clang++, cl) is not installed: the model runs uncompiled. Turn compile off."
    ]
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert upscale_hints.upscale_hints(None, "auto", compile=True) == []
    assert "upscale_hints" in inspect.getsource(MegapixelUpscale.execute)


# Effects on a model: what the settings show, at the node


SETTINGS = {
    "Deep Shrink, factor": (MegapixelDeepShrink, {"downscale_factor": 1.0}, "downscale_factor is 1"),
    "MSW-MSA, no block": (
        MegapixelMSWMSA, {"input_blocks": "", "middle_blocks": "", "output_blocks": ""}, "no block",
    ),
    "MSW-MSA, order": (MegapixelMSWMSA, {"start_time": 0.8, "end_time": 0.2}, "start_time is after end_time"),
    "RAU-Net, no block": (
        MegapixelRAUNet, {"input_blocks": "", "output_blocks": "", "ca_input_blocks": "", "ca_output_blocks": ""}, "no block",
    ),
    "RAU-Net, order": (
        MegapixelRAUNet, {"start_time": 1.0, "end_time": 0.0, "ca_start_time": 1.0, "ca_end_time": 0.0}, "is after end_time",
    ),
    "RAU-Net, factor": (
        MegapixelRAUNet, {"input_blocks": "", "output_blocks": "", "ca_downscale_factor": 1.0}, "ca_downscale_factor is 1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SETTINGS)
def test_settings_that_do_nothing_with_any_model(case, sd15, caplog):
    node, settings, reason = SETTINGS[case]
    text = reported(run(node, model=sd15, **settings), caplog)
    assert ": nothing to do, " in text
    assert reason in text


@pytest.mark.parametrize(
    "node", [MegapixelDeepShrink, MegapixelMSWMSA, MegapixelRAUNet, MegapixelHiDiffusion]
)
def test_an_ordinary_effect_is_silent(node, sd15, caplog):
    result = run(node, model=sd15, **({"trained_size": 64} if node is MegapixelHiDiffusion else {}))
    sample(result.args[0], (32, 32), steps=3)
    assert_silent(result, caplog)


def test_a_plan_without_an_effect(sd15, caplog, monkeypatch, tmp_path):
    monkeypatch.setattr("folder_paths.get_temp_directory", lambda: str(tmp_path))
    settings = {"latent_image": {"samples": torch.zeros(1, 4, 32, 32)}, "steps": 2, "scheduler": "normal"}
    result = run(MegapixelPlan, model=sd15, **settings)
    assert (
        reported(result, caplog)
        == "model: nothing to do, it has no Megapixel effect. Connect it after a Megapixel node."
    )
    caplog.clear()
    [shrunk] = run(MegapixelDeepShrink, model=sd15).args
    assert_silent(run(MegapixelPlan, model=shrunk, **settings), caplog)


# Effects on a model: what only sampling shows, in the run's log line


SAMPLED = {
    "Deep Shrink, auto": (MegapixelDeepShrink, {"mode": "auto", "trained_size": 256}, "not clearly above the trained size"),
    "Deep Shrink, between two steps": (
        MegapixelDeepShrink, {"start_percent": 0.4, "end_percent": 0.41}, "no step of this run",
    ),
    "HiDiffusion": (MegapixelHiDiffusion, {"trained_size": 256}, "not clearly above the trained size"),
    "MSW-MSA, native windows": (
        MegapixelMSWMSA, {"windows": "native", "trained_size": 256}, "no step of this run is between its start and end, or no block needs",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SAMPLED)
def test_what_does_nothing_in_a_run_is_its_log_line(case, sd15, caplog):
    node, settings, reason = SAMPLED[case]
    [patched] = run(node, model=sd15, **settings).args
    expected = sample(sd15, (32, 32), steps=3)
    caplog.clear()
    assert torch.equal(sample(patched, (32, 32), steps=3), expected)
    [line] = [line for line in caplog.messages if "at latent 32x32" in line]
    assert "nothing to do (" in line
    assert reason in line


def test_captions_that_are_all_empty_replace_nothing(caplog):
    done = MegapixelSEGSTexts.execute([object()], ["", "  "])
    text = "captions: nothing to do, all captions are empty: every segment keeps the general prompt."
    assert reported(done, caplog) == text
