"""A loaded upscale model made ready for tiling: on a device, in a type and layout, in one part or two, measured.

A model is what spandrel calls an image model descriptor, from whichever loader. The pack works on a copy of its own, so
that a layout or a type never reaches the model that other nodes hold.
"""

from __future__ import annotations

import copy
import math
import timeit
import weakref
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Protocol, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.functional import pixel_unshuffle

from ..errors import bad_input
from .memory import Need, measure_need
from .reach import Measured, measure_reach, textured_picture
from .stage import Run, Stage, Worker
from .tiles import Reach
from .trunk import TwoParts, split_network

TOLERANCE = (
    1.5 / 255
)  # by which half precision may differ from float32; to round input and output alone is one step
GAIN = 1.05  # times faster that another type or layout must be
RUNS = 3  # of each, of which the fastest counts

WHOLE, TRUNK, TAIL = "whole", "trunk", "tail"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

Store: TypeAlias = MutableMapping[str, Any]  # what was measured, by what it is; it can go to JSON and back
Load: TypeAlias = Callable[["Descriptor", torch.device], None]  # brings a descriptor's weights to a device


class Descriptor(Protocol):
    """The part of spandrel's image model descriptor that is used here."""

    scale: int
    input_channels: int
    output_channels: int
    supports_half: bool
    supports_bfloat16: bool
    size_requirements: Any
    tiling: Any

    @property
    def model(self) -> nn.Module: ...

    def __call__(self, image: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Form:
    """A type and a memory layout."""

    dtype: torch.dtype = torch.float32
    channels_last: bool = False

    @property
    def layout(self) -> torch.memory_format:
        """The layout as torch names it."""
        return torch.channels_last if self.channels_last else torch.contiguous_format


def copy_descriptor(descriptor: Descriptor, form: Form) -> Descriptor:
    """Return a copy with weights of its own in `form`; the host's handle on the original's weights is left out."""
    architecture, patcher = (getattr(descriptor, name, None) for name in ("architecture", "patcher"))
    # What is in the memo is not copied: it becomes what stands there.
    copied = copy.deepcopy(descriptor, {id(architecture): architecture, id(patcher): None})
    copied.model.to(dtype=form.dtype).eval().requires_grad_(False)
    if form.channels_last:
        copied.model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return copied


def choose_form(
    descriptor: Descriptor, device: torch.device, load: Load, precision: str, store: Store
) -> Form:
    """Return the fastest type and layout on `device` that `precision` allows; tried once, then cached in `store`.

    Args:
        precision: "float32", "float16", "bfloat16", or "auto": half precision where the model allows it and a probe
            differs from float32 by no more than one and a half steps of an 8-bit picture.

    Raises:
        ValueError: when the model does not allow that half precision, or cannot compute with it.
    """
    supports = {"float16": descriptor.supports_half, "bfloat16": descriptor.supports_bfloat16}
    if not supports.get(precision, True):
        other = next((name for name, supported in supports.items() if supported), "float32")
        raise bad_input("precision", "a type that this model allows", precision, f"Use auto or {other}.")
    key = f"form {device.type} {precision}"
    if key not in store:
        form = _fastest(descriptor, device, load, precision)
        store[key] = {"dtype": str(form.dtype).removeprefix("torch."), "channels_last": form.channels_last}
    return Form(DTYPES[store[key]["dtype"]], store[key]["channels_last"])


def _fastest(descriptor: Descriptor, device: torch.device, load: Load, precision: str) -> Form:
    """Return the fastest of the candidates that gives about what the first one does."""
    candidates = _candidates(descriptor, device, precision)
    side = 64 if device.type == "cpu" else 256
    probe = textured_picture(descriptor.input_channels, side, side, device)
    plain = candidates[0]
    best, shortest, expected = plain, math.inf, None
    for form in candidates:
        try:
            enlarged, seconds = _timed(descriptor, form, probe, load)
        except RuntimeError as error:
            # Some say that they allow a type, and then mix it with float32.
            if form.dtype == torch.float32 or "dtype" not in str(error):
                raise
            if form == plain:
                expected, hint = "a type in which this model runs", "Use auto or float32."
                raise bad_input("precision", expected, precision, hint) from error
            continue
        expected = enlarged if expected is None else expected
        if form != plain and not float((enlarged - expected).abs().max()) <= TOLERANCE:
            continue
        if seconds * (GAIN if best == plain else 1.0) < shortest:
            best, shortest = form, seconds
    return best


def _candidates(descriptor: Descriptor, device: torch.device, precision: str) -> list[Form]:
    """Return the forms that `precision` allows, the plainest first."""
    types = [DTYPES.get(precision, torch.float32)]
    if precision == "auto" and device.type != "cpu" and descriptor.supports_half:
        types.append(torch.float16)
    elif precision == "auto" and descriptor.supports_bfloat16:
        types.append(torch.bfloat16)
    return [Form(dtype, channels_last) for dtype in types for channels_last in (False, True)]


def _timed(descriptor: Descriptor, form: Form, probe: Tensor, load: Load) -> tuple[Tensor, float]:
    ready = copy_descriptor(descriptor, form)
    load(ready, probe.device)
    given = probe.to(form.dtype).contiguous(memory_format=form.layout)
    enlarged = ready(given.clone()).float().cpu()
    # `item` waits for the device.
    seconds = timeit.repeat(lambda: ready(given.clone()).sum().item(), repeat=RUNS, number=1)
    return enlarged, min(seconds)


@dataclass(frozen=True)
class _Copy:
    """A copy of a model on one device; without parts where it is run as a whole."""

    descriptor: Descriptor
    parts: TwoParts | None

    def run(self, part: str, tiles: Tensor) -> Tensor:
        if part == WHOLE or self.parts is None:
            return self.descriptor(tiles.clone())  # some networks write into what they are given
        if part == TRUNK:
            return self.parts.trunk(tiles)
        return self.parts.tail(tiles).clamp_(0, 1)


class _Copies:
    """Copies of one model in one form, one a device, each made when it is first asked for."""

    def __init__(self, descriptor: Descriptor, form: Form, load: Load) -> None:
        # Weak, so that networks can be cached by their descriptors and still go with them.
        self._descriptor = weakref.ref(descriptor)
        self.form, self._load = form, load
        self.made: dict[torch.device, _Copy] = {}

    def on(self, device: torch.device) -> _Copy:
        """Return the copy with its weights on `device`, where someone else may have taken them away since."""
        if device in self.made:
            self._load(self.made[device].descriptor, device)
        else:
            descriptor = self._descriptor()
            assert descriptor is not None, "whoever uses a network holds its model"
            copied = copy_descriptor(descriptor, self.form)
            self._load(copied, device)
            self.made[device] = _Copy(copied, split_network(copied.model, copied.input_channels))
        return self.made[device]

    def run(self, device: torch.device, part: str, tiles: Tensor) -> Tensor:
        """Run a part of the copy on `device`."""
        return self.on(device).run(part, tiles)


class Network:
    """A model on one or several devices, as stages for the loop over tiles.

    Nothing in it refers back to it, so its memory is free as soon as nobody holds it.

    Attributes:
        stages: one, or a trunk and a tail.
        work_shares: of each stage in the whole.
        scale: output pixels per input pixel, along each axis.
        channels: that it takes.
        shuffle: pixels along each axis that become one before the first stage.
        device: of the first copy.
        tiles_itself: whether the model wants whole pictures, because it cuts them by itself.
    """

    def __init__(
        self,
        descriptor: Descriptor,
        devices: Sequence[torch.device],
        load: Load,
        form: Form | None = None,
        store: Store | None = None,
    ) -> None:
        self.scale, self.channels, self.device = descriptor.scale, descriptor.input_channels, devices[0]
        self.tiles_itself = getattr(descriptor.tiling, "name", "SUPPORTED") == "INTERNAL"
        self._sizes = descriptor.size_requirements
        self._store: Store = {} if store is None else store
        self._copies = _Copies(descriptor, form or Form(), load)
        parts, *_ = [self._copies.on(device).parts for device in devices]
        self._exact = _Copies(descriptor, Form(), load)
        self.shuffle = parts.shuffle if parts else 1
        if parts is None:
            self.work_shares = [1.0]
            self.stages = [self._stage(WHOLE, devices, self.channels, self.scale, descriptor.output_channels)]
        else:
            # Every weight is used once a pixel, in the tail once for each of the pixels that one becomes.
            works = [_weights(parts.trunk), _weights(parts.tail) * parts.scale**2]
            self.work_shares = [work / sum(works) for work in works]
            self.stages = [
                self._stage(TRUNK, devices[:1], self.channels * parts.shuffle**2, 1, parts.features),
                self._stage(TAIL, devices, parts.features, parts.scale, descriptor.output_channels),
            ]

    @property
    def modules(self) -> list[nn.Module]:
        """The networks that do the work, one a device."""
        return [copied.descriptor.model for copied in self._copies.made.values()]

    def load(self) -> None:
        """Bring the weights to their devices again, where someone else has taken them away since."""
        for device in self._copies.made:
            self._copies.on(device)

    def compile(self) -> None:
        """Let torch.compile make the layers faster, one shape of tiles at a time; it starts with the next call."""
        for copied in self._copies.made.values():
            parts = copied.parts
            for module in (parts.trunk, parts.tail) if parts else (copied.descriptor.model,):
                module.compile(dynamic=False)  # pyright: ignore[reportUnknownMemberType]

    def prepare(self, pictures: Tensor) -> Tensor:
        """Return (F, C, H, W) as the first stage takes it."""
        if len(self.stages) == 1:
            return pictures
        return pixel_unshuffle(_padded(pictures, self._sizes), self.shuffle)

    def _stage(
        self, part: str, devices: Sequence[torch.device], channels: int, scale: int, gives: int
    ) -> Stage:
        form, store = self._copies.form, self._store
        workers = [
            Worker(
                partial(self._copies.made[device].run, part),
                device,
                form.dtype,
                form.layout,
                None if form.dtype == torch.float32 else partial(self._exact.run, device, part),
            )
            for device in devices
        ]
        exact = partial(self._exact.run, devices[0], part)
        reach = partial(_reach, part, exact, channels, devices[0], self._sizes, store)
        return Stage(workers, scale, _need(part, workers[0], channels, store), reach, gives, part == TRUNK)


def _need(part: str, worker: Worker, channels: int, store: Store) -> Need:
    key = f"need {part} {worker.device.type} {worker.dtype} {worker.layout == torch.channels_last}"
    if key not in store:
        small, large = (textured_picture(channels, side, side, worker.device) for side in (64, 96))
        store[key] = asdict(measure_need(worker, small, large))
    return Need(**store[key])


def _reach(part: str, run: Run, channels: int, device: torch.device, sizes: Any, store: Store) -> Reach:
    multiple, minimum = (sizes.multiple_of, sizes.minimum) if part == WHOLE else (1, 1)
    key = f"reach {part}"
    if key not in store:
        store[key] = asdict(measure_reach(run, channels, device, multiple))
    return Measured(**store[key]).reach(max(1, minimum))


def _weights(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _padded(pictures: Tensor, sizes: Any) -> Tensor:
    """Return pictures continued to the right and below as spandrel does it: mirrored, then the last pixel repeated."""
    height, width = pictures.shape[-2:]
    beside, below = sizes.get_padding(width, height)
    mirrored = (0, min(beside, width - 1), 0, min(below, height - 1))
    pictures = F.pad(pictures, mirrored, mode="reflect")
    return F.pad(pictures, (0, beside - mirrored[1], 0, below - mirrored[3]), mode="replicate")
