"""Merging the results of several workers, bit for bit as a single worker's result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..errors import bad_input
from ..record import record
from .carrier import LEVELS, read_deliveries
from .paste import GRID
from .share import Contents, Share, unpack_share


@record
class Missing:
    """The missing results.

    Attributes:
        slices, count: their indices, and the number of all slices.
        numbers, total: the segments that no worker refined, and the number of all segments.
    """

    slices: list[int]
    count: int
    numbers: list[int]
    total: int


@record(eq=False)
class Arrived:
    """A worker's result as received.

    Attributes:
        pictures: (F, H, W, C): unchanged pixels are those that all workers started from.
        offset: levels that the transport subtracted.
    """

    share: Share
    pictures: Tensor
    offset: float


def read_results(batch: Tensor) -> list[Arrived]:
    """Return the workers' results in a batch (N, H, W, C), by their slices, each slice once; empty if no worker
    packed its own.

    Of several results of one slice, where a worker was cancelled and another one refined its slice, the one
    with the most segments counts.

    Raises:
        ValueError: when they are of another version of this pack.
    """
    arrived: dict[Contents, Arrived] = {}
    for delivery in read_deliveries(batch):
        share = unpack_share(delivery.data)
        pictures = batch[delivery.pictures[-len(share.changed) :]]
        if share.changed.shape != pictures.shape[:3]:  # some were lost: the slice did not arrive
            continue
        of_slice, numbers = replace(share.contents, numbers=()), share.contents.numbers
        if of_slice not in arrived or len(arrived[of_slice].share.contents.numbers) < len(numbers):
            arrived[of_slice] = Arrived(share, pictures, delivery.offset)
    return sorted(arrived.values(), key=lambda each: each.share.contents.index)


def missing_in(arrived: Sequence[Arrived]) -> Missing:
    """Return the slices and segments that are missing in the results.

    Raises:
        ValueError: when the workers shared other segments, or in other numbers of slices.
    """
    parts = [each.share.contents for each in arrived]
    kinds = {(part.count, part.total, part.digest) for part in parts}
    if len(kinds) != 1:
        got = ", ".join(f"{total} segments in {count} slices" for count, total, _ in sorted(kinds))
        hint = "Use the same image and segments on every worker, and the same count in every Slice SEGS."
        raise bad_input("results", "slices of the same segments", got, hint)
    [(count, total, _)] = kinds
    refined = {number for part in parts for number in part.numbers}
    slices = sorted(set(range(count)) - {part.index for part in parts})
    return Missing(slices, count, sorted(set(range(total)) - refined), total)


def merge_arrived(arrived: Sequence[Arrived], image: Tensor | None = None) -> Tensor:
    """Return (F, H, W, C) with all changes of the workers in `image`,
    or in the common image reconstructed from their results.

    Changed pixels have the bits of a single worker's result. The others have those of `image`; without
    `image` they are within half a level of the sent values if the transport has 8 bits.

    Raises:
        ValueError: when the images have another size than `image`.
    """
    base = _common_picture(arrived) if image is None else image.to("cpu", torch.float32)
    if any(each.share.changed.shape != base.shape[:3] for each in arrived):
        got = [tuple(each.share.changed.shape) for each in arrived]
        hint = "Connect the upscaled image that the workers started from to image."
        raise bad_input("results", f"images of {tuple(base.shape[:3])}, as in image", got, hint)
    whole = [_whole_result(base, each.share) for each in arrived]
    merged = [merge_results(base[frame], [each[frame] for each in whole]) for frame in range(len(base))]
    return torch.stack(merged)


def _common_picture(arrived: Sequence[Arrived]) -> Tensor:
    """Return the image (F, H, W, C) that all workers started from;
    changed pixels are read from the values stored before the change.
    """
    finest = min(arrived, key=lambda each: each.offset)
    base = finest.pictures.to("cpu", torch.float32, copy=True)
    if finest.offset:
        base = ((base * LEVELS).round_() + finest.offset).div_(LEVELS).clamp_(0, 1)
    for each in arrived:
        _put(base, each.share.changed, each.share.before)
    return base


def _whole_result(base: Tensor, share: Share) -> Tensor:
    result = base.clone()
    _put(result, share.changed, share.values)
    return result


def _put(picture: Tensor, changed: Tensor, values: Tensor) -> None:
    """Set the changed pixels of (F, H, W, C) to values (n, c): grey ones in every channel;
    channels that they lack stay.
    """
    channels = picture.shape[-1] if values.shape[-1] == 1 else min(picture.shape[-1], values.shape[-1])
    picture[..., :channels][changed] = values[:, :channels].expand(-1, channels)


def merge_results(picture: Tensor, results: Sequence[Tensor], tolerance: float = 0.0) -> Tensor:
    """Return (H, W, C) with all changes of several workers in copies of `picture`.

    The same bits as one worker's result, if they used the functions of `paste`. Differences up to `tolerance`
    count as unchanged: for workers that send 8-bit images without a description.
    """
    grid = (picture * GRID).round_()
    changes, count, merged = torch.zeros_like(picture), torch.zeros_like(picture), picture
    for result in results:
        changed = (result - picture).abs() > tolerance if tolerance else result != picture
        changes += torch.where(changed, (result * GRID).round_().sub_(grid), 0)
        count += changed
        merged = torch.where(changed, result, merged)
    return torch.where(count > 1, (grid + changes).mul_(1 / GRID), merged)


def merge_by_values(image: Tensor | None, results: Tensor, tolerance: float) -> Tensor:
    """Return (F, H, W, C) with the changes of workers that described nothing: every value that differs from
    `image` by more than `tolerance`.

    Args:
        results: all frames of the first worker, then all of the second, and so on.

    Raises:
        ValueError: when there is no image, or a result that does not fit it.
    """
    if image is None:
        hint = "Put Send SEGS Result before the collector on every worker, or connect image."
        raise bad_input("results", "frames of Send SEGS Result, because image is not connected", "none", hint)
    frames = len(image)
    if results.shape[1:] != image.shape[1:] or len(results) % frames:
        raise bad_input(
            "results",
            f"images of {shape_of(image)}, a multiple of {frames} frames",
            f"{len(results)} of {shape_of(results)}",
            "Connect the workers' images to results, and the upscaled image that they started from to image.",
        )
    merged = [merge_results(image[n], list(results[n::frames]), tolerance) for n in range(frames)]
    return torch.stack(merged)


def has_eight_bits(pictures: Tensor) -> bool:
    """Return whether an image of the batch was rounded to 8 bits."""
    levels = pictures * 255
    return bool(((levels - levels.round()).abs() < 1e-3).flatten(1).all(dim=1).any())


def shape_of(image: Tensor) -> str:
    """Return the size and channels of (F, H, W, C) as messages show them."""
    return f"{image.shape[2]}x{image.shape[1]} with {image.shape[3]} channels"
