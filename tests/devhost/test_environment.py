"""The commands of `dev.py`: one line of JSON, an error message on failure,
one environment per set of pins.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from devhost.environment import ROOT, python_folder


def dev(*arguments, **variables):
    return subprocess.run(
        [sys.executable, "dev.py", *arguments],
        cwd=ROOT, capture_output=True, text=True, env={**os.environ, **variables}, timeout=300,
    )  # fmt: skip


def test_env_prints_one_line_of_json():
    done = dev("env")
    assert done.returncode == 0, done.stderr
    [line] = done.stdout.splitlines()
    environment = json.loads(line)
    assert set(environment) == {"python", "comfyui", "version"}
    assert environment["comfyui"] == os.environ["COMFYUI_PATH"]
    done = subprocess.run(
        [environment["python"], "-c", "import torch, aiohttp, safetensors"], capture_output=True
    )
    assert done.returncode == 0


@pytest.mark.parametrize("command", ["env", "demo", "test", "lint", "bench"])
def test_a_wrong_comfyui_is_an_error_message(tmp_path, command):
    done = dev(command, COMFYUI_PATH=str(tmp_path))
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith(f"dev: COMFYUI_PATH: expected the folder of a ComfyUI, got {tmp_path}. ")


def test_no_network_is_an_error_message(tmp_path):
    offline = {
        "MEGAPIXEL_CACHE": str(tmp_path), "COMFYUI_PATH": "", "PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "1",
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_EXTRA_INDEX_URL": "", "PIP_FIND_LINKS": "",
    }  # fmt: skip
    done = dev("env", **offline)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1] == (
        "dev: Could not fetch ComfyUI: the package index cannot be reached. "
        "Connect to the internet (or set PIP_INDEX_URL to a mirror) and run the same command again."
    )
    assert not list(tmp_path.glob("comfyui-*"))


def test_a_changed_pin_is_another_environment_and_a_comment_is_not(tmp_path):
    pins, constraints = tmp_path / "requirements.txt", tmp_path / "constraints.txt"
    constraints.write_text("torch==2.11.0\n")
    pins.write_text("pytest==8.4.2\n")
    folder = python_folder(tmp_path, [pins], constraints)
    pins.write_text("# why\n\npytest==8.4.2  # because\n")
    assert python_folder(tmp_path, [pins], constraints) == folder
    constraints.write_text("torch==2.12.0\n")
    assert python_folder(tmp_path, [pins], constraints) != folder


def test_an_unknown_benchmark_lists_the_known_ones():
    done = dev("bench", "nonsense")
    assert done.returncode == 1
    assert "deep_shrink" in done.stderr
