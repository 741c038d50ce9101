"""In which dtype and memory format a network is fastest on a device, measured within a budget."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import nullcontext
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from ..errors import bad_input
from ..record import record
from ..scaling.size import Size
from .budget import SMALLEST, Budget, BudgetSpent
from .compact import added_before_shuffle
from .float32 import true_float32
from .random_state import seeded
from .receptive_field import textured_picture

# By which half precision may differ from float32; to round input and output alone is one step.
TOLERANCE = 1.5 / 255
GAIN = 1.05  # times faster that another dtype or memory format must be
RUNS = 3  # of each that is not dropped before; the fastest counts
LONG = 0.5  # seconds of a run that is not repeated: what it prepares, and chance, are little beside it
PREPARING = 0.02  # seconds more that a first run may take than the best one's: it chooses kernels

# A probe has the size that will run; on a CPU no more than lets all runs of all candidates cost one pass over the image.
# A GPU needs large ones: else launching the kernels takes longer than the kernels.
SMALLEST_PROBE, SMALLEST_ON_GPU, LARGEST_PROBE = 16, 256, 1024  # pixels a side

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
NATIVE_ON_CPU = {  # as torch names what a processor can do
    torch.float16: ("avx512_fp16", "amx_fp16", "fp16_arith"),
    torch.bfloat16: ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"),
}

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


@record
class TensorFormat:
    """A dtype and a memory format."""

    dtype: torch.dtype = torch.float32
    channels_last: bool = False

    @property
    def memory_format(self) -> torch.memory_format:
        """The memory format as torch names it."""
        return torch.channels_last if self.channels_last else torch.contiguous_format


def copy_descriptor(descriptor: Descriptor, tensor_format: TensorFormat) -> Descriptor:
    """Return a copy with weights of its own in `tensor_format`, in which a Compact adds before it shuffles;
    the host's handle on the original's weights is left out.
    """
    architecture, patcher = (getattr(descriptor, name, None) for name in ("architecture", "patcher"))
    # What is in the memo is not copied: it becomes what stands there.
    memo: dict[int, Any] = {id(architecture): architecture, id(patcher): None}
    network = copy.deepcopy(descriptor.model, memo)
    memo[id(descriptor.model)] = added_before_shuffle(network, descriptor.input_channels)
    copied = copy.deepcopy(descriptor, memo)
    copied.model.to(dtype=tensor_format.dtype).eval().requires_grad_(False)
    if tensor_format.channels_last:
        copied.model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return copied


def computes_natively(dtype: torch.dtype, device: torch.device) -> bool:
    """Return whether the device has instructions for the type;
    a CPU without them is 3 to 30 times slower in it.
    """
    if device.type != "cpu" or dtype not in NATIVE_ON_CPU:
        return True
    capabilities = getattr(torch.cpu, "get_capabilities", None)
    if capabilities is None:  # torch before 2.10
        private = {torch.float16: "_is_amx_fp16_supported", torch.bfloat16: "_is_avx512_bf16_supported"}
        return bool(getattr(torch.cpu, private[dtype], bool)())
    found = capabilities()
    return any(found.get(name, False) for name in NATIVE_ON_CPU[dtype])


def choose_tensor_format(
    descriptor: Descriptor,
    device: torch.device,
    load: Load,
    precision: str,
    store: Store,
    size: Size,
    fitting: Callable[[], int],
    budget: Budget,
) -> TensorFormat:
    """Return the fastest dtype and memory format on `device` that `precision` allows; tried once,
    then cached in `store`.

    Args:
        precision: "float32", "float16", "bfloat16", or "auto": half precision where the model allows it and a
            probe differs from float32 by no more than one and a half steps of an 8-bit image. On a CPU
            without instructions for a half precision, float32 takes its place.
        size: of the image; what is fastest depends on it.
        fitting: returns how many pixels will run in one call; asked only where something is measured.

    Raises:
        ValueError: when the model does not allow that half precision, or cannot compute with it.
    """
    supports = {"float16": descriptor.supports_half, "bfloat16": descriptor.supports_bfloat16}
    if not supports.get(precision, True):
        other = next((name for name, supported in supports.items() if supported), "float32")
        raise bad_input("precision", "a type that this model supports", precision, f"Use auto or {other}.")
    key = f"tensor_format {device.type} {precision} {_kind_of(size)}"
    if key not in store:
        candidates = _candidates(descriptor, device, precision)
        side = _side_of_probe(size, fitting(), len(candidates), device.type == "cpu")
        picture = textured_picture(descriptor.input_channels, side, side, device)
        tensor_format = _fastest(_Probe(descriptor, load, picture, budget), candidates, precision)
        store[key] = {
            "dtype": str(tensor_format.dtype).removeprefix("torch."),
            "channels_last": tensor_format.channels_last,
        }
    return TensorFormat(DTYPES[store[key]["dtype"]], store[key]["channels_last"])


def _kind_of(size: Size) -> int:
    """Return the power of two up to the side of such an image: images of one kind share what was measured."""
    return 1 << min(math.isqrt(math.prod(size)), LARGEST_PROBE).bit_length() - 1


def _side_of_probe(size: Size, fitting: int, candidates: int, on_cpu: bool) -> int:
    pixels, smallest = math.prod(size), SMALLEST_PROBE
    if on_cpu:
        pixels = max(pixels, SMALLEST) // (RUNS * candidates)
    else:
        smallest = SMALLEST_ON_GPU
    return max(SMALLEST_PROBE, math.isqrt(min(max(pixels, smallest**2), LARGEST_PROBE**2, fitting)))


@record
class _Probe:
    """A model and what all its candidates are tried on."""

    descriptor: Descriptor
    load: Load
    picture: Tensor
    budget: Budget

    def runs(self, tensor_format: TensorFormat) -> Iterator[tuple[Tensor, float]]:
        """Yield run after run: the result in float32 on the CPU, and how many seconds it took.

        Raises:
            BudgetSpent: when one more would cost more than is left.
        """
        ready = copy_descriptor(self.descriptor, tensor_format)
        self.load(ready, self.picture.device)
        given = self.picture.to(tensor_format.dtype).contiguous(memory_format=tensor_format.memory_format)
        while True:
            self.budget.spend(self.picture[:, 0].numel(), must=self.picture.device.type != "cpu")
            copied = given.clone()  # some networks write into what they are given
            with seeded(0):  # some draw noise: the same for every candidate
                started = time.perf_counter()
                enlarged = ready(copied)
                enlarged.sum().item()  # waits for the device
                seconds = time.perf_counter() - started
            yield enlarged.float().cpu(), seconds


def _fastest(probe: _Probe, candidates: list[TensorFormat], precision: str) -> TensorFormat:
    """Return the fastest of the candidates that gives about what the first one does."""
    plain = best = candidates[0]
    fastest, expected = _Times(math.inf, math.inf), None
    for tensor_format in candidates:
        try:
            enlarged, times = _timed(probe, tensor_format, fastest, precision == "float32")
        except BudgetSpent:
            break
        except RuntimeError as error:
            # Some say that they allow a type, and then mix it with float32.
            if tensor_format.dtype == torch.float32 or "dtype" not in str(error):
                raise
            if tensor_format == plain:
                expected, hint = "a type in which this model runs", "Use auto or float32."
                raise bad_input("precision", expected, precision, hint) from error
            continue
        expected = enlarged if expected is None else expected
        if tensor_format != plain and not float((enlarged - expected).abs().max()) <= TOLERANCE:
            continue
        if times.best * (GAIN if best == plain else 1.0) < fastest.best:
            best, fastest = tensor_format, times
    return best


@record
class _Times:
    """Seconds of a candidate's first run, in which much is prepared, and of its fastest one."""

    first: float
    best: float


def _timed(probe: _Probe, tensor_format: TensorFormat, fastest: _Times, exact: bool) -> tuple[Tensor, _Times]:
    """Return the result and the times of several runs, or of fewer where they are slower than the fastest ones,
    or long.
    """
    runs = probe.runs(tensor_format)
    with true_float32() if exact else nullcontext():
        enlarged, first = next(runs)
        seconds, limit = [first], fastest.first + PREPARING
        while len(seconds) < RUNS and seconds[-1] <= min(LONG, limit):
            limit = fastest.best
            try:
                seconds.append(next(runs)[1])
            except BudgetSpent:
                break
    return enlarged, _Times(first, min(seconds))


def _candidates(descriptor: Descriptor, device: torch.device, precision: str) -> list[TensorFormat]:
    """Return the formats that `precision` allows and the device has instructions for, the plainest first."""
    asked = DTYPES.get(precision, torch.float32)
    types = [asked if computes_natively(asked, device) else torch.float32]
    if precision == "auto" and device.type != "cpu" and descriptor.supports_half:
        types.append(torch.float16)
    elif precision == "auto" and descriptor.supports_bfloat16 and computes_natively(torch.bfloat16, device):
        types.append(torch.bfloat16)
    return [TensorFormat(dtype, channels_last) for dtype in types for channels_last in (False, True)]
