"""Records of long runs: one line each in a file that is only appended to, so that an interrupted run can be
resumed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path


def digest(*files: Path) -> str:
    """Return a digest of twelve digits of the contents of files."""
    contents = hashlib.sha256()
    for file in files:
        contents.update(file.read_bytes())
    return contents.hexdigest()[:12]


class RecordLines:
    """The lines of a file. Only one process may write at a time. A record that an interruption cut off stays
    as an incomplete line.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        file.parent.mkdir(parents=True, exist_ok=True)

    def __iter__(self) -> Iterator[str]:
        if self.file.exists():
            yield from self.file.read_text(encoding="utf-8").splitlines()

    def append(self, line: str) -> None:
        """Write a line and end it."""
        with self.file.open("a+b") as file:
            if file.tell() and not self._ends_whole():
                file.write(b"\n")
            file.write(f"{line}\n".encode())

    def _ends_whole(self) -> bool:
        with self.file.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"
