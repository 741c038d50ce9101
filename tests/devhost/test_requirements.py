"""What the pack installs (nothing), and the command of the face nodes in environments that have other builds
of their packages.

Packages come from the index that pip is set to; where it cannot be reached, there is nothing to test.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shlex
import subprocess
import sys
import venv

import pytest
from megapixel.host import face_install
from packaging.requirements import Requirement

from devhost.environment import ROOT

COMMAND = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("face_install", sys.argv[1])
face_install = importlib.util.module_from_spec(spec)
spec.loader.exec_module(face_install)
print(face_install.install_command(face_install.missing_modules(), nvidia=sys.argv[2] == "nvidia"))
"""


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


def test_no_line_installs_anything():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.strip() and not line.startswith("#")] == []


@pytest.mark.parametrize(
    ("there", "computer", "installed"),
    [
        (["numpy==2.1.3"], "cpu", {"onnxruntime", "opencv-python"}),
        (["onnxruntime-openvino", "opencv-contrib-python==4.11.0.86", "numpy==2.1.3"], "nvidia", set()),
        (
            ["opencv-python-headless==4.11.0.86", "numpy==1.26.4", "protobuf==4.25.8"],
            "nvidia",
            {"onnxruntime-gpu"},
        ),
    ],
    ids=["fresh", "openvino and contrib", "headless, NumPy 1, old protobuf"],
)
@pytest.mark.skipif(
    sys.version_info >= (3, 13) or sys.platform == "darwin", reason="not all of these builds are for it"
)
def test_the_command_installs_what_is_missing_and_changes_nothing(tmp_path, there, computer, installed):
    venv.create(tmp_path, symlinks=os.name != "nt")
    python = tmp_path / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    # By this environment's pip, without compiling: a third of the time of a pip that comes with the new one.
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-compile"]
    run([*install, "pip", *there])
    packages = json.loads(run([python, "-m", "pip", "list", "--format", "json"]))
    before = {package["name"].lower() for package in packages}
    told = run([python, "-c", COMMAND, ROOT / "host" / "face_install.py", computer]).strip()
    plans = [
        json.loads(run([*shlex.split(command), "--quiet", "--dry-run", "--report", "-"]))
        for command in told.split(" and then ")
    ]
    names = {package["metadata"]["name"].lower() for plan in plans for package in plan["install"]}
    assert "insightface" in names
    assert not names & before
    assert {name for name in names if name.startswith(("onnxruntime", "opencv"))} == installed


def test_every_package_that_insightface_requires_is_known():
    """The closure of its requirements in this environment:
    what is not named could be changed by the command.
    """
    waiting, closure = ["insightface"], set()
    while waiting:
        for line in importlib.metadata.requires(waiting.pop()) or []:
            needed = Requirement(line)
            name = needed.name.lower().replace("_", "-")
            if name not in closure and (needed.marker is None or needed.marker.evaluate({"extra": ""})):
                closure.add(name)
                waiting.append(name)
    known = {*face_install.MODULES.values(), *face_install.CLOSURE}
    assert closure <= {name.replace("_", "-") for name in known}


def test_faces_are_the_same_with_insightface_1(tmp_path):
    package = ["--no-deps", "--target", tmp_path, "insightface==1.0.1"]
    run([sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", *package])
    older = {"PYTHONPATH": str(tmp_path)}
    program = "import insightface; print(insightface.__version__)"
    assert run([sys.executable, "-c", program], **older).strip() == "1.0.1"
    of_the_node = "tests/nodes/test_face_keypoints.py::test_the_choice_of_a_face"
    run([sys.executable, "-m", "pytest", "-n0", "tests/faces/test_find.py", of_the_node], **older)
