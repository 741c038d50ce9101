"""A text for each segment, instead of the general prompt.

A caption replaces the text of all entries of `positive` that have no place. Their options stay: ControlNet
hints, reference latents, guidance, ranges of steps. Entries with a mask or an area, regional prompts, stay as
they are.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from torch import Tensor

from ..errors import bad_input
from ..segs.segment import read_shape, whole_of
from ..segs.texts import SegmentTexts, check_count, unused_labels
from .crop_conditioning import Conditioning, PerCrop
from .spatial_entries import ROWS

PLACES = frozenset({"area", "mask"})


def encode_captions(
    clip: Any, captions: Sequence[str], labels: Sequence[str], segments: int | None
) -> SegmentTexts:
    """Return captions as texts of segments in their order, or of labels where there are some;
    empty ones are None.

    Equal captions are encoded once. `segments` is how many there are, where that is known.

    Raises:
        ValueError: when there are more or fewer captions than labels or segments, or a label comes twice, or
            there is no CLIP.
    """
    if clip is None:
        raise bad_input("clip", "a CLIP", "none: the checkpoint has none", "Connect Load CLIP.")
    if labels:
        if len(labels) != len(captions) or len(set(labels)) != len(labels):
            expected, got = f"a different label for each of {len(captions)} captions", ", ".join(labels)
            raise bad_input(
                "labels", expected, got, "Write one label in a line, in the order of the captions."
            )
    elif segments is not None:
        check_count("captions", len(captions), segments)
    encoded = {
        caption: clip.encode_from_tokens_scheduled(clip.tokenize(caption))
        for caption in dict.fromkeys(captions)
        if caption.strip()
    }
    texts = [encoded.get(caption) for caption in captions]
    return SegmentTexts(by_label=dict(zip(labels, texts, strict=True))) if labels else SegmentTexts(texts)


def text_notices(texts: SegmentTexts | None, segs: Any) -> list[str]:
    """Return a text for the labels that no segment has.

    Raises:
        ValueError: when the texts go by number, and there are more or fewer than segments of all workers.
    """
    if texts is None:
        return []
    whole = whole_of(read_shape(segs)[1])
    if texts.by_number:
        check_count("segment_texts", len(texts.by_number), len(whole))
    unused = unused_labels(texts, [str(segment.label) for segment in whole])
    return [f"segment_texts: no segment has the label {', '.join(unused)}."] if unused else []


def batch_key(text: Conditioning | None) -> Hashable:
    """Return what is equal for texts that can go in one batch: plain ones of one shape, or the same one."""
    if text is None:
        return None
    [(tokens, options), *more] = text
    rows = {name: value for name, value in options.items() if value is not None}
    if more or not rows.keys() <= ROWS:
        return id(text)
    return tokens.shape, tuple(sorted((name, value.shape) for name, value in rows.items()))


def with_texts(general: Conditioning, texts: Sequence[Conditioning | None]) -> Conditioning:
    """Return the general prompt with the texts of segments that are sampled together;
    they have one `batch_key`.

    Where every entry of the general prompt has a place, the texts are added to them.
    """
    first = texts[0]
    if first is None:
        return general
    text = first if all(each is first for each in texts) else _stacked([each for each in texts if each])
    if all(PLACES & options.keys() for _, options in general):
        return [*general, *text]
    return [
        made
        for entry in general
        for made in (
            [entry] if PLACES & entry[1].keys() else [[own, entry[1] | of_text] for own, of_text in text]
        )
    ]


def _stacked(texts: Sequence[Conditioning]) -> Conditioning:
    """Return texts with one entry each as one entry whose parts have a row for each."""
    tokens = PerCrop(text[0][0] for text in texts)
    names = texts[0][0][1]
    options = {name: _rows([text[0][1][name] for text in texts]) for name in names}
    return [[tokens, options]]


def _rows(values: Sequence[Tensor | None]) -> Any:
    return None if values[0] is None else PerCrop(value for value in values if value is not None)
