"""What several workers send, through transports that damage values, merged:
the bits of one worker's result.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
import torch
from megapixel.segs.carrier import carry_bytes
from megapixel.segs.choose import slice_segments
from megapixel.segs.merge import merge_arrived, missing_in, read_results
from megapixel.segs.refine import refine_independently
from megapixel.segs.segment import Slice
from megapixel.segs.share import contents_of, pack_share, unpack_share

SIZE = (67, 103)
LEVEL = 1 / 255


def truncated(batch):
    """Return a batch as PNGs of 8 bits bring it that were made with astype(uint8); without alpha."""
    levels = (batch[..., :3] * 255).clamp(0, 255)
    return levels.to(torch.uint8).float() / 255


def rounded(batch):
    return (batch[..., :3] * 255).round().clamp(0, 255) / 255


@pytest.fixture
def work(noise, random_boxes, segment, pieces_of, refiner):
    """A function (workers, frames, channels) that returns the plain picture, one worker's result,
    and what each of several sends.
    """

    def run(workers, frames=1, channels=3, seed=0):
        boxes = random_boxes(Random(seed), SIZE, 12, 40)
        segs = SIZE, [segment(box, noise(9, 13, seed=n).numpy()) for n, box in enumerate(boxes)]
        plain = noise(frames, *SIZE, channels, seed=seed)
        whole, sent = plain.clone(), []
        refine_independently(whole[..., :3], pieces_of(segs, SIZE, frames), refiner)
        for worker in range(workers):
            share = slice_segments(segs[1], worker, workers)
            result = plain.clone()
            refine_independently(result[..., :3], pieces_of((SIZE, share), SIZE, frames), refiner)
            described = pack_share(plain, result, contents_of(SIZE, share))
            sent.append(torch.cat([result, carry_bytes(described, result)]))
        return plain, whole, sent

    return run


@pytest.mark.parametrize("workers", [2, 3, 8])
@pytest.mark.parametrize(
    "send", [lambda batch: batch, truncated, rounded], ids=["float", "truncated", "rounded"]
)
def test_merged_results_have_the_bits_of_one_worker_s(workers, send, work):
    plain, whole, sent = work(workers)
    arrived = read_results(torch.cat([sent[0], *(send(each) for each in sent[1:])]))
    assert torch.equal(merge_arrived(arrived, plain), whole)


@pytest.mark.parametrize(("send", "bound"), [(lambda batch: batch, 0.0), (truncated, 0.51), (rounded, 0.51)])
def test_without_the_picture_unchanged_pixels_are_half_a_level_near_and_the_mean_stays(send, bound, work):
    _, whole, sent = work(3)
    merged = merge_arrived(read_results(send(torch.cat(sent))))
    difference = merged - whole
    assert difference.abs().max() <= bound * LEVEL + 1 / 65535
    assert difference.mean().abs() < 2e-4


def test_without_the_picture_changed_pixels_keep_the_bits_that_one_worker_sent(work):
    plain, _, sent = work(2)
    arrived = read_results(truncated(torch.cat(sent)))
    merged = merge_arrived(arrived)
    alone = [each.share.changed for each in arrived]
    for own, other, batch in ((*alone, sent[0]), (*alone[::-1], sent[1])):
        once = own & ~other
        assert once.any()
        changed = batch[:1] != plain
        assert torch.equal(merged[once][changed[once]], batch[:1][once][changed[once]])


def test_frames_alpha_and_a_master_s_floats_beside_truncated_ones(work):
    plain, whole, sent = work(3, frames=2, channels=4)
    arrived = read_results(truncated(torch.cat(sent[1:])))
    assert [each.share.contents.index for each in arrived] == [1, 2]
    arrived = [*read_results(sent[0]), *arrived]
    assert torch.equal(merge_arrived(arrived, plain), whole)


def test_a_picture_of_another_size_is_an_error_message(work, noise):
    _, _, sent = work(2)
    with pytest.raises(ValueError, match=r"results: expected images of \(1, 5, 6\), as in image, got "):
        merge_arrived(read_results(torch.cat(sent)), noise(1, 5, 6, 3))


def test_lost_slices_are_named_and_leave_their_pixels(work):
    plain, whole, sent = work(3)
    arrived = read_results(
        torch.cat([sent[0], sent[2], sent[1][:-1]])
    )  # the last frame of the second never came
    missing = missing_in(arrived)
    assert (missing.slices, missing.count, missing.total) == ([1], 3, 12)
    assert sorted([*missing.numbers, *(n for each in arrived for n in each.share.contents.numbers)]) == list(
        range(12)
    )
    merged = merge_arrived(arrived, plain)
    touched = torch.stack([each.share.changed for each in arrived]).any(dim=0)
    assert torch.equal(merged[~touched], plain[~touched])
    assert not torch.equal(merged, whole)


def test_one_result_twice_counts_once(work):
    plain, whole, sent = work(2)
    assert torch.equal(merge_arrived(read_results(torch.cat([sent[0], sent[1], sent[0]])), plain), whole)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_a_slice_that_a_cancelled_worker_began_and_another_finished_counts_once(order, work):
    plain, whole, sent = work(2)
    [share] = [each.share for each in read_results(sent[0])]
    begun = plain.clone()
    half = share.changed & (torch.arange(SIZE[1]) < 60)
    begun[half] = sent[0][: len(plain)][half]
    contents = replace(share.contents, numbers=share.contents.numbers[:2])
    cancelled = torch.cat([begun, carry_bytes(pack_share(plain, begun, contents), begun)])
    results = [sent[0], sent[1], cancelled]
    arrived = read_results(torch.cat([results[number] for number in order]))
    assert missing_in(arrived).numbers == []
    assert torch.equal(merge_arrived(arrived, plain), whole)


def test_results_of_other_segments_are_one_sentence(work):
    sent = [work(2, seed=seed)[2][number] for number, seed in enumerate((0, 1))]
    with pytest.raises(
        ValueError, match=r"results: expected slices of the same segments, got 12 segments in 2 slices, "
    ):
        missing_in(read_results(torch.cat(sent)))


def test_bytes_of_something_else_are_one_sentence():
    for data in (b"", b"something else", b"PK\x03\x04" + bytes(40)):
        with pytest.raises(
            ValueError, match=r"results: expected frames of Send SEGS Result of this version, got "
        ):
            unpack_share(data)


def test_a_slice_of_a_slice_has_a_place_of_its_own(segment):
    found = [segment((x, 0, x + 10, 10)) for x in range(0, 80, 10)]
    places = set()
    for outer in range(2):
        for inner in range(3):
            share = slice_segments(slice_segments(found, outer, 2), inner, 3)
            assert isinstance(share, Slice)
            assert share.slice_count == 6
            places.add(share.slice_index)
    assert places == set(range(6))
