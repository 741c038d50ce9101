"""What users install: in a fresh environment, and the versions of insightface that may be there already.

Packages come from the index that pip is set to; where it cannot be reached, there is nothing to test.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv

import numpy as np
import pytest
from packaging.requirements import Requirement

from devhost.environment import ROOT

LINES = [
    line
    for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]
GPU_LINE = next(line for line in LINES if line.startswith("onnxruntime-gpu"))


def run(command, **variables):
    """Return what a command prints, which must succeed; where pip finds no index, the test is skipped."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT, capture_output=True, text=True, env={**os.environ, **variables},
    )  # fmt: skip
    if "NewConnectionError" in done.stderr:
        pytest.skip("the package index cannot be reached")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_line_by_line_the_build_for_gpus_is_the_one_that_imports(tmp_path):
    venv.create(tmp_path, with_pip=True, symlinks=os.name != "nt")
    python = tmp_path / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pinned = {"PIP_CONSTRAINT": str(ROOT / "devhost" / "constraints.txt")}
    for line in [f"numpy=={np.__version__}", *LINES]:  # the host's, and then as ComfyUI Manager does
        run([python, "-m", "pip", "install", "--quiet", line], **pinned)
    program = "import insightface, numpy, onnxruntime; print(numpy.__version__, *onnxruntime.get_available_providers())"
    version, *providers = run([python, "-c", program]).split()
    assert version == np.__version__
    assert ("CUDAExecutionProvider" in providers) == Requirement(GPU_LINE).marker.evaluate()
    assert providers[-1] == "CPUExecutionProvider"


def test_no_line_changes_what_a_host_with_numpy_2_has(tmp_path):
    venv.create(tmp_path, with_pip=True, symlinks=os.name != "nt")
    python = tmp_path / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pip = [python, "-m", "pip", "install", "--quiet"]
    run([*pip, "numpy==2.1.3", "opencv-python==4.12.0.88"])  # older than what pip takes where there is none
    plans = [json.loads(run([*pip, "--dry-run", "--report", "-", line])) for line in LINES]
    names = {package["metadata"]["name"] for plan in plans for package in plan["install"]}
    assert "insightface" in names
    assert not [name for name in names if name.startswith(("numpy", "opencv", "torch"))]


@pytest.mark.parametrize(
    ("system", "machine", "expected"),
    [
        ("linux", "x86_64", "onnxruntime-gpu"),
        ("win32", "AMD64", "onnxruntime-gpu"),
        ("linux", "aarch64", "onnxruntime"),
        ("win32", "ARM64", "onnxruntime"),
        ("darwin", "arm64", "onnxruntime"),
        ("darwin", "x86_64", "onnxruntime"),
    ],
)
def test_every_platform_gets_one_onnxruntime_after_insightface(system, machine, expected):
    surroundings = {"sys_platform": system, "platform_machine": machine}
    needed = [Requirement(line) for line in LINES]
    names = [one.name for one in needed if one.marker is None or one.marker.evaluate(surroundings)]
    assert names == ["insightface", expected]


def test_faces_are_the_same_with_insightface_1(tmp_path):
    package = ["--no-deps", "--target", tmp_path, "insightface==1.0.1"]
    run([sys.executable, "-m", "pip", "install", "--quiet", *package])
    older = {"PYTHONPATH": str(tmp_path)}
    program = "import insightface; print(insightface.__version__)"
    assert run([sys.executable, "-c", program], **older).strip() == "1.0.1"
    run([sys.executable, "-m", "pytest", "-n0", "tests/faces", "tests/nodes/test_face_keypoints.py"], **older)
