"""Segments cut out, refined and put back: the whole way against plain NumPy, alone,
shared out and in order.
"""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
import torch
from megapixel.scaling.box import Box
from megapixel.segs.choose import slice_segments
from megapixel.segs.find import tile_segments
from megapixel.segs.merge import merge_results
from megapixel.segs.refine import refine_in_order, refine_independently, touching, waves
from megapixel.segs.segment import FrameSEG

SIZE = 75, 122
GEOMETRY = [
    pytest.param([(30, 20, 70, 52)], id="inside"),
    pytest.param([(30, 0, 70, 32)], id="top"),
    pytest.param([(30, 43, 70, 75)], id="bottom"),
    pytest.param([(0, 20, 40, 52)], id="left"),
    pytest.param([(82, 20, 122, 52)], id="right"),
    pytest.param([(0, 0, 9, 9), (113, 0, 122, 9), (0, 66, 9, 75), (113, 66, 122, 75)], id="four corners"),
    pytest.param([(0, 0, 122, 75)], id="all"),
    pytest.param([(0, 0, 122, 75), (30, 20, 61, 43)], id="all, and one in it"),
    pytest.param([(10, 10, 60, 50), (40, 30, 100, 70), (50, 0, 77, 75)], id="overlapping"),
    pytest.param([(10, 10, 60, 50), (10, 10, 60, 50)], id="the same twice"),
    pytest.param([(10, 10, 34, 34), (34, 10, 58, 34)], id="side by side"),
    pytest.param([(60, 40, 61, 41)], id="one pixel"),
    pytest.param([(121, 74, 122, 75)], id="the last pixel"),
    pytest.param([(-20, -9, 20, 33), (100, 50, 161, 99)], id="reaching outside"),
    pytest.param([(200, 10, 240, 50), (-50, -50, 0, 0)], id="outside"),
    pytest.param([], id="none"),
]
FITS = [
    pytest.param({"multiple": 8, "feather": 5}, id="usual"),
    pytest.param({"multiple": 1, "feather": 0}, id="as it is"),
    pytest.param({"multiple": 16, "least": 64, "feather": 3}, id="grown"),
    pytest.param({"multiple": 64, "least": 256, "feather": 1}, id="larger than the picture"),
]


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("boxes", GEOMETRY)
def test_independent_segments_equal_the_oracle_s_picture(
    noise, segment, pieces_of, refiner, plain, change, boxes, fit
):
    picture = noise(1, *SIZE, 3)
    masks = [
        (noise(y2 - y1, x2 - x1, seed=number) * 2 - 0.3).clamp(0, 1).numpy()
        for number, (x1, y1, x2, y2) in enumerate(boxes)
    ]
    segs = SIZE, [segment(box, mask) for box, mask in zip(boxes, masks, strict=True)]
    expected, total = plain.refine(
        picture[0].numpy(), SIZE, list(zip(boxes, masks, strict=True)), change, **fit
    )
    before = picture.clone()
    refine_independently(picture, pieces_of(segs, SIZE, **fit), refiner)
    assert np.abs(picture[0].numpy() - expected).max() < 2e-6
    outside = torch.from_numpy(total == 0)
    assert torch.equal(picture[0][outside], before[0][outside]), (
        "outside all masks the picture keeps its bits"
    )


@pytest.mark.parametrize(
    ("found_in", "size"),
    [
        pytest.param((100, 400), (75, 122), id="smaller, other aspect"),
        pytest.param((31, 40), (75, 122), id="larger, other aspect"),
        pytest.param((75, 61), (75, 122), id="one axis"),
    ],
)
def test_segments_found_at_another_size_equal_the_oracle_s_picture(
    noise, segment, pieces_of, refiner, plain, change, random_boxes, found_in, size
):
    picture = noise(1, *size, 3)
    boxes = random_boxes(Random(1), found_in, 6)
    masks = [
        (noise(y2 - y1, x2 - x1, seed=number) * 2 - 0.3).clamp(0, 1).numpy()
        for number, (x1, y1, x2, y2) in enumerate(boxes)
    ]
    segs = found_in, [segment(box, mask) for box, mask in zip(boxes, masks, strict=True)]
    expected, _ = plain.refine(picture[0].numpy(), found_in, list(zip(boxes, masks, strict=True)), change)
    refine_independently(picture, pieces_of(segs, size), refiner)
    assert np.abs(picture[0].numpy() - expected).max() < 2e-6


def test_the_known_node_s_mistake_of_the_ratios_is_not_made(segment, pieces_of):
    (piece,) = pieces_of(((100, 400), [segment((0, 10, 40, 90))]), (800, 400))
    assert piece.cut.region == Box(80, 0, 720, 40)
    assert piece.cut.box == Box(80, 0, 720, 40)


def test_a_mask_hides_nothing_far_from_it_and_a_crop_takes_real_context(noise, segment, pieces_of):
    picture = noise(1, *SIZE, 3)
    pieces = pieces_of((SIZE, [segment((30, 20, 41, 31))]), SIZE, multiple=8, least=32)
    seen = []

    def refine(pieces, crops):
        seen.extend(zip(pieces, crops, strict=True))
        return [(0, None)]

    before = picture.clone()
    refine_independently(picture, pieces, refine)
    ((piece, crop),) = seen
    assert crop.shape == (32, 32, 3)
    assert torch.equal(crop, before[0][piece.cut.box.rows, piece.cut.box.columns])
    assert torch.equal(picture, before), "what failed is not pasted"


def test_segments_without_a_pixel_are_left_out_and_the_others_keep_their_numbers(segment, pieces_of):
    found = [
        segment((0, 0, 9, 9)),
        segment((20, 20, 40, 40), np.zeros((20, 20), dtype=np.float32)),
        segment((500, 0, 520, 20)),
        segment((10, 0, 30, 30)),
    ]
    assert [piece.cut.segment.number for piece in pieces_of((SIZE, found), SIZE)] == [0, 3]


def random_segs(random, random_boxes, segment, noise, count, most=40):
    boxes = random_boxes(random, SIZE, count, most)
    return SIZE, [
        segment(box, (noise(9, 13, seed=number) * 2 - 0.5).clamp(0, 1).numpy())
        for number, box in enumerate(boxes)
    ]


@pytest.mark.parametrize("together", [False, True], ids=["any", "together"])
def test_workers_merge_to_the_same_bits_as_one(noise, random_boxes, segment, pieces_of, refiner, together):
    random = Random(2)
    for number in range(6):
        segs = random_segs(random, random_boxes, segment, noise, random.randint(2, 14))
        picture = noise(1, *SIZE, 3, seed=number)
        whole = picture.clone()
        refine_independently(whole, pieces_of(segs, SIZE), refiner, colours=0.5)
        for workers in range(2, 6):
            results = []
            for worker in range(workers):
                share = slice_segments(segs[1], worker, workers, together)
                result = picture.clone()
                refiner.given.clear()
                refine_independently(result, pieces_of((SIZE, share), SIZE), refiner, colours=0.5)
                assert refiner.given == [share.positions]
                results.append(result[0])
            random.shuffle(results)
            assert torch.equal(merge_results(picture[0], results), whole[0])


def test_the_order_of_independent_segments_does_not_matter(noise, random_boxes, segment, pieces_of, refiner):
    random = Random(3)
    segs = random_segs(random, random_boxes, segment, noise, 12)
    pieces, picture = pieces_of(segs, SIZE), noise(1, *SIZE, 3)
    whole = picture.clone()
    refine_independently(whole, pieces, refiner)
    shuffled = picture.clone()
    refine_independently(shuffled, random.sample(pieces, len(pieces)), refiner)
    # The sum of weights may round differently in another order; what is added does not.
    assert (shuffled - whole).abs().max() < 1e-6


def one_after_another(picture, pieces, change):
    """Return the picture after every piece was cut, refined and laid over it,
    in a plain loop over the whole canvas.
    """
    picture = picture.double().numpy().copy()
    for piece in pieces:
        frame, box = picture[piece.frame], piece.cut.box
        rows = np.clip(np.arange(box.top, box.bottom), 0, frame.shape[0] - 1)
        columns = np.clip(np.arange(box.left, box.right), 0, frame.shape[1] - 1)
        refined = change(piece.cut.segment.number, frame[rows][:, columns])
        weight = piece.cut.weight.double().numpy()
        for y in range(box.top, min(box.bottom, frame.shape[0])):
            across = range(box.left, min(box.right, frame.shape[1]))
            share = weight[y - box.top, : len(across), None]
            frame[y, across] += share * (refined[y - box.top, : len(across)] - frame[y, across])
    return picture


@pytest.mark.parametrize("most", [12, 40, 120], ids=["few touch", "some touch", "nearly all touch"])
def test_refining_in_order_equals_a_plain_loop(
    noise, random_boxes, segment, pieces_of, refiner, change, most
):
    random = Random(most)
    for number in range(12):
        segs = random_segs(random, random_boxes, segment, noise, random.randint(1, 16), most)
        pieces, picture = pieces_of(segs, SIZE, 2), noise(2, *SIZE, 3, seed=number)
        expected = one_after_another(picture, pieces, change)
        single = picture.clone()
        refine_in_order(picture, pieces, refiner)
        refine_in_order(single, pieces, refiner, one_by_one=True)
        assert np.abs(picture.numpy() - expected).max() < 2e-6
        assert torch.equal(single, picture), "waves change no bit"


def test_refining_in_order_lets_a_later_segment_see_an_earlier_one(noise, segment, pieces_of):
    picture, seen = noise(1, *SIZE, 3), []

    def refine(pieces, crops):
        seen.extend(crops)
        return [(place, torch.full_like(crop, 0.5)) for place, crop in enumerate(crops)]

    pieces = pieces_of((SIZE, [segment((8, 8, 40, 40)), segment((8, 8, 40, 40))]), SIZE, feather=0)
    refine_in_order(picture, pieces, refine)
    assert (seen[1] == 0.5).all()


def test_waves_keep_the_order_of_what_touches_and_put_nothing_together_that_does(
    noise, random_boxes, segment, pieces_of
):
    random, together = Random(4), 0
    for _ in range(60):
        segs = random_segs(random, random_boxes, segment, noise, random.randint(0, 20), 30)
        pieces = pieces_of(segs, SIZE, 2)
        made = list(waves(pieces))
        turn = {piece: number for number, wave in enumerate(made) for piece in wave}
        assert sorted(map(id, turn)) == sorted(map(id, pieces))
        assert sum(map(len, made)) == len(pieces)
        for later, piece in enumerate(pieces):
            before = [other for other in pieces[:later] if piece.touches(other)]
            assert all(turn[other] < turn[piece] for other in before)
            assert turn[piece] == max((turn[other] + 1 for other in before), default=0), (
                "no later than needed"
            )
        together += sum(len(wave) > 2 for wave in made)
    assert together > 30, "the cells must reach waves of several in a frame"


def test_groups_hold_what_touches_directly_or_over_others(noise, random_boxes, segment, pieces_of):
    random, linked = Random(6), 0
    for _ in range(40):
        segs = random_segs(random, random_boxes, segment, noise, random.randint(0, 16), 24)
        pieces = pieces_of(segs, SIZE, 2)
        # literally: names spread until none changes
        name = {piece: number for number, piece in enumerate(pieces)}
        for _ in pieces:
            for one in pieces:
                for other in pieces:
                    if one.touches(other):
                        name[one] = name[other] = min(name[one], name[other])
        groups = touching(pieces)
        assert [[name[piece] for piece in group] for group in groups] == [
            [first] * list(name.values()).count(first) for first in sorted(set(name.values()))
        ]
        assert all(group == [piece for piece in pieces if piece in group] for group in groups)
        linked += sum(not group[0].touches(group[-1]) for group in groups)
    assert linked > 5, "the cells must reach groups whose ends do not touch"


def test_a_segment_of_one_frame_changes_that_frame_and_a_plain_one_changes_all(
    noise, segment, pieces_of, refiner
):
    picture = noise(3, *SIZE, 3)
    before = picture.clone()
    found = [FrameSEG.of(segment((8, 8, 40, 40)), 1), segment((80, 8, 120, 40))]
    refine_independently(picture, pieces_of((SIZE, found), SIZE, 3), refiner)
    changed = (picture != before).any(dim=-1)
    assert changed[:, :, 80:].any(dim=2).any(dim=1).tolist() == [True] * 3
    assert changed[:, :, :60].any(dim=2).any(dim=1).tolist() == [False, True, False]
    missing = pieces_of((SIZE, [FrameSEG.of(segment((8, 8, 40, 40)), 3)]), SIZE, 3)
    assert missing == []


@pytest.mark.parametrize("way", [refine_independently, refine_in_order])
def test_a_failed_segment_is_skipped_and_each_paste_is_told(noise, segment, pieces_of, refiner, way):
    found = [segment((8, 8, 40, 40)), segment((48, 8, 72, 40)), segment((80, 40, 112, 72))]
    pieces, picture, told = pieces_of((SIZE, found), SIZE), noise(1, *SIZE, 3), []
    before = picture.clone()

    def refine(pieces, crops):
        for place, refined in refiner(pieces, crops):
            yield place, None if pieces[place].cut.segment.number == 1 else refined

    way(picture, pieces, refine, pasted=lambda piece: told.append(piece.cut.segment.number))
    assert sorted(told) == [0, 2]
    assert torch.equal(picture[:, :, 40:80], before[:, :, 40:80])
    assert not torch.equal(picture[:, :, :40], before[:, :, :40])


@pytest.mark.parametrize("way", [refine_independently, refine_in_order])
def test_what_was_pasted_stays_when_refining_is_cut_short(noise, segment, pieces_of, way):
    picture = noise(1, *SIZE, 3)
    before = picture.clone()
    pieces = pieces_of((SIZE, [segment((8, 8, 40, 40)), segment((80, 8, 112, 40))]), SIZE, feather=0)

    def refine(pieces, crops):
        yield 0, torch.full_like(crops[0], 0.5)
        raise InterruptedError

    with pytest.raises(InterruptedError):
        way(picture, pieces, refine)
    assert (picture[0, 8:40, 8:40] == 0.5).all()
    assert torch.equal(picture[:, :, 64:], before[:, :, 64:])


@pytest.mark.parametrize("way", [refine_independently, refine_in_order])
def test_colours_are_matched_to_what_was_cut(noise, segment, pieces_of, way):
    picture = noise(1, *SIZE, 3)
    before = picture.clone()
    pieces = pieces_of((SIZE, [segment((8, 8, 64, 64))]), SIZE, feather=0)
    way(picture, pieces, lambda pieces, crops: [(0, crops[0] + 0.2)], colours=1.0)
    assert torch.allclose(picture, before, atol=2e-5)


@pytest.mark.parametrize("way", [refine_independently, refine_in_order])
def test_a_fine_gradient_keeps_all_its_levels(pieces_of, way):
    levels = torch.linspace(0.2, 0.8, 2048)
    picture = levels.expand(1, 96, -1)[..., None].repeat(1, 1, 1, 3)
    pieces = pieces_of(((96, 2048), tile_segments((96, 2048), 96, 32)), (96, 2048))
    way(picture, pieces, lambda pieces, crops: [(place, crop + 1e-3) for place, crop in enumerate(crops)])
    added = picture - levels[None, None, :, None]
    assert added.min() > 1e-3 - 1e-6
    assert added.max() < 1e-3 * (1 if way is refine_independently else 2) + 1e-6
    assert all(picture[0, 40, :, channel].unique().numel() >= 2000 for channel in range(3))


@pytest.mark.parametrize("way", [refine_independently, refine_in_order])
@pytest.mark.parametrize("feather", [1, 5, 20])
def test_a_full_rectangle_leaves_no_hard_edge(segment, pieces_of, way, feather):
    boxes = [(0, 0, 101, 80), (203, 60, 304, 180), (355, 217, 456, 301), (93, 120, 194, 221)]
    picture = torch.full((1, 301, 456, 1), 0.5)
    pieces = pieces_of(
        (picture.shape[1:3], [segment(box) for box in boxes]), picture.shape[1:3], feather=feather
    )
    way(picture, pieces, lambda pieces, crops: [(place, crop + 0.2) for place, crop in enumerate(crops)])
    step = max(float(picture.diff(dim=1).abs().max()), float(picture.diff(dim=2).abs().max()))
    sigma = 0.3 * (feather - 1) + 0.8
    assert step < 0.2 * (1 / (2 * feather + 1) + 0.4 / sigma)
    assert picture.max() > 0.69


def test_tiles_refined_by_a_constant_shift_it_everywhere_alike(pieces_of):
    size = 203, 331
    picture = torch.full((1, *size, 3), 0.25)
    pieces = pieces_of((size, tile_segments(size, 64, 16)), size, feather=5)
    refine_independently(
        picture, pieces, lambda pieces, crops: [(place, crop + 0.5) for place, crop in enumerate(crops)]
    )
    assert (picture - 0.75).abs().max() < 1e-5, "shares add up to 1 and leave no seam"


def shifted(pieces, crops):
    """Refine pieces that agree: all of them show the picture, brighter."""
    return [(place, crop + 0.5) for place, crop in enumerate(crops)]


@pytest.mark.parametrize("feather", [1, 5, 12, 24])
@pytest.mark.parametrize("overlap", [1, 4, 16, 40])
def test_between_tiles_that_agree_nothing_of_the_image_shows(pieces_of, overlap, feather):
    size = 203, 331
    picture = torch.full((1, *size, 3), 0.25)
    pieces = pieces_of((size, tile_segments(size, 64, overlap)), size, feather=feather)
    refine_independently(picture, pieces, shifted, agree=True)
    assert (picture - 0.75).abs().max() < 1e-5


AGREEING = [
    pytest.param([(40, 40, 104, 104), (96, 40, 160, 104)], id="a row"),
    pytest.param([(40, 40, 104, 104), (96, 40, 160, 104), (40, 96, 104, 160)], id="a corner"),
    pytest.param([(40, 40, 104, 104), (96, 56, 160, 120)], id="moved"),
    pytest.param([(40, 40, 168, 168), (120, 120, 184, 184)], id="of two sizes"),
    pytest.param([(0, 40, 64, 104), (60, 40, 124, 104)], id="at the edge of the image"),
]


@pytest.mark.parametrize("boxes", AGREEING)
def test_tiles_that_agree_fade_only_towards_the_image(segment, pieces_of, boxes):
    size, feather = (203, 211), 10
    picture = torch.zeros(1, *size, 1)
    pieces = pieces_of((size, [segment(box) for box in boxes]), size, feather=feather)
    refine_independently(picture, pieces, shifted, agree=True)
    weight = 2 * picture[0, ..., 0]
    filled = np.zeros(size, dtype=bool)
    for x1, y1, x2, y2 in boxes:
        filled[y1:y2, x1:x2] = True
    outside = np.argwhere(~filled)
    for y, x in np.argwhere(filled)[::17]:
        distance = min(np.sqrt(((outside - (y, x)) ** 2).sum(axis=1)).min() / (2 * feather + 1), 1)
        assert weight[y, x] >= 3 * distance**2 - 2 * distance**3 - 1e-5
    assert weight[~torch.from_numpy(filled)].max() == 0
    steepest = max(float(weight.diff(dim=axis).abs().max()) for axis in (0, 1))
    assert steepest < 2 * 1.5 / (2 * feather + 1), "an overlap adds the fades of two"


def test_what_a_neighbour_s_mask_leaves_out_keeps_its_fade(segment, pieces_of):
    """A neighbour's crop fills nothing where its mask is empty."""
    size, empty = (128, 192), np.zeros((64, 64), dtype=np.float32)
    empty[24:40, 34:50] = 1
    segs = size, [segment((32, 32, 96, 96)), segment((88, 32, 152, 96), empty)]
    picture = torch.zeros(1, *size, 1)
    refine_independently(picture, pieces_of(segs, size, feather=10), shifted, agree=True)
    assert picture[0, 64, 95] < 0.01


def test_agreeing_tiles_that_overlap_by_their_fades_are_pasted_as_others(noise, pieces_of, refiner):
    size = 203, 331
    pictures = [noise(1, *size, 3) for _ in range(2)]
    for picture, agree in zip(pictures, (False, True), strict=True):
        refine_independently(
            picture, pieces_of((size, tile_segments(size, 64, 24)), size, feather=5), refiner, agree=agree
        )
    assert (pictures[0] - pictures[1]).abs().max() < 1e-6


def test_transposing_everything_transposes_the_result(noise, segment, pieces_of):
    picture, boxes = noise(1, *SIZE, 3), [(8, 8, 40, 30), (24, 20, 90, 70)]

    def refine(pieces, crops):
        return [(place, 1 - crop) for place, crop in enumerate(crops)]

    turned = picture.transpose(1, 2).contiguous()
    refine_independently(picture, pieces_of((SIZE, [segment(box) for box in boxes]), SIZE), refine)
    flipped = [(y1, x1, y2, x2) for x1, y1, x2, y2 in boxes]
    refine_independently(
        turned, pieces_of((SIZE[::-1], [segment(box) for box in flipped]), SIZE[::-1]), refine
    )
    assert torch.allclose(turned.transpose(1, 2), picture, atol=1e-6)


def test_slices_that_keep_touching_ones_together_are_refined_in_order_to_the_same_bits(
    noise, segment, pieces_of, refiner
):
    boxes = [(0, 0, 30, 30), (20, 10, 50, 40), (500, 0, 530, 60), (505, 50, 540, 100), (0, 400, 40, 430)]
    size, found = (600, 700), [segment(box) for box in boxes]
    picture = noise(1, *size, 3)
    whole = picture.clone()
    refine_in_order(whole, pieces_of((size, found), size), refiner)
    results = []
    for worker in range(3):
        share, result = slice_segments(found, worker, 3, together=True), picture.clone()
        own = [piece for piece in pieces_of((size, share), size) if piece.cut.segment.wanted]
        refine_in_order(result, own, refiner)
        results.append(result[0])
    assert all(not torch.equal(result, picture[0]) for result in results)
    assert torch.equal(merge_results(picture[0], results), whole[0])


def test_pasting_in_order_lays_the_last_on_top(noise, segment, pieces_of):
    picture = noise(1, *SIZE, 3)
    pieces = pieces_of((SIZE, [segment((8, 8, 40, 40)), segment((24, 24, 64, 64))]), SIZE, feather=0)
    refine_in_order(
        picture,
        pieces,
        lambda pieces, crops: [
            (place, torch.full_like(crop, pieces[place].cut.segment.number))
            for place, crop in enumerate(crops)
        ],
    )
    assert (picture[0, 24:64, 24:64] == 1).all()
    assert (picture[0, 8:24, 8:40] == 0).all()
