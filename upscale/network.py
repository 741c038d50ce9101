"""A loaded upscale model, prepared for tiling: with its device, dtype and memory format,
in one part or two, and measured.

A model is what spandrel calls an image model descriptor, from whichever loader. The pack works on a copy of
its own, so that a dtype or memory format never changes the model that other nodes use.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.functional import pixel_unshuffle

from .budget import Budget, BudgetSpent
from .float32 import true_float32
from .memory import MemoryEstimate, estimate_memory, is_out_of_memory
from .receptive_field import Measured, measure_receptive_field, textured_picture
from .stage import Run, Stage, Worker
from .tensor_format import Descriptor, Load, Store, TensorFormat, copy_descriptor
from .tile_size import CPU_HELD, fitting_pixels
from .tiles import ReceptiveField
from .trunk import split_network

WHOLE, TRUNK, TAIL = "whole", "trunk", "tail"


class _Copy:
    """A copy of a model on one device; without parts if it is run as a whole."""

    def __init__(self, descriptor: Descriptor) -> None:
        self.descriptor = descriptor
        self.parts = split_network(descriptor.model, descriptor.input_channels)
        self.compile_error: Exception | None = None
        self._compile_failed: Callable[[Exception], None] | None = None

    @property
    def _modules(self) -> list[nn.Module]:
        return [self.parts.trunk, self.parts.tail] if self.parts else [self.descriptor.model]

    def compile(self, failed: Callable[[Exception], None]) -> None:
        """Compile the layers with torch.compile, one shape of tiles at a time; it starts with the next call.

        If the compiler fails, the layers run uncompiled from then on, and `failed` is called.
        """
        for module in self._modules:
            module.compile(dynamic=False)  # pyright: ignore[reportUnknownMemberType]
        self._compile_failed = failed

    def run(self, part: str, tiles: Tensor) -> Tensor:
        """Run a part of the network on tiles."""
        if self._compile_failed is None:
            return self._run(part, tiles)
        try:
            return self._run(part, tiles)
        except Exception as error:  # the compiler raises all kinds
            if is_out_of_memory(error):
                raise
            failure = error.with_traceback(None)  # which would keep the tensors of the failed call
        failed, self._compile_failed = self._compile_failed, None
        for module in self._modules:
            module._compiled_call_impl = None  # pyright: ignore[reportPrivateUsage] - torch has no way back
        result = self._run(part, tiles)  # raises what is not the compiler's fault
        self.compile_error = failure
        failed(failure)
        return result

    def _run(self, part: str, tiles: Tensor) -> Tensor:
        if part == WHOLE or self.parts is None:
            return self.descriptor(tiles.clone())  # some networks write into what they are given
        if part == TRUNK:
            return self.parts.trunk(tiles)
        return self.parts.tail(tiles).clamp_(0, 1)


class _Copies:
    """Copies of one model in one tensor format, one per device, each made on its first use.

    `exact` ones compute float32 with all its bits.
    """

    def __init__(self, descriptor: Descriptor, tensor_format: TensorFormat, load: Load, exact: bool) -> None:
        # Weak, so that networks can be cached by their descriptors and still go with them.
        self._descriptor = weakref.ref(descriptor)
        self.tensor_format, self._load, self._exact = tensor_format, load, exact
        self.made: dict[torch.device, _Copy] = {}

    def on(self, device: torch.device) -> _Copy:
        """Return the copy with its weights on `device`, where the host may have unloaded them since."""
        if device in self.made:
            self._load(self.made[device].descriptor, device)
        else:
            descriptor = self._descriptor()
            assert descriptor is not None, "the user of a network keeps its model alive"
            copied = copy_descriptor(descriptor, self.tensor_format)
            self._load(copied, device)
            self.made[device] = _Copy(copied)
        return self.made[device]

    def run(self, device: torch.device, part: str, tiles: Tensor) -> Tensor:
        """Run a part of the copy that was made for `device`."""
        with true_float32() if self._exact else nullcontext():
            return self.made[device].run(part, tiles)

    def load_and_run(self, device: torch.device, part: str, tiles: Tensor) -> Tensor:
        """The same, also if the copy does not exist or its weights are unloaded."""
        self.on(device)
        return self.run(device, part, tiles)


class Network:
    """A model on one or several devices, as stages for the loop over tiles.

    Nothing in it refers back to it, so its memory is freed with its last reference.

    Attributes:
        stages: one, or a trunk and a tail.
        work_shares: of each stage in the whole.
        scale: output pixels per input pixel, along each axis.
        channels: that it takes.
        shuffle: pixels along each axis that are merged before the first stage.
        device: of the first copy.
        tiles_itself: whether the model needs whole images, because it tiles them itself.
    """

    def __init__(
        self,
        descriptor: Descriptor,
        devices: Sequence[torch.device],
        load: Load,
        tensor_format: TensorFormat | None = None,
        store: Store | None = None,
        budget: Budget | None = None,
        exact: bool = False,
    ) -> None:
        self.scale, self.channels, self.device = descriptor.scale, descriptor.input_channels, devices[0]
        self.tensor_format = tensor_format or TensorFormat()
        self.tiles_itself = getattr(descriptor.tiling, "name", "SUPPORTED") == "INTERNAL"
        self._sizes = descriptor.size_requirements
        self._store: Store = {} if store is None else store
        budget = budget or Budget()
        self._copies = _Copies(descriptor, self.tensor_format, load, exact)
        parts, *_ = [self._copies.on(device).parts for device in devices]
        self._exact = _Copies(descriptor, TensorFormat(), load, exact=True)
        self.shuffle = parts.shuffle if parts else 1
        if parts is None:
            self.work_shares = [1.0]
            self.stages = [
                self._stage(
                    WHOLE, devices, self.channels, self.scale, descriptor.output_channels, 1.0, budget
                )
            ]
        else:
            # Every weight is used once a pixel, in the tail once for each of the pixels that one becomes.
            works = [_weights(parts.trunk), _weights(parts.tail) * parts.scale**2]
            self.work_shares = [work / sum(works) for work in works]
            in_trunk, in_tail = self.work_shares
            channels = self.channels * parts.shuffle**2
            self.stages = [
                self._stage(TRUNK, devices[:1], channels, 1, parts.features, in_trunk, budget),
                self._stage(
                    TAIL, devices, parts.features, parts.scale, descriptor.output_channels, in_tail, budget
                ),
            ]

    @property
    def modules(self) -> list[nn.Module]:
        """The networks, one per device."""
        return [copied.descriptor.model for copied in self._copies.made.values()]

    def load(self) -> None:
        """Bring the weights to their devices again, if the host has unloaded them since."""
        for device in self._copies.made:
            self._copies.on(device)

    def compile(self, failed: Callable[[Exception], None]) -> None:
        """Compile the layers with torch.compile; if that fails,
        `failed` is called and they run uncompiled.
        """
        for copied in self._copies.made.values():
            copied.compile(failed)

    @property
    def compile_error(self) -> Exception | None:
        """The error because of which the layers run uncompiled."""
        return next(
            (copied.compile_error for copied in self._copies.made.values() if copied.compile_error), None
        )

    def prepare(self, pictures: Tensor) -> Tensor:
        """Return (F, C, H, W) in the form of the first stage's input."""
        if len(self.stages) == 1:
            return pictures
        return pixel_unshuffle(_padded(pictures, self._sizes), self.shuffle)

    def fitting_pixels(self, free: float) -> int:
        """Return how many pixels of an image fit in one call through all stages with `free` bytes."""
        fitting = min(fitting_pixels(stage.memory_estimate, free) for stage in self.stages)
        if self.device.type == "cpu":
            _, busiest = max(zip(self.work_shares, self.stages, strict=True), key=lambda pair: pair[0])
            fitting = min(fitting, int(CPU_HELD / max(busiest.memory_estimate.peak, 1.0)))
        return fitting * self.shuffle**2

    def _stage(
        self,
        part: str,
        devices: Sequence[torch.device],
        channels: int,
        scale: int,
        gives: int,
        share: float,
        budget: Budget,
    ) -> Stage:
        tensor_format = self.tensor_format
        workers = [
            Worker(
                partial(self._copies.run, device, part),
                device,
                tensor_format.dtype,
                tensor_format.memory_format,
                None
                if tensor_format.dtype == torch.float32
                else partial(self._exact.load_and_run, device, part),
            )
            for device in devices
        ]
        worth = share * self.shuffle**2  # of a pixel that goes through this stage
        estimate = _memory_estimate(part, workers[0], channels, self.shuffle, self._store, budget, worth)
        exact = partial(self._exact.load_and_run, devices[0], part)
        field = partial(_receptive_field, part, exact, channels, devices[0], self._sizes, self._store, worth)
        return Stage(workers, scale, estimate, field, gives, part == TRUNK)


def _memory_estimate(
    part: str, worker: Worker, channels: int, shuffle: int, store: Store, budget: Budget, worth: float
) -> MemoryEstimate:
    key = f"memory_estimate {part} {worker.device.type} {worker.dtype} {worker.memory_format == torch.channels_last}"
    if key not in store:
        # On a CPU tensors are counted exactly; what a GPU's allocator rounds up matters less in larger ones.
        sides = (32 // shuffle, 64 // shuffle) if worker.device.type == "cpu" else (64, 96)
        small, large = (textured_picture(channels, side, side, worker.device) for side in sides)
        store[key] = asdict(estimate_memory(budget.counting(worker, worth, must=True), small, large))
    return MemoryEstimate(**store[key])


def _receptive_field(
    part: str,
    run: Run,
    channels: int,
    device: torch.device,
    sizes: Any,
    store: Store,
    worth: float,
    budget: Budget | None = None,
    must: bool = True,
) -> ReceptiveField:
    """Return what was measured, or measure it.

    Raises:
        BudgetSpent: when that costs more than is left of the budget, unless it `must` be measured.
    """
    multiple, minimum = (sizes.multiple_of, sizes.minimum) if part == WHOLE else (1, 1)
    key, dearer = f"receptive_field {part}", f"too_costly receptive_field {part}"
    if key not in store:
        budget = budget or Budget()
        before = budget.left
        if not must and before < 2 * store.get(dearer, 0.0):
            raise BudgetSpent  # more than half of this was too little
        try:
            measured = measure_receptive_field(budget.counting(run, worth, must), channels, device, multiple)
        except BudgetSpent:
            store[dearer] = before
            raise
        store[key] = asdict(measured)
    return Measured(**store[key]).receptive_field(max(1, minimum))


def _weights(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _padded(pictures: Tensor, sizes: Any) -> Tensor:
    """Return images padded on the right and below as in spandrel: mirrored, then the last pixel repeated."""
    height, width = pictures.shape[-2:]
    beside, below = sizes.get_padding(width, height)
    mirrored = (0, min(beside, width - 1), 0, min(below, height - 1))
    pictures = F.pad(pictures, mirrored, mode="reflect")
    return F.pad(pictures, (0, beside - mirrored[1], 0, below - mirrored[3]), mode="replicate")
