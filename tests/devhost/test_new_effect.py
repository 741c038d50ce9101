"""`dev.py new-effect` in a copy of the tree: what it makes passes its own tests,
those of the house, and lint.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from devhost.environment import ROOT

NAME = "very_soft_focus_of_a_long_name"
TESTS = [
    *(f"tests/{folder}/test_{NAME}.py" for folder in ("scaling", "patches", "nodes")),
    "tests/test_house.py",
    "tests/test_readme.py",
    "tests/nodes/test_schemas.py",
    "tests/nodes/test_locales.py",
]
# Takes a process of its own; another test of that file sees the same file by file.
OWN_PROCESS = "tests/test_house.py::test_the_pack_loads_nothing_but_itself"
HEAVY = ("assets/", "bench/results/", "web/docs/")


@pytest.fixture
def tree(tmp_path):
    """A copy of the tracked files; of the large ones, only that they are there."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in listed.stdout.split("\0"):
        if (ROOT / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            if name.startswith(HEAVY) and not name.endswith(".md"):
                (tmp_path / name).touch()
            else:
                shutil.copyfile(ROOT / name, tmp_path / name)
    return tmp_path


def run(tree, *arguments, **variables):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=tree, env={**environment, **variables}, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def files_in(tree):
    return sorted(file for file in tree.rglob("*") if "__pycache__" not in file.parts)


def assert_passes(tree, *arguments, **variables):
    status, output = run(tree, "-m", *arguments, **variables)
    assert status == 0, output


def test_a_new_effect_passes_its_tests_and_those_of_the_house(tree):
    status, output = run(tree, "-m", "devhost.new_effect", NAME)
    assert status == 0, output
    assert_passes(tree, "pytest", "-q", "-n0", "-p", "no:cacheprovider", "--deselect", OWN_PROCESS, *TESTS)
    assert_passes(tree, "ruff", "check", ".")
    assert_passes(tree, "ruff", "format", "--check", ".")
    files = [f"{folder}/{NAME}.py" for folder in ("scaling", "patches", "nodes")]
    host = {"PYTHONPATH": os.environ["COMFYUI_PATH"], "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    assert_passes(tree, "pyright", "--pythonpath", sys.executable, *files, **host)


@pytest.mark.parametrize("name", ["Soft", "soft focus", "deep_shrink", "../soft"])
def test_a_wrong_name_makes_nothing(tree, name):
    before = files_in(tree)
    status, output = run(tree, "-m", "devhost.new_effect", name)
    assert status == 2
    assert "name: expected" in output
    assert files_in(tree) == before
