"""Start a program that ends when this process ends, also if this process is killed and cannot clean up.

    process = start([python, "main.py"], output=log)
    ...
    end(process)

This file runs as a small Python process between the two: it starts the program in a new session and ends it,
with all processes that the program started, as soon as the standard input of this file closes. The system
closes that pipe with the last process that holds its other end, on Linux, macOS and Windows. Standard library
only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

_PATIENCE_SECONDS = 10.0


def start(
    command: Sequence[str],
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    output: IO[bytes] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a program that ends with this process. `output` takes what it prints, errors included.

    The process that is returned has the program's exit status; 128 + n where signal n ended it.
    """
    return subprocess.Popen(
        [sys.executable, "-I", __file__, *command],
        cwd=cwd,
        env=env,
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=None if output is None else subprocess.STDOUT,
        start_new_session=os.name != "nt",  # Ctrl-C in a terminal is for this process, which then calls `end`
    )


def end(process: subprocess.Popen[bytes]) -> None:
    """End a program from `start`, and wait until it has ended."""
    assert process.stdin is not None
    process.stdin.close()
    process.wait()


def _end_all(child: subprocess.Popen[bytes]) -> None:
    """End a child and what it started: politely, then without asking."""
    if os.name == "nt":
        subprocess.run(["taskkill", "/T", "/F", "/PID", str(child.pid)], capture_output=True)
        return
    for ending in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, ending)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_PATIENCE_SECONDS)
            return


def _main() -> int:
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=os.name != "nt")

    def end_at_the_end_of_input() -> None:
        sys.stdin.read()
        _end_all(child)

    # In threads: where a signal interrupts `wait` below, its handler cannot wait for the same child.
    threading.Thread(target=end_at_the_end_of_input, daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=_end_all, args=(child,)).start())
    status = child.wait()
    if os.name != "nt":
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)  # what the program started and left
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    os._exit(_main())  # without waiting for the thread, which reads
