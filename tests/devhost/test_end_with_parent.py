"""A program that was started with `start` ends with the process that started it, also when that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from devhost.end_with_parent import end, start
from devhost.environment import ROOT

# Writes its own number and that of a process which it starts, and goes on for minutes.
PROGRAM = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
with open("numbers.new", "w") as file:
    file.write(f"{os.getpid()} {child.pid}")
os.replace("numbers.new", "numbers")
time.sleep(300)
"""
TEST = f"""
import os, pathlib, sys, time
sys.path.insert(0, {str(ROOT)!r})
from devhost.end_with_parent import start

def test_it():
    process = start([sys.executable, "-c", {PROGRAM!r}])
    pathlib.Path("starter").write_text(str(os.getpid()))
    time.sleep(300)

if __name__ == "__main__":
    test_it()
"""
SECONDS = 60
pytestmark = pytest.mark.skipif(os.name == "nt", reason="kill -9 is what other systems have")


def wait_for(question):
    deadline = time.monotonic() + SECONDS
    while not (answer := question()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return answer


def numbers(file):
    return [int(number) for number in file.read_text().split()] if file.is_file() else []


def is_gone(number):
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return True
    # A child of a dead process stays in the table where nobody collects it.
    return subprocess.run(
        ["ps", "-o", "stat=", "-p", str(number)], capture_output=True, text=True
    ).stdout.startswith("Z")


@pytest.mark.parametrize("killed", ["script", "worker", "pytest"])
def test_a_program_is_gone_after_kill_9(tmp_path, killed):
    (tmp_path / "test_it.py").write_text(TEST)
    ways = {"script": ["test_it.py"], "worker": ["-m", "pytest", "-n1"], "pytest": ["-m", "pytest", "-n1"]}
    with subprocess.Popen(
        [sys.executable, *ways[killed]], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        program = wait_for(lambda: numbers(tmp_path / "numbers"))
        [starter] = wait_for(lambda: numbers(tmp_path / "starter"))
        assert (starter == process.pid) == (killed == "script")
        os.kill(process.pid if killed == "pytest" else starter, signal.SIGKILL)
        wait_for(lambda: all(map(is_gone, program)))
        process.kill()


def test_a_program_that_is_ended_is_gone_at_once(tmp_path):
    process = start([sys.executable, "-c", PROGRAM], cwd=tmp_path)
    program = wait_for(lambda: numbers(tmp_path / "numbers"))
    end(process)
    assert all(map(is_gone, program))


def test_the_exit_status_is_the_programs():
    process = start([sys.executable, "-c", "raise SystemExit(3)"])
    assert process.wait(SECONDS) == 3
