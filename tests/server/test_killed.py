"""A server whose test run was killed is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from devhost.environment import ROOT

PROGRAM = """
import pathlib, sys, time
from devhost.environment import ROOT
from devhost.server import current_environment, running_server

with running_server(current_environment(), {"megapixel": ROOT}, base=pathlib.Path(sys.argv[1])) as server:
    print(server.address, flush=True)
    time.sleep(600)
"""


def answers(address):
    try:
        with urllib.request.urlopen(f"{address}/queue", timeout=30):
            return True
    except (urllib.error.URLError, ConnectionError):
        return False


@pytest.mark.skipif(os.name == "nt", reason="kill -9 is what other systems have")
def test_no_server_is_left_behind_after_kill_9(tmp_path):
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "base")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        address = process.stdout.readline().strip()
        assert answers(address)
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 60
    while answers(address):
        assert time.monotonic() < deadline
        time.sleep(0.2)
