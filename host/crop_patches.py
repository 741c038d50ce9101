"""Patches of other nodes on a model that cover the image: cropped to each segment, on a clone of the model.

A class is identified by its file and name in the host. The host's own are in one of two tables, and a test
that reads its source fails if one is in neither. A class of another pack that seems to cover the image is
reported.

Data encoded from an image is dropped: the patch itself encodes the cropped image again.
"""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field
from typing import Any

from torch import Tensor, nn

from ..record import record
from ..segs.crop import Crop, fit_aspect
from .canvas import Canvas, crop_fields, crop_pictures
from .compat import is_patcher

_DEPTH = 5  # containers and objects inside each other that are looked into
_ASPECT_TOLERANCE = 0.02  # relative; of masks and images that lie over the image


@record
class _Cutting:
    """Crops patches for crops in one batch; an object shared by several hooks is
    cropped once and stays shared.
    """

    crops: Sequence[Crop]
    canvas: Canvas
    _done: dict[int, Any] = field(default_factory=dict[int, Any])

    def __call__(self, value: Any) -> Any:
        """Return a cropped copy of a patch, or the patch itself if it has no position."""
        if isinstance(value, types.MethodType):
            owner = self(value.__self__)
            return value if owner is value.__self__ else getattr(owner, value.__name__)
        cutter = CUTTERS.get(name_of(value))
        if cutter is None:
            return value
        if id(value) not in self._done:
            self._done[id(value)] = cutter(value, self)
        return self._done[id(value)]

    def pictures(self, pictures: Tensor | None) -> Tensor | None:
        """Cut IMAGE (B, H, W, C)."""
        return None if pictures is None else crop_pictures(pictures, self.crops, self.canvas)

    def masks(self, masks: Tensor | None, *, middle: bool = True) -> Tensor | None:
        """Cut masks (B, …, H, W): of one with another shape the middle is used, or it is stretched."""
        if masks is None:
            return None
        fitted = fit_aspect(masks, self.canvas.size) if middle else masks
        return crop_fields(fitted, self.crops, self.canvas)

    def latents(self, latents: Tensor | None) -> Tensor | None:
        """Cut latents (B, C, …, h, w)."""
        return None if latents is None else crop_fields(latents, self.crops, self.canvas, self.canvas.cell)


Cutter = Callable[[Any, _Cutting], Any]


def _changed(patch: Any, /, **values: Any) -> Any:
    """Return a copy of a patch with other attributes."""
    made = copy.copy(patch)
    vars(made).update(values)
    return made


def _cut_diffsynth(patch: Any, cut: _Cutting) -> Any:
    return _changed(
        patch,
        image=cut.pictures(patch.image),
        mask=cut.masks(patch.mask, middle=False),
        encoded_image=patch.encoded_image.new_empty(0),  # the host moves it: None would fail
        encoded_image_size=None,
    )


def _cut_zimage(patch: Any, cut: _Cutting) -> Any:
    return _changed(
        patch,
        image=cut.pictures(patch.image),
        inpaint_image=cut.pictures(patch.inpaint_image),
        mask=cut.masks(patch.mask),
        encoded_image=None,
        encoded_image_size=None,
        temp_data=None,
    )


def _cut_uni3c(patch: Any, cut: _Cutting) -> Any:
    """Frames are sampled one by one: each gets the render of its own number."""
    render = cut.pictures(patch.render_video)
    return _changed(patch, render_video=render, prepared_render=None, temp_data=None)


def _cut_lllite(patch: Any, cut: _Cutting) -> Any:
    return _changed(patch, image=cut.pictures(patch.image), mask=cut.masks(patch.mask))


def _cut_lllite_part(patch: Any, cut: _Cutting) -> Any:
    return _changed(patch, patch=cut(patch.patch))


def _cut_supir(patch: Any, cut: _Cutting) -> Any:
    return _changed(patch, hint_latent=cut.latents(patch.hint_latent), cached_features=None)


def _cut_supir_restore(function: Any, cut: _Cutting) -> Any:
    """Return the function with another latent in its closure, which is its only place for it."""
    cells = {
        name: cell.cell_contents
        for name, cell in zip(function.__code__.co_freevars, function.__closure__, strict=True)
    }
    cells["x_center"] = cut.latents(cells["x_center"])
    closure = tuple(types.CellType(value) for value in cells.values())
    code, scope = function.__code__, function.__globals__
    return types.FunctionType(code, scope, function.__name__, function.__defaults__, closure)


def _cut_motion(patch: Any, cut: _Cutting) -> Any:
    return _changed(patch, motion_frames_latent=cut.latents(patch.motion_frames_latent))


def _cut_start(patch: Any, cut: _Cutting) -> Any:
    return _changed(patch, init_latents=cut.latents(patch.init_latents))


def _cut_speakers(patch: Any, cut: _Cutting) -> Any:
    """Cut masks (speakers, tokens) whose tokens are squares of two latent pixels of the image."""
    masks, cell = patch.ref_target_masks, 2 * cut.canvas.cell
    if masks is None:
        return patch
    for height, width in cut.canvas.sizes:
        grid = height // cell, width // cell
        if masks.shape[1] == grid[0] * grid[1]:
            over = masks.view(1, -1, *grid).float()
            cut_masks = crop_fields(over, cut.crops[:1], cut.canvas, cell)[0] > 0.5
            return _changed(patch, ref_target_masks=cut_masks.flatten(1))
    return patch


# The host's own classes and functions that cover the image, by file and name.
CUTTERS: Mapping[str, Cutter] = {
    "nodes_model_patch.DiffSynthCnetPatch": _cut_diffsynth,
    "nodes_model_patch.ZImageControlPatch": _cut_zimage,
    "nodes_model_patch.WanUni3CCnetPatch": _cut_uni3c,
    "nodes_model_patch.SUPIRApply.execute.<locals>.restore_cfg_function": _cut_supir_restore,
    "supir_patch.SUPIRPatch": _cut_supir,
    "lllite.AnimaLLLitePatch": _cut_lllite,
    "lllite.AnimaLLLiteAttentionPatch": _cut_lllite_part,
    "lllite.AnimaLLLiteMLPPatch": _cut_lllite_part,
    "model_multitalk.InfiniteTalkOuterSampleWrapper": _cut_motion,
    "model_multitalk.MultiTalkApplyModelWrapper": _cut_start,
    "model_multitalk.MultiTalkGetAttnMapPatch": _cut_speakers,
}

# Those that repeat what they hold over the rows of a batch, so that several segments can go together.
_TAKES_BATCHES = frozenset(
    {
        "nodes_model_patch.SUPIRApply.execute.<locals>.restore_cfg_function",
        "supir_patch.SUPIRPatch",
        "lllite.AnimaLLLitePatch",
        "lllite.AnimaLLLiteAttentionPatch",
        "lllite.AnimaLLLiteMLPPatch",
    }
)

# The host's own that hold tensors without a place in the image: a style, an audio, a repeating pattern.
PLACELESS = frozenset(
    {
        "nodes_model_patch.UsoStyleProjectorPatch",
        "model_multitalk.MultiTalkCrossAttnPatch",
        "nodes_flux.KV_Attn_Input",
        "nodes_hidream_o1.HiDreamO1PatchSeamSmoothing.execute.<locals>.smoothing_wrapper",
    }
)


def crop_patches(model: Any, crops: Sequence[Crop], canvas: Canvas) -> Any:
    """Return a clone of the model whose patches are cropped; the model itself if none covers the image."""
    if not any(name_of(patch) in CUTTERS for patch in patches_in(model)):
        return model
    cutting, clone = _Cutting(crops, canvas), model.clone()
    clone.model_options = _mapped(clone.model_options, cutting)
    clone.wrappers = _mapped(clone.wrappers, cutting)
    clone.callbacks = _mapped(clone.callbacks, cutting)
    return clone


def patch_cutter(model: Any, crops: Sequence[Crop], canvas: Canvas) -> Callable[[Any], Any]:
    """Return a function that crops the patches in this model's options,
    for a run in which the options change from step to step.

    Each patch is cropped once, however often it appears. If no patch covers the image, options are returned
    unchanged.
    """
    if not any(name_of(patch) in CUTTERS for patch in patches_in(model)):
        return lambda options: options
    cutting = _Cutting(crops, canvas)
    return lambda options: _mapped(options, cutting)


def crop_cfg_functions(model: Any, crop: Crop, canvas: Canvas) -> Any:
    """Return a clone as `crop_patches` does, but crop only functions that change the finished estimate,
    not patches inside the network.
    """
    inside = {"transformer_options", "model_function_wrapper"}
    outside = {name: value for name, value in model.model_options.items() if name not in inside}
    if not any(name_of(patch) in CUTTERS for patch in _leaves(outside)):
        return model
    clone = model.clone()
    clone.model_options = clone.model_options | _mapped(outside, _Cutting([crop], canvas))
    return clone


def takes_batches(model: Any) -> bool:
    """Return whether several segments can be sampled together with this model's patches."""
    return all(
        name_of(patch) not in CUTTERS or name_of(patch) in _TAKES_BATCHES for patch in patches_in(model)
    )


def patch_notices(model: Any, canvas: Canvas) -> list[str]:
    """Return a text for each class of another pack in the model that seems to cover the image."""
    own = __name__.removesuffix("host.crop_patches")
    unknown = {
        name_of(patch)
        for patch in patches_in(model)
        if not _module_of(patch).startswith(own)
        and name_of(patch) not in {*CUTTERS, *PLACELESS}
        and _lies_over(patch, canvas)
    }
    return [
        f"model: {name} has a tensor that may cover the image. This class is not supported, so every segment "
        "gets all of it."
        for name in sorted(unknown)
    ]


def name_of(value: Any) -> str:
    """Return the file and the name of a function, or of the class of an object or of a method's owner."""
    named = _named(value)
    return (
        f"{_module_of(value).removesuffix('_x_py').replace('/', '.').rpartition('.')[2]}.{named.__qualname__}"
    )


def patches_in(model: Any) -> Iterator[Any]:
    """Yield each function and object in a model's options, wrappers and callbacks."""
    for value in (model.model_options, model.wrappers, model.callbacks):
        yield from _leaves(value)


def _named(value: Any) -> Any:
    owner = value.__self__ if isinstance(value, types.MethodType) else value
    return owner if isinstance(owner, types.FunctionType) else type(owner)


def _module_of(value: Any) -> str:
    # the host names the modules of its extra nodes by their paths
    return _named(value).__module__.replace("\\", "/")


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for each in value:
            yield from _leaves(each)
    elif not isinstance(value, (type, str, int, float, Tensor, types.NoneType)):
        yield value


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return containers like these with each function and object changed."""
    if isinstance(value, dict):
        return {key: _mapped(each, change) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_mapped(each, change) for each in value)
    return value if isinstance(value, type) else change(value)


def _lies_over(value: Any, canvas: Canvas) -> bool:
    """Return whether a patch has a tensor (B, C, …, h, w), or one (B, h, w) with the shape of the image."""
    shapes = {tuple(tensor.shape) for tensor in _tensors(value, _DEPTH, set())}
    return any(len(shape) > 3 or (len(shape) == 3 and _is_like(shape, canvas)) for shape in shapes)


def _is_like(shape: Sequence[int], canvas: Canvas) -> bool:
    height, width = shape[-2:]
    return min(height, width) > 1 and any(
        abs(height * size[1] / (width * size[0]) - 1) < _ASPECT_TOLERANCE for size in canvas.sizes
    )


def _tensors(value: Any, depth: int, seen: set[int]) -> Iterator[Tensor]:
    """Yield the tensors of an object, without weights of models."""
    if isinstance(value, Tensor):
        yield value
        return
    if depth == 0 or id(value) in seen or isinstance(value, (type, nn.Module)) or is_patcher(value):
        return
    seen.add(id(value))
    for part in _parts(value):
        yield from _tensors(part, depth - 1, seen)


def _parts(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, (list, tuple, set)):
        return list(value)
    if isinstance(value, types.MethodType):
        return [value.__self__]
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, types.FunctionType):
        return [cell.cell_contents for cell in value.__closure__ or () if cell != types.CellType()]
    return list(getattr(value, "__dict__", {}).values())
