"""Reading, computing and writing at once: in order, bounded, and no error is lost."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from megapixel.video.frame_loop import ReadAhead, WriteBehind


def test_items_come_in_order_and_are_written_in_order():
    written = []
    with ReadAhead(iter(range(50)), 2) as items, WriteBehind(written.append, 2) as writer:
        for item in items:
            writer.put(item * 2)
    assert written == list(range(0, 100, 2))


def test_no_more_than_so_many_are_read_early():
    taken = []

    def read():
        for number in range(100):
            taken.append(number)
            yield number

    with ReadAhead(read(), 3) as items:
        assert next(items) == 0
        time.sleep(0.3)
        assert len(taken) <= 1 + 3 + 1  # the one in hand, those that wait, and one at the door


def test_no_more_than_so_many_wait_to_be_written():
    gate, put = threading.Event(), []
    with WriteBehind(lambda item: gate.wait(10), 2) as writer:
        thread = threading.Thread(target=lambda: [(writer.put(item), put.append(item)) for item in range(10)])
        thread.start()
        time.sleep(0.3)
        assert len(put) <= 1 + 2
        gate.set()
        thread.join()
    assert put == list(range(10))


def test_an_error_of_reading_comes_after_what_was_read():
    def read():
        yield 1
        raise OSError("disk")

    seen = []
    with pytest.raises(OSError, match="disk"), ReadAhead(read()) as items:
        seen.extend(items)
    assert seen == [1]


def test_an_error_of_writing_ends_the_work_and_blocks_nothing():
    def write(item):
        raise OSError("full")

    def work():
        with WriteBehind(write, 1) as writer:
            for item in range(1000):
                writer.put(item)
                time.sleep(0.001)

    with pytest.raises(OSError, match="full"):
        work()


def test_an_error_in_between_is_the_one_that_is_raised_and_what_was_put_is_written():
    written = []

    def work():
        with WriteBehind(written.append) as writer:
            writer.put(1)
            raise KeyError("stop")

    with pytest.raises(KeyError):
        work()
    assert written == [1]


def test_leaving_early_closes_what_is_read():
    closed = threading.Event()

    def read():
        try:
            yield from range(1000)
        finally:
            closed.set()

    with ReadAhead(read()) as items:
        next(items)
    assert closed.is_set()


def test_writing_runs_without_gradients():
    modes = []
    with WriteBehind(lambda _: modes.append(torch.is_inference_mode_enabled())) as writer:
        writer.put(0)
    assert modes == [True]
