"""A ControlNet that reads a face's tokens instead of the prompt.

The host allows one other text per conditioning, for all of its ControlNets. Here each face has its own: a
link in the chain of ControlNets passes the tokens of one face to one network, while earlier ones keep the
prompt or their own face. The tokens are stored with each conditioning in the host's `model_conds`, so that
the host splits and batches them like the prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from comfy.conds import CONDCrossAttn
from comfy.controlnet import ControlBase, T2IAdapter
from torch import Tensor

from ..attention.token_mask import for_pictures, for_window
from ..errors import bad_input
from ..host.models import check_conditioning
from ..record import record
from ..scaling.colours import rgb
from .face_idle import why_idle
from .picture_masks import PictureMasks, have_a_face, mask_of_prompt

TEXT = "crossattn_controlnet"  # where the host looks for another text than the prompt
KEY = "megapixel_face_control"

Conditioning = list[list[Any]]


@record(eq=False)
class FaceGuide:
    """A ControlNet, the keypoints (F, H, W, 3) that it follows, and how strongly and when.

    `mask` (M, H, W) limits the positive conditioning, as in the original node. An image whose mask is black
    gets the prompt without the face.
    """

    network: Any  # the host's ControlNet, or another pack's
    keypoints: Tensor
    strength: float = 1.0
    start_at: float = 0.0
    end_at: float = 1.0
    mask: Tensor | None = None

    @property
    def idle(self) -> str | None:
        """Why nothing would ever be added, or None."""
        return why_idle(self.strength, self.mask, self.start_at, self.end_at, "strength")


def check_control_net(network: Any, context: int) -> None:
    """Raise unless a ControlNet can read a face's tokens of width `context`.

    InstantID's has the layout of any ControlNet for SDXL, so a depth or pose ControlNet cannot be
    distinguished from it.

    Raises:
        ValueError: when it is not a ControlNet or another kind of one, or reads tokens of another width.
    """
    if not hasattr(network, "set_cond_hint"):
        got = "nothing" if network is None else type(network).__name__
        raise bad_input("control_net", "a ControlNet", got, "Connect Load ControlNet Model.")
    found = _unfit(network, context)
    if found:
        hint = "Load InstantID's own diffusion_pytorch_model.safetensors."
        raise bad_input("control_net", "InstantID's ControlNet for SDXL", found, hint)


def _unfit(network: Any, context: int) -> str | None:
    """Return what kind of ControlNet it is if it does not fit, or None if it seems to fit."""
    if isinstance(network, T2IAdapter):
        return "a T2I adapter, which reads no text"
    model = getattr(network, "control_model", None)
    if model is None:  # a Control-LoRA gets its layers when it runs
        return None
    if not hasattr(model, "input_blocks"):
        return f"one for another model family ({type(model).__name__})"
    if getattr(model, "control_add_embedding", None) is not None:
        return "a union ControlNet"
    own = next((width for width in _context_widths(model)), None)
    return None if own in (context, None) else f"one that reads tokens of {own} instead of {context} values"


def _context_widths(model: Any) -> Iterator[int]:
    for name, layer in model.named_modules():
        if name.endswith("attn2.to_k"):
            yield layer.in_features


def guide_by_face(
    positive: Conditioning, negative: Conditioning, guide: FaceGuide, tokens: tuple[Tensor, Tensor]
) -> tuple[Conditioning, Conditioning]:
    """Return both conditionings with one more ControlNet, which reads the face's tokens (R, T, D) for each.

    With several references, each image of a batch reads one of them, in turn, as in the original node.

    Existing ControlNets of a conditioning stay before it and keep their text; those on the positive one that are
    meant for both halves go to a negative one without any. An idle guide changes nothing.
    With several faces on one conditioning, its prompt applies wherever one of the masks allows it.
    """
    check_conditioning(positive, "positive")
    check_conditioning(negative, "negative")
    if guide.idle:
        return positive, negative
    links: dict[
        ControlBase | None, FaceControl
    ] = {}  # the halves of the guidance share them, to be run in one batch

    def guided(entry: list[Any], text: Tensor, before: ControlBase | None) -> list[Any]:
        options = dict(entry[1])
        before = options.get("control") or before
        link = links.setdefault(before, _new_link(guide, before))
        options["model_conds"] = {**options.get("model_conds", {}), link.key: CONDCrossAttn(text)}
        return [entry[0], options | {"control": link, "control_apply_to_uncond": False}]

    of_face, of_none = tokens
    return (
        [_limited(*guided(entry, of_face, None)) for entry in positive],
        [guided(entry, of_none, _meant_for_both(positive)) for entry in negative],
    )


def _meant_for_both(positive: Conditioning) -> ControlBase | None:
    """Return the ControlNet that the host would also use for a negative conditioning without one.

    Its first node for ControlNets connects to the positive one only.
    """
    each = (options for _, options in positive if options.get("control_apply_to_uncond"))
    return next((control for options in each if (control := options.get("control"))), None)


def _limited(text: Tensor, options: dict[str, Any]) -> list[Any]:
    """Return a conditioning whose prompt is limited to the masks of its faces."""
    masks = [link.mask for link in _faces(options["control"])]
    shown = [mask for mask in masks if mask is not None]
    if len(shown) == len(masks):
        return [text, options | {"mask": mask_of_prompt(shown), "set_area_to_bounds": False}]
    if isinstance(options.get("mask"), PictureMasks):  # of an earlier face; this one may go everywhere
        options = {name: value for name, value in options.items() if name != "mask"}
    return [text, options]


def _faces(link: ControlBase | None) -> Iterator[FaceControl]:
    while link is not None:
        if isinstance(link, FaceControl):
            yield link
        link = link.previous_controlnet


def _new_link(guide: FaceGuide, before: ControlBase | None) -> FaceControl:
    hint = rgb(guide.keypoints, -1).movedim(-1, 1)
    network = guide.network.copy().set_cond_hint(hint, guide.strength, (guide.start_at, guide.end_at))
    link = FaceControl(network, f"{KEY}_{_length(before)}", guide.mask)
    link.set_previous_controlnet(before)
    return link


def _in_pictures(control: dict[str, list[Any]], shown: Tensor) -> dict[str, list[Any]]:
    """Return residuals (B, C, H, W) without those of the images that are not `shown` (B,)."""
    keep = shown[:, None, None, None]
    return {
        place: [None if each is None else each * keep.to(each) for each in residuals]
        for place, residuals in control.items()
    }


def _length(control: ControlBase | None) -> int:
    return 0 if control is None else 1 + _length(control.previous_controlnet)


class FaceControl(ControlBase):
    """A link in a chain of ControlNets, around one network that reads the tokens under `key`.

    Attributes:
        mask: region of the face, (M, H, W), one for each image and the last one for the rest; None is
            everywhere. Images whose mask is black get nothing. Code that crops the keypoints of a copy must
            crop this too.
        sub_idxs: the numbers of the images in this call, if a pack samples a long batch in windows; None is
            all of them.
        full_latent_length, context_length: also set by such packs.
    """

    sub_idxs: Sequence[int] | None = None
    full_latent_length = context_length = 0

    def __init__(self, network: Any, key: str, mask: Tensor | None = None) -> None:
        self.network = network
        hint = network.cond_hint_original
        super().__init__()
        self.cond_hint_original = hint
        self.key = key
        self.mask = mask
        self.shown: Tensor | None = None  # which images (M,) have the face, while a run lasts; None is all

    @property
    def cond_hint_original(self) -> Tensor | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The keypoints (F, 3, H, W). Code that crops them for a part of the image sets them on a copy, as on
        any ControlNet.
        """
        return self.network.cond_hint_original

    @cond_hint_original.setter
    def cond_hint_original(self, hint: Tensor | None) -> None:
        self.network.cond_hint_original = hint

    @property
    def cond_hint(self) -> Tensor | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The keypoints of this call; packs that sample in tiles set those of the tiles here."""
        return self.network.cond_hint

    @cond_hint.setter
    def cond_hint(self, hint: Tensor | None) -> None:
        self.network.cond_hint = hint

    @cond_hint.deleter
    def cond_hint(self) -> None:
        self.network.cond_hint = None

    def get_control(
        self,
        x_noisy: Tensor,
        t: Tensor,
        cond: dict[str, Any],
        batched_number: int,
        transformer_options: dict[str, Any],
    ) -> Any:
        """Return the residuals of the chain up to this link, or None (the host's hook)."""
        chain: Any = self.previous_controlnet
        before = chain and chain.get_control(x_noisy, t, cond, batched_number, transformer_options)
        reading = cond | {TEXT: cond[self.key]} if self.key in cond else cond
        with self._keypoints_of_the_window():
            own = self.network.get_control(x_noisy, t, reading, batched_number, transformer_options)
        if own is None:
            return before
        if self.shown is not None:
            pictures = self._of_the_window(self.shown, len(x_noisy) // batched_number)
            own = _in_pictures(own, pictures.repeat(batched_number))
        return self.control_merge(own, before, output_dtype=None)

    def _of_the_window(self, each: Tensor, pictures: int) -> Tensor:
        """Return (B, …) for the B images of this call, from (M, …) for all images."""
        if self.sub_idxs is None:
            return for_pictures(each, pictures)
        return for_window(each, self.sub_idxs)

    @contextmanager
    def _keypoints_of_the_window(self) -> Iterator[None]:
        whole = self.cond_hint_original
        if self.sub_idxs is None or whole is None or len(whole) == 1:
            yield
            return
        self.cond_hint, self.cond_hint_original = None, for_window(whole, self.sub_idxs)
        try:
            yield
        finally:
            self.cond_hint_original = whole

    def pre_run(self, model: Any, percent_to_timestep_function: Any) -> None:
        super().pre_run(model, percent_to_timestep_function)
        # What a cancelled run has left: the host cleans up only after one that ends.
        self.sub_idxs = self.cond_hint = None
        self.network.pre_run(model, percent_to_timestep_function)
        shown = None if self.mask is None else have_a_face(self.mask)
        self.shown = None if shown is None or bool(shown.all()) else shown

    def cleanup(self) -> None:
        super().cleanup()
        self.shown = self.sub_idxs = None
        self.network.cleanup()

    def get_models(self) -> list[Any]:
        return self.network.get_models() + super().get_models()

    def get_extra_hooks(self) -> list[Any]:
        return self.network.get_extra_hooks() + super().get_extra_hooks()

    def inference_memory_requirements(self, dtype: torch.dtype) -> float:
        return self.network.inference_memory_requirements(dtype) + super().inference_memory_requirements(
            dtype
        )

    def copy(self) -> FaceControl:
        clone = FaceControl(self.network.copy(), self.key, self.mask)
        self.copy_to(clone)
        return clone

    def deepclone_multigpu(self, load_device: torch.device, autoregister: bool = False) -> FaceControl:
        clone = FaceControl(self.network.deepclone_multigpu(load_device), self.key, self.mask)
        self.copy_to(clone)
        if autoregister:
            self.multigpu_clones[load_device] = clone
        return clone
