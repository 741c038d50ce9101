"""Memory counted exactly, and its end recognised whatever class the error has."""

from __future__ import annotations

import gc

import pytest
import torch
import torch.nn.functional as F
from megapixel.upscale.memory import _LivingTensors, estimate_memory, is_out_of_memory
from torch import nn

FLOAT = 4


@pytest.fixture(scope="module")
def chain():
    """Convolutions from 3 channels to 8, 16, 4 and 3."""
    with torch.random.fork_rng(devices=[]):
        return nn.Sequential(*(nn.Conv2d(a, b, 3, padding=1) for a, b in ((3, 8), (8, 16), (16, 4), (4, 3))))


def count(run, *given):
    """Return (alive at the end, peak) in floats, with the result kept, and what is alive without it."""
    with torch.inference_mode(), _LivingTensors(torch.device("cpu")) as living:
        kept = run(*given)
        at_end = living.now
        del kept
        gc.collect()
        return (at_end // FLOAT, living.peak // FLOAT), living.now


def test_a_chain_lives_two_layers_at_a_time(chain, draw):
    pixels = 2 * 10 * 13
    counted, left = count(chain, draw(2, 3, 10, 13))
    assert counted == (3 * pixels, (8 + 16) * pixels)
    assert left == 0


def test_what_is_kept_by_name_goes_on_living(chain, draw):
    def run(picture):
        first = chain[0](picture)
        second = chain[1](first)
        third = chain[2](second)
        del second
        return chain[3](third) + first.mean(1, keepdim=True)

    pixels = 10 * 13
    counted, left = count(run, draw(1, 3, 10, 13))
    assert counted == (3 * pixels, (8 + 16 + 4) * pixels)
    assert left == 0


def test_views_and_work_in_place_take_nothing(draw):
    def run(picture):
        copied = picture.clone()
        copied.mul_(2)
        rows = copied[:, 1:].transpose(-1, -2)
        F.relu(rows, inplace=True)
        return rows.unsqueeze(0)

    counted, left = count(run, draw(1, 3, 7, 5))
    assert counted == (105, 105)
    assert left == 0


def test_a_view_keeps_its_whole_tensor_alive(draw):
    def run(picture):
        corner = picture.repeat(1, 1, 2, 2)[..., :1, :1]
        return corner, picture.clone()

    counted, left = count(run, draw(1, 3, 7, 5))
    assert counted == (5 * 105, 5 * 105)
    assert left == 0


def test_what_was_there_before_is_not_counted(draw):
    picture = draw(1, 3, 7, 5)
    assert count(lambda it: it.view(3, 35), picture) == ((0, 0), 0)


def test_the_same_place_taken_again_is_counted_again(draw):
    """An allocator hands out the same address again; it is another tensor."""

    def run(picture):
        for _ in range(50):
            picture = picture + 1
        return picture

    counted, left = count(run, draw(1, 3, 7, 5))
    assert counted == (105, 210)
    assert left == 0


def test_need_is_what_each_further_pixel_takes(chain, draw):
    with torch.inference_mode():
        estimate = estimate_memory(chain, draw(1, 3, 16, 21), draw(1, 3, 32, 21))
    assert estimate.peak == (24 + 3) * FLOAT  # three channels come in


def test_need_never_falls_below_the_larger_picture_s(draw):
    """Something of a fixed size hides growth: what the larger call took a pixel is then the safer figure."""

    def run(picture):
        return torch.zeros(10000), picture + 1

    estimate = estimate_memory(lambda it: run(it)[1], draw(1, 1, 10, 10), draw(1, 1, 20, 10))
    assert estimate.peak == (10000 + 200 + 200) * FLOAT / 200


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    MemoryError(),
    MemoryError("anything"),
    RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB (GPU 0; 23.68 GiB total capacity)"),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("HIP out of memory. Tried to allocate 20.00 MiB"),
    RuntimeError("MPS backend out of memory (MPS allocated: 9.00 GB)"),
    RuntimeError("XPU out of memory. Tried to allocate 20.00 MiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you "
                 "tried to allocate 4611686018427387904 bytes. Error code 12 (Cannot allocate memory)"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] data. DefaultCPUAllocator: not enough memory: you tried to "
                 "allocate 1073741824 bytes."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
]  # fmt: skip
OTHER = [
    RuntimeError(
        "Given groups=1, weight of size [64, 3, 3, 3], expected input[1, 4, 64, 64] to have 3 channels"
    ),
    RuntimeError("CUDA error: device-side assert triggered"),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("Storage size calculation overflowed with sizes=[1000000000000, 1000000000000]"),
    RuntimeError(),
    ValueError("out of memory"),
    KeyboardInterrupt("out of memory"),
    OSError(12, "Cannot allocate memory"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: f"{type(error).__name__} {error}"[:60])
def test_the_end_of_memory_is_recognised(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", OTHER, ids=lambda error: f"{type(error).__name__} {error}"[:60])
def test_other_errors_are_no_end_of_memory(error):
    assert not is_out_of_memory(error)


def test_the_real_allocator_s_error_is_recognised():
    with pytest.raises(Exception, match=r".+") as raised:
        torch.empty(2**61, dtype=torch.uint8)
    assert is_out_of_memory(raised.value)
