"""What of a conditioning belongs to a crop, beside plain cutting of arrays."""

from __future__ import annotations

import ast
import math
from pathlib import Path

import comfy.utils
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from megapixel.attention.view import VIEW, Part
from megapixel.host import crop_conditioning as module
from megapixel.host.canvas import Canvas, Grid
from megapixel.host.crop_conditioning import effect_in
from megapixel.host.log import forget_lines
from megapixel.host.spatial_entries import NOT_SPATIAL, OWN_WAY, SPATIAL, UNCUT
from megapixel.scaling.box import Box
from megapixel.segs.crop import Crop, fit_aspect

from devhost.tiny.random_models import controlnet

SIZE, GIVEN = (96, 144), (48, 72)
CANVAS = Canvas(SIZE, GIVEN)
BOX = Box(20, 24, 68, 88)  # 48 x 64, off the grid of latent pixels in one axis
OTHER = Box(48, 80, 96, 144)  # of the same size, in the corner
TEXT = torch.zeros(1, 3, 5)

AREAS = {  # picture pixels: top, left, height, width
    "inside": (40, 40, 16, 24),
    "across the top and left edges": (0, 0, 40, 48),
    "across the bottom and right edges": (60, 80, 36, 64),
    "a stripe across": (40, 0, 8, 144),
    "one pixel in the corner": (67, 87, 29, 57),
    "all of the picture": (0, 0, 96, 144),
    "all of the crop": (20, 24, 48, 64),
    "beside it": (0, 88, 96, 56),
    "above it": (0, 0, 20, 144),
}


def crop_conditioning(conditionings, crops, canvas):
    """Return the cut conditionings without the view of the crop, which every entry has."""
    cut = module.crop_conditioning(conditionings, crops, canvas)
    for conditioning in cut:
        for _, options in conditioning:
            view = options.pop(VIEW)
            assert view.parts == tuple(Part(crop.box, canvas.size) for crop in crops)
            assert view.frames == tuple(crop.frame for crop in crops)
    return cut


def crop_of(box=BOX, frame=0):
    return Crop(box, frame)


def cropped(options, *crops, canvas=CANVAS):
    """Return the options of the only entry for the crops (one at BOX, if none are given)."""
    [[[text, cut]]] = crop_conditioning([[[TEXT, options]]], crops or [crop_of()], canvas)
    assert text is TEXT
    return cut


def rectangle(size, top, left, height, width):
    """Return an array of that size that is true in a rectangle."""
    field = np.zeros(size, dtype=bool)
    field[max(0, top) : max(0, top + height), max(0, left) : max(0, left + width)] = True
    return field


def cells_of(field, box, cell=8):
    """Cut a box out of a field and return (height, width, top, left) of the cells that
    hold what is true, or None.
    """
    cut = field[box.top : box.bottom, box.left : box.right]
    if not cut.any():
        return None
    rows, columns = (np.nonzero(cut.any(axis=axis))[0] // cell for axis in (1, 0))
    top, left = int(rows[0]), int(columns[0])
    return int(rows[-1]) - top + 1, int(columns[-1]) - left + 1, top, left


@pytest.mark.parametrize("name", AREAS)
def test_an_area_in_percent_is_what_of_it_lies_in_the_crop(name):
    top, left, height, width = AREAS[name]
    shares = height / SIZE[0], width / SIZE[1], top / SIZE[0], left / SIZE[1]
    expected = cells_of(rectangle(SIZE, *AREAS[name]), BOX)
    [fit] = effect_in([[TEXT, {"area": ("percentage", *shares)}]], crop_of(), CANVAS)
    assert fit.present == (expected is not None)
    cut = cropped({"area": ("percentage", *shares), "strength": 0.7})
    assert cut["strength"] == 0.7
    if expected in (None, (6, 8, 0, 0)):  # without effect there is no other entry; over all there is no area
        assert "area" not in cut
    else:
        assert cut["area"] == expected


@pytest.mark.parametrize("size", [(96, 144), (48, 72), (100, 150), (80, 200)], ids=str)
def test_an_area_in_latent_pixels_counts_in_the_picture_that_came_in(size):
    canvas = Canvas(size, GIVEN)
    box = Box(20, 24, 44, 64)
    for height, width, top, left in [(2, 3, 2, 3), (6, 4, 0, 0), (1, 9, 4, 0), (6, 9, 0, 0), (1, 1, 5, 8)]:
        # literally: which pixels of the picture as it is now have a part in a pixel of the area
        (first, last), (start, end) = (
            (math.floor(low * 8 * new / old), math.ceil((low + side) * 8 * new / old))
            for low, side, new, old in zip((top, left), (height, width), size, GIVEN, strict=True)
        )
        expected = cells_of(rectangle(size, first, start, last - first, end - start), box)
        [fit] = effect_in([[TEXT, {"area": (height, width, top, left)}]], crop_of(box), canvas)
        assert fit.present == (expected is not None)
        assert fit.area == (None if expected == (3, 5, 0, 0) else expected)


@pytest.mark.parametrize("name", AREAS)
def test_an_area_of_a_video_is_cut_in_space_and_keeps_its_time(name):
    top, left, height, width = AREAS[name]
    shares = height / SIZE[0], width / SIZE[1], top / SIZE[0], left / SIZE[1]
    cells = cells_of(rectangle(SIZE, *AREAS[name]), BOX)
    cut = cropped({"area": ("percentage", 0.5, *shares[:2], 0.25, *shares[2:])})
    if cells is None:
        assert "area" not in cut
        return
    kind, length, *extent, first, y, x = cut["area"]
    assert (kind, length, first) == ("percentage", 0.5, 0.25)
    assert (
        tuple(round(share * side) for share, side in zip((*extent, y, x), (6, 8) * 2, strict=True)) == cells
    )
    if all(side % 16 == 0 for side in AREAS[name]):  # latent pixels of the picture that came in
        area = [side // 16 for side in (height, width, top, left)]
        assert cropped({"area": (5, *area[:2], 2, *area[2:])})["area"] == (5, *cells[:2], 2, *cells[2:])


def test_gligen_boxes_are_cut_moved_and_left_out_beside_the_crop():
    boxes = [("a", 3, 4, 0, 0), ("b", 2, 2, 2, 3), ("c", 1, 1, 5, 8), ("d", 6, 9, 0, 0)]
    given = [(name, *box) for name, *box in boxes]
    cut = cropped({"gligen": ("position", "model", given)})
    expected = []
    for name, height, width, top, left in boxes:
        cells = cells_of(rectangle(SIZE, *(16 * side for side in (top, left, height, width))), BOX)
        expected += [(name, *cells)] if cells else []
    assert [name for name, *_ in expected] == ["a", "b", "d"]
    assert cut["gligen"] == ("position", "model", expected)
    assert given == [(name, *box) for name, *box in boxes]


def test_gligen_without_a_box_in_the_crop_is_left_out_and_the_text_stays():
    cut = cropped({"gligen": ("position", "model", [("a", 1, 1, 5, 8)]), "strength": 0.5})
    assert cut == {"strength": 0.5}


@pytest.mark.parametrize("shape", [(1, 96, 144), (96, 144), (1, 48, 72), (1, 13, 31), (1, 200, 150)], ids=str)
def test_a_mask_is_what_a_mask_resized_to_the_picture_holds_there(shape, draw):
    mask = draw(*shape)
    expected = F.interpolate(mask.view(1, 1, *shape[-2:]), SIZE, mode="bilinear")[0]
    expected = expected[:, BOX.top : BOX.bottom, BOX.left : BOX.right]
    cut = cropped({"mask": mask, "mask_strength": 0.8})
    assert cut["mask_strength"] == 0.8
    tolerance = 0 if shape[-2:] == SIZE else 1e-5
    torch.testing.assert_close(cut["mask"], expected, rtol=0, atol=tolerance)


def test_masks_and_hints_of_several_frames_give_each_place_its_own_frame(draw):
    masks, hints = draw(2, *SIZE), draw(2, 3, *SIZE, seed=1)
    control = controlnet().set_cond_hint(hints)
    crops = [crop_of(BOX, 1), crop_of(OTHER, 0), crop_of(BOX, 5)]
    cut = cropped({"mask": masks, "control": control}, *crops)
    boxes = [(1, BOX), (0, OTHER), (1, BOX)]  # the last frame serves those after it
    for field, got in ((masks, cut["mask"]), (hints, cut["control"].cond_hint_original)):
        expected = [field[frame, ..., box.rows, box.columns] for frame, box in boxes]
        assert torch.equal(got, torch.stack(expected))


def test_an_entry_without_effect_in_the_crop_is_left_out(draw):
    mask = torch.zeros(1, *SIZE)
    mask[:, :20] = 1  # ends where the crop begins
    here = [TEXT, {"area": ("percentage", 1.0, 0.5, 0.0, 0.0)}]
    beside = [TEXT, {"area": ("percentage", 1.0, 0.25, 0.0, 0.75)}]
    masked, everywhere = [TEXT, {"mask": mask}], [TEXT, {"name": "everywhere"}]
    [cut] = crop_conditioning([[here, beside, masked, everywhere]], [crop_of()], CANVAS)
    assert [options for _, options in cut] == [{"area": (6, 6, 0, 0)}, {"name": "everywhere"}]
    mask[:, 20] = 1
    [cut] = crop_conditioning([[masked]], [crop_of()], CANVAS)
    assert cut[0][1]["mask"].sum() == 64


def test_where_none_has_an_effect_all_stay_without_their_places():
    masked = {"mask": torch.zeros(1, *SIZE), "mask_strength": 0.5, "set_area_to_bounds": True, "a": 1}
    beside = {"area": ("percentage", 1.0, 0.25, 0.0, 0.75), "strength": 0.3}
    [cut] = crop_conditioning([[[TEXT, masked], [TEXT, beside]]], [crop_of()], CANVAS)
    assert [options for _, options in cut] == [{"a": 1}, {"strength": 0.3}]


def test_hints_are_cut_to_the_pixel_all_along_a_chain_and_the_originals_stay(draw):
    hints = [draw(1, 3, *SIZE, seed=seed) for seed in (1, 2)]
    extra = [draw(1, 1, *SIZE, seed=3), torch.ones(1, 1, 1, 1)]
    first = controlnet().set_cond_hint(hints[0], 0.5, (0.1, 0.9))
    second = controlnet(seed=1).set_cond_hint(hints[1], 0.7, extra_concat=extra)
    second.set_previous_controlnet(first)
    copy = cropped({"control": second, "control_apply_to_uncond": False}, crop_of(BOX), crop_of(OTHER))[
        "control"
    ]

    def cut(field):
        return torch.cat([field[..., box.rows, box.columns] for box in (BOX, OTHER)])

    assert torch.equal(copy.cond_hint_original, cut(hints[1]))
    assert torch.equal(copy.previous_controlnet.cond_hint_original, cut(hints[0]))
    assert torch.equal(copy.extra_concat_orig[0], cut(extra[0]))
    assert copy.extra_concat_orig[1] is extra[1]  # one value for all is for all
    assert (copy.strength, copy.previous_controlnet.strength) == (0.7, 0.5)
    assert copy.previous_controlnet.timestep_percent_range == (0.1, 0.9)
    assert copy.control_model_wrapped is second.control_model_wrapped  # the weights are not copied
    assert copy.previous_controlnet.previous_controlnet is None
    assert second.cond_hint_original is hints[1]
    assert first.cond_hint_original is hints[0]
    assert second.extra_concat_orig[0] is extra[0]
    assert (second.previous_controlnet, first.previous_controlnet) == (first, None)


def test_a_control_that_positive_and_negative_share_stays_shared(draw):
    control = controlnet().set_cond_hint(draw(1, 3, *SIZE))
    other = controlnet().set_cond_hint(draw(1, 3, *SIZE)).set_previous_controlnet(control)
    texts = [[[TEXT, {"control": control}], [TEXT, {"control": other}]], [[TEXT, {"control": control}]]]
    positive, negative = crop_conditioning(texts, [crop_of()], CANVAS)
    assert (
        positive[0][1]["control"]
        is negative[0][1]["control"]
        is positive[1][1]["control"].previous_controlnet
    )
    assert positive[0][1]["control"] is not control


def test_a_hint_of_another_size_is_cut_as_if_it_were_resized(draw):
    hint = draw(1, 3, *GIVEN)
    copy = cropped({"control": controlnet().set_cond_hint(hint)})["control"]
    expected = F.interpolate(hint, SIZE, mode="bilinear")[..., BOX.rows, BOX.columns]
    torch.testing.assert_close(copy.cond_hint_original, expected, rtol=0, atol=1e-5)


def test_masks_of_inpainting_are_cut_for_every_place(draw):
    mask = draw(1, 1, *SIZE, seed=1)
    cut = cropped({"concat_mask": mask}, crop_of(BOX), crop_of(OTHER))["concat_mask"]
    assert torch.equal(cut, torch.cat([mask[..., box.rows, box.columns] for box in (BOX, OTHER)]))


def test_a_latent_is_cut_to_what_lies_under_each_latent_pixel_of_the_crop(draw):
    latent = draw(1, 4, 12, 18)
    boxes = (BOX, OTHER, Box(8, 16, 56, 80))
    cut = cropped({"concat_latent_image": latent}, *map(crop_of, boxes))["concat_latent_image"]
    fitted = F.interpolate(cut, (6, 8), mode="bilinear")  # as the host fits it to the crop's latent
    for box, part in zip(boxes, fitted, strict=True):
        for row, column in np.ndindex(6, 8):
            y, x = box.top / 8 + row, box.left / 8 + column
            top, left = int(y), int(x)
            rows, columns = [top, min(top + 1, 11)], [left, min(left + 1, 17)]
            corners = latent[0][:, rows][:, :, columns]
            down, right = y - top, x - left
            weights = torch.tensor(
                [[(1 - down) * (1 - right), (1 - down) * right], [down * (1 - right), down * right]]
            )
            expected = (corners * weights).sum((1, 2))
            torch.testing.assert_close(part[:, row, column], expected, rtol=0, atol=1e-5)


def test_over_the_whole_picture_a_latent_is_cut_to_itself(draw):
    latent = draw(1, 4, 12, 18)
    cut = cropped({"concat_latent_image": latent}, crop_of(Box(0, 0, *SIZE)))["concat_latent_image"]
    fitted = F.interpolate(cut, (12, 18), mode="bilinear")
    torch.testing.assert_close(fitted, latent, rtol=0, atol=1e-5)


def test_unknown_entries_over_the_picture_pass_with_one_warning(draw, caplog):
    forget_lines()
    unknown = draw(1, 3, 12, 18)
    options = {
        "of_another_pack": unknown, "pooled_output": draw(1, 8), "guidance": 3.5, "list": [{"inside": unknown}],
        "keyframe_idxs": draw(1, 3, 5), "unclip_conditioning": [{"image": unknown}],
    }  # fmt: skip
    for _ in range(3):
        cut = cropped(options)
        assert cut.keys() == options.keys()
        assert all(cut[name] is value for name, value in options.items())
    assert caplog.messages == [
        f"positive, negative: {name} is not cropped; every segment gets all of it."
        for name in ("of_another_pack", "list", "keyframe_idxs")
    ]


def test_places_of_one_effect_can_go_together_and_others_cannot():
    left = [[TEXT, {"area": ("percentage", 1.0, 0.5, 0.0, 0.0)}]]
    boxes = [Box(0, 0, 48, 64), Box(48, 8, 96, 72), Box(0, 16, 48, 80), Box(0, 80, 48, 144)]
    effects = [effect_in(left, crop_of(box), CANVAS) for box in boxes]
    assert effects[0] == effects[1]
    assert hash(effects[0]) == hash(effects[1])
    assert len(set(effects)) == 3


def test_bounds_of_masks_that_differ_keep_places_from_going_together():
    # The host takes the area around all masks of a batch.
    mask = torch.zeros(1, *SIZE)
    mask[:, 24:32, 24:40] = 1
    mask[:, 60:96, 100:144] = 1
    bounded = [[TEXT, {"mask": mask, "set_area_to_bounds": True}]]
    assert effect_in(bounded, crop_of(BOX), CANVAS) != effect_in(bounded, crop_of(OTHER), CANVAS)
    free = [[TEXT, {"mask": mask, "set_area_to_bounds": False}]]
    assert effect_in(free, crop_of(BOX), CANVAS) == effect_in(free, crop_of(OTHER), CANVAS)


def test_the_conditioning_that_others_hold_stays_as_it_is(draw):
    mask, latent = draw(1, *SIZE), draw(1, 4, 12, 18)
    control = controlnet().set_cond_hint(draw(1, 3, *SIZE))
    options = {"mask": mask, "concat_latent_image": latent, "control": control, "area": (3, 4, 1, 1)}
    before = dict(options)
    entry = [TEXT, options]
    given = [entry]
    crop_conditioning([given], [crop_of()], CANVAS)
    assert (given, entry[0]) == ([entry], TEXT)
    assert options.keys() == before.keys()
    assert all(options[name] is value for name, value in before.items())


@pytest.mark.parametrize("given", [(64, 64), (48, 90), (90, 48), (37, 61)], ids=str)
def test_a_hint_of_another_shape_is_cut_from_its_middle_as_the_host_cuts_it(given, draw):
    size = 72, 104
    hint = draw(1, 3, *given)
    whole = comfy.utils.common_upscale(hint, size[1], size[0], "bilinear", "center")
    fitted = fit_aspect(hint, size)
    assert torch.allclose(F.interpolate(fitted, size, mode="bilinear"), whole, atol=1e-6)
    control = controlnet().set_cond_hint(hint)
    box = Box(8, 16, 56, 88)
    [[[_, options]]] = crop_conditioning(
        [[[torch.zeros(1, 1, 1), {"control": control}]]], [Crop(box)], Canvas(size, size)
    )
    cut = options["control"].cond_hint_original
    assert torch.allclose(cut, whole[..., box.rows, box.columns], atol=1e-5)


def coordinates(height, width, cell=1, top=0, left=0):
    """Return (1, 2, h, w): row and column of the picture in the middle of each value."""
    rows = (torch.arange(height // cell) + 0.5) * cell + top
    columns = (torch.arange(width // cell) + 0.5) * cell + left
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[None]


ALIGNED = (Box(16, 32, 64, 96), Box(48, 80, 96, 144))  # on latent pixels: cut to the pixel


def planted(grid, canvas=CANVAS):
    """Return a field (1, 2, 3, h, w) that reads its place in the picture,
    a time axis included, and its cell.
    """
    cell = {Grid.PIXEL: 1}.get(grid, canvas.cell)
    return coordinates(*canvas.size, cell)[:, :, None].expand(-1, -1, 3, -1, -1).clone(), cell


@pytest.mark.parametrize("name", sorted(SPATIAL))
@pytest.mark.parametrize("wrap", [lambda field: field, lambda field: [field, field]], ids=["tensor", "list"])
def test_every_spatial_entry_is_cut_to_the_pixel_and_keeps_its_time(name, wrap):
    field, cell = planted(SPATIAL[name])
    cut = cropped({name: wrap(field)}, *map(crop_of, ALIGNED))[name]
    expected = torch.cat([coordinates(*box.size, cell, box.top, box.left) for box in ALIGNED])
    for each in cut if isinstance(cut, list) else [cut]:
        assert each.shape == (2, 2, 3, *expected.shape[-2:])
        assert all(torch.equal(each[:, :, time], expected) for time in range(3))


def test_an_entry_of_the_picture_that_came_in_is_cut_at_the_latents_size():
    for grid in (Grid.LATENT, Grid.EITHER, Grid.OWN):
        name = next(name for name, its in SPATIAL.items() if its is grid)
        field = coordinates(*GIVEN, 8)[:, :, None] * 2  # in pixels of the enlarged picture
        cut = cropped({name: field}, crop_of(Box(32, 32, 80, 96)))[name][:, :, 0]
        torch.testing.assert_close(cut, coordinates(48, 64, 8, 32, 32), rtol=0, atol=1e-4)


def test_an_entry_at_half_the_latents_size_stays_at_half():
    canvas = Canvas(SIZE, SIZE)
    pose = coordinates(*SIZE, 16)[:, :, None]
    cut = cropped({"pose_video_latent": pose}, *map(crop_of, ALIGNED), canvas=canvas)["pose_video_latent"]
    expected = [coordinates(*box.size, 16, box.top, box.left) for box in ALIGNED]
    assert torch.equal(cut[:, :, 0], torch.cat(expected))


def test_masks_get_a_time_where_latents_have_one(draw):
    masks = draw(2, *SIZE)
    crops = [crop_of(BOX, 1), crop_of(OTHER, 0)]
    flat = cropped({"mask": masks}, *crops)["mask"]
    cut = cropped({"mask": masks}, *crops, canvas=Canvas(SIZE, GIVEN, has_time=True))["mask"]
    assert torch.equal(cut, flat[:, None])


# Every name that the host's models read, and that its nodes write

NUMBERS_AND_TEXTS = {
    "aesthetic_score", "aspect_ratio", "attention_mask", "attention_mask_img_shape", "attention_mask_mt5xl", "audio_codes",
    "audio_inject_scale", "augmentation_level", "azimuth", "concat_mask_index", "conditioning_byt5small",
    "conditioning_mt5xl", "crop_h", "crop_w", "cross_attn", "cross_attn_controlnet", "degrade_sigma", "elevation",
    "end_percent", "fps", "frame_rate", "guidance", "guiding_frame_index", "height", "lyrics_strength", "mask_strength",
    "minimax_audio_cond_noise_aug", "minimax_frame_count", "minimax_token_tags", "minimax_visual_cond_noise_aug",
    "motion_bucket_id", "noise_augmentation", "ofs", "prompt_type", "ref_audio", "ref_mask_flag",
    "reference_latents_method", "seconds_start", "seconds_total", "start_percent", "strength", "t5xxl_ids",
    "t5xxl_weights", "target_height", "target_width", "text_input_ids", "time_conditioning",
    "unclip_noise_augment_merge", "unprocessed_ltxav_embeds", "vace_strength", "width",
}  # fmt: skip
MADE_BY_THE_SAMPLER = {"denoise_mask", "device", "latent_image", "latent_shapes", "noise", "seed"}


def names_in(path, getters):
    """Yield the names of a conditioning that a file of the host reads from `getters` or sets in a node."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in {f"{name}.get" for name in getters} and isinstance(node.args[0], ast.Constant):
                yield node.args[0].value
            if called.endswith("conditioning_set_values") and isinstance(node.args[1], ast.Dict):
                yield from (key.value for key in node.args[1].keys if isinstance(key, ast.Constant))
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) in getters:
            yield from [node.slice.value] if isinstance(node.slice, ast.Constant) else []


def test_each_name_that_the_host_knows_is_cut_or_has_no_place():
    root = Path(comfy.utils.__file__).parents[1]
    names = set(names_in(root / "comfy" / "model_base.py", {"kwargs", "args"}))
    for path in [*root.glob("comfy_extras/*.py"), root / "nodes.py"]:
        names |= set(names_in(path, set()))
    assert len(names) > 60
    listed = {*SPATIAL, *OWN_WAY, *UNCUT, *NOT_SPATIAL, *NUMBERS_AND_TEXTS, *MADE_BY_THE_SAMPLER}
    assert names <= listed
