"""A loaded upscale model made ready for tiling: on a device, in a type and layout, in one part or two, measured.

A model is what spandrel calls an image model descriptor, from whichever loader. The pack works on a copy of its own, so
that a layout or a type never reaches the model that other nodes hold.
"""

from __future__ import annotations

import copy
import math
import time
import weakref
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Protocol, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.functional import pixel_unshuffle

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

Store: TypeAlias = MutableMapping[str, Any]  # what was measured, by what; it may be kept in a file
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
    # What is in the memo is not copied: it becomes what stands there.
    shared = {"architecture": getattr(descriptor, "architecture", None), "patcher": None}
    memo = {
        id(old): new for name, new in shared.items() if (old := getattr(descriptor, name, None)) is not None
    }
    copied = copy.deepcopy(descriptor, memo)
    copied.model.to(dtype=form.dtype).eval().requires_grad_(False)
    if form.channels_last:
        copied.model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return copied


def choose_form(
    descriptor: Descriptor, device: torch.device, load: Load, precision: str, store: Store
) -> Form:
    """Return the fastest type and layout on `device` that `precision` allows; tried once, then remembered in `store`.

    Args:
        precision: "float32", "float16", "bfloat16", or "auto": half precision where the model allows it and a probe
            differs from float32 by no more than one and a half steps of an 8-bit picture.

    Raises:
        ValueError: a half precision that the model does not allow; one sentence.
    """
    supports = {"float16": descriptor.supports_half, "bfloat16": descriptor.supports_bfloat16}
    if not supports.get(precision, True):
        other = next((name for name, supported in supports.items() if supported), "float32")
        raise ValueError(
            f"precision: expected a type that this model allows, got {precision}. Use auto or {other}."
        )
    key = f"form {device.type} {precision}"
    if key not in store:
        form = _fastest(descriptor, device, load, precision)
        store[key] = [str(form.dtype).removeprefix("torch."), form.channels_last]
    name, channels_last = store[key]
    return Form(getattr(torch, name), channels_last)


def _fastest(descriptor: Descriptor, device: torch.device, load: Load, precision: str) -> Form:
    side = 64 if device.type == "cpu" else 256
    probe = textured_picture(descriptor.input_channels, side, side, device)
    plain = Form() if precision in ("auto", "float32") else Form(getattr(torch, precision))
    best, shortest, expected = plain, math.inf, None
    for form in dict.fromkeys([plain, *_candidates(descriptor, device, precision)]):
        try:
            enlarged, seconds = _timed(descriptor, form, probe, load)
        except RuntimeError as error:
            # Some say that they allow a type, and then mix it with float32.
            if form.dtype == torch.float32 or "dtype" not in str(error):
                raise
            if form == plain:
                raise ValueError(
                    f"precision: expected a type in which this model runs, got {precision}. Use auto or float32."
                ) from error
            continue
        expected = enlarged if expected is None else expected
        if form != plain and not float((enlarged - expected).abs().max()) <= TOLERANCE:
            continue
        if seconds * (GAIN if best == plain else 1.0) < shortest:
            best, shortest = form, seconds
    return best


def _candidates(descriptor: Descriptor, device: torch.device, precision: str) -> list[Form]:
    types = [torch.float32] if precision in ("auto", "float32") else [getattr(torch, precision)]
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
    seconds: list[float] = []
    for _ in range(RUNS):
        start = time.perf_counter()
        ready(given.clone()).sum().item()  # waits for the device
        seconds.append(time.perf_counter() - start)
    return enlarged, min(seconds)


class Network:
    """A model on one or several devices, as stages for the loop over tiles.

    Attributes:
        stages: one, or a trunk and a tail.
        work_shares: of each stage in the whole.
        scale: pixels of a side that it makes of one.
        channels: that it takes.
        shuffle: pixels of a side that become one before the first stage.
        device: of the first copy.
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
        # Weak, so that networks can be kept by their descriptors and still go with them.
        self._descriptor, self._load, self._form = weakref.ref(descriptor), load, form or Form()
        self._sizes, self._tiling = descriptor.size_requirements, descriptor.tiling
        self._store: Store = {} if store is None else store
        self._careful = cache(self._ready_carefully)
        self._parts_of = cache(self._split)
        self._copies = {device: self._ready(self._form, device) for device in devices}
        parts = self._parts_of(next(iter(self._copies.values())))
        self.shuffle = parts.shuffle if parts else 1
        if parts is None:
            self.stages = [
                self._stage("whole", devices, self.channels, self.scale, descriptor.output_channels)
            ]
            self.work_shares = [1.0]
        else:
            # Every weight is used once a pixel, in the tail once for each of the pixels that one becomes.
            works = [_weights(parts.trunk), _weights(parts.tail) * parts.scale**2]
            self.work_shares = [work / sum(works) for work in works]
            self.stages = [
                self._stage("trunk", devices[:1], self.channels * parts.shuffle**2, 1, parts.features),
                self._stage("tail", devices, parts.features, parts.scale, descriptor.output_channels),
            ]

    @property
    def modules(self) -> list[nn.Module]:
        """The networks that do the work, one a device."""
        return [copied.model for copied in self._copies.values()]

    @property
    def tiles_itself(self) -> bool:
        """Tell whether the model wants whole pictures, because it cuts them by itself."""
        return getattr(self._tiling, "name", "SUPPORTED") == "INTERNAL"

    def load(self) -> None:
        """Bring the weights to their devices again, where someone else has taken them away since."""
        for device, copied in self._copies.items():
            self._load(copied, device)

    def compile(self) -> None:
        """Let torch.compile make the layers faster, one shape of tiles at a time; it starts with the next call."""
        for copied in self._copies.values():
            parts = self._parts_of(copied)
            for module in (copied.model,) if parts is None else (parts.trunk, parts.tail):
                module.compile(dynamic=False)  # pyright: ignore[reportUnknownMemberType]

    def prepare(self, pictures: Tensor) -> Tensor:
        """Return (F, C, H, W) as the first stage takes it."""
        if len(self.stages) == 1:
            return pictures
        return pixel_unshuffle(_padded(pictures, self._sizes), self.shuffle)

    def _ready(self, form: Form, device: torch.device) -> Descriptor:
        descriptor = self._descriptor()
        assert descriptor is not None, "whoever uses a network holds its model"
        copied = copy_descriptor(descriptor, form)
        self._load(copied, device)
        return copied

    def _ready_carefully(self, device: torch.device) -> Descriptor:
        return self._ready(Form(), device)

    def _split(self, copied: Descriptor) -> TwoParts | None:
        return split_network(copied.model, self.channels)

    def _stage(
        self, part: str, devices: Sequence[torch.device], channels: int, scale: int, gives: int
    ) -> Stage:
        workers = [
            Worker(
                _part_of(self._copies[device], part, self._parts_of),
                device,
                self._form.dtype,
                self._form.layout,
                None if self._form.dtype == torch.float32 else self._carefully(part, device),
            )
            for device in devices
        ]
        need = self._need(part, workers[0], channels)
        return Stage(workers, scale, need, self._reach(part, devices[0], channels), gives)

    def _carefully(self, part: str, device: torch.device) -> Run:
        """Return the part in float32, copied and loaded when it is first needed."""

        def run(tiles: Tensor) -> Tensor:
            careful = self._careful(device)
            self._load(careful, device)
            return _part_of(careful, part, self._parts_of)(tiles)

        return run

    def _need(self, part: str, worker: Worker, channels: int) -> Need:
        key = f"need {part} {worker.device.type} {self._form.dtype} {self._form.channels_last}"
        if key not in self._store:
            pictures = [textured_picture(channels, side, side, worker.device) for side in (64, 96)]
            self._store[key] = asdict(measure_need(worker, *pictures))
        return Need(**self._store[key])

    def _reach(self, part: str, device: torch.device, channels: int) -> Callable[[], Reach]:
        multiple, minimum = (self._sizes.multiple_of, self._sizes.minimum) if part == "whole" else (1, 1)

        def measured() -> Reach:
            key = f"reach {part}"
            if key not in self._store:
                run = self._carefully(part, device)
                self._store[key] = asdict(measure_reach(run, channels, device, multiple))
            return Measured(**self._store[key]).reach(max(1, minimum))

        return cache(measured)


def _weights(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _part_of(copied: Descriptor, part: str, parts_of: Callable[[Descriptor], TwoParts | None]) -> Run:
    if part == "whole":
        return lambda tiles: copied(tiles.clone())  # some networks write into what they are given
    parts = parts_of(copied)
    assert parts is not None, "a copy has the parts of its original"
    if part == "trunk":
        return parts.trunk
    return lambda features: parts.tail(features).clamp_(0, 1)


def _padded(pictures: Tensor, sizes: Any) -> Tensor:
    """Return pictures continued to the right and below as spandrel does it: mirrored, then the last pixel repeated."""
    height, width = pictures.shape[-2:]
    beside, below = sizes.get_padding(width, height)
    mirrored = (0, min(beside, width - 1), 0, min(below, height - 1))
    pictures = F.pad(pictures, mirrored, mode="reflect")
    return F.pad(pictures, (0, beside - mirrored[1], 0, below - mirrored[3]), mode="replicate")
