"""The benchmark at the device's bound: it runs on a CPU, and what it counts there stays small."""

from __future__ import annotations

import re

import folder_paths
import pytest
import torch

from bench import upscale_gpu

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def user_folder(tmp_path):
    before = folder_paths.get_user_directory()
    folder_paths.set_user_directory(str(tmp_path))
    yield
    folder_paths.set_user_directory(before)


@pytest.mark.parametrize("name", ["Compact 16x4", "SPAN 48"])
def test_the_node_asks_for_little_beyond_the_network(name):
    cases = {"a picture": (1, 24, 32), "frames": (3, 24, 32)}
    with torch.random.fork_rng(devices=[]), torch.inference_mode():  # the bench draws weights
        _, _, *rows = upscale_gpu.rows([name], cases, 2)
    for row, pictures in zip(rows, (1, 3), strict=True):
        (launches, alone), (copies, copies_alone) = (
            (int(ours), int(alone)) for ours, alone in re.findall(r"(\d+) \((\d+)\)", row)
        )
        assert alone > 10
        # What is checked, drawn as a preview and written takes about as much for every network.
        assert launches - alone <= 55 * pictures
        assert copies - copies_alone <= 5 * pictures


def test_operations_are_counted_by_what_they_do():
    picture = torch.zeros(1, 3, 8, 9)
    counts = upscale_gpu.count(lambda: (picture[..., 1:].clone() + 1).to(torch.float64))
    assert (counts.launches, counts.copies) == (1, 2)
