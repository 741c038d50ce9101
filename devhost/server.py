"""A real ComfyUI server: started on this machine, used over HTTP and stopped again.

    with running_server(environment, packs={"megapixel": ROOT}) as server:
        history = server.run(prompt)
        images = server.images(history)

The server has a separate base directory (models, custom nodes, output, user settings), so it neither sees nor
changes any other ComfyUI on the machine. It listens on 127.0.0.1 only, and every request goes there directly,
also if a proxy is set. Standard library only.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .end_with_parent import end, start
from .environment import ROOT, Environment, cache_folder, extra_package

Prompt = dict[str, dict[str, Any]]
History = dict[str, Any]
Workflow = Mapping[str, Any]

_LOCALHOST = "127.0.0.1"
_POLL_SECONDS = 0.25
_REQUEST_SECONDS = 60.0
_START_SECONDS = 600.0
_LOG_LINES = 20
_COLOUR_CODE = re.compile(r"\x1b\[[0-9;]*m")


class ServerFailure(Exception):
    """The server did not start, did not load a pack, or died;
    the message ends with the log lines about it.
    """


@dataclass(frozen=True)
class NodeFailure:
    """Why one node of a prompt was refused or stopped."""

    node_id: str
    node_type: str
    error_type: str
    message: str

    def __str__(self) -> str:
        place = f"{self.node_type} (node {self.node_id})" if self.node_id else "prompt"
        return f"{place}: {self.error_type}: {self.message}"


class PromptFailure(Exception):
    """The server refused a prompt or stopped in it; `failures` has at least one entry."""

    def __init__(self, failures: Iterable[NodeFailure]) -> None:
        self.failures = tuple(failures)
        super().__init__("; ".join(map(str, self.failures)))


@dataclass(frozen=True)
class Server:
    """A server that answers on `address`, with its files under `base`."""

    address: str
    base: Path
    process: subprocess.Popen[bytes]

    @property
    def log(self) -> Path:
        """The file that all output of the server goes to."""
        return self.base / "server.log"

    def object_info(self) -> dict[str, Any]:
        """Return the schemas of all nodes, by node type."""
        return self._request("/object_info")

    def run(self, prompt: Prompt, workflow: Workflow | None = None, timeout: float = 3600.0) -> History:
        """Queue a prompt and return its finished history. See `queue` and `result` for what is raised."""
        return self.result(self.queue(prompt, workflow), timeout)

    def queue(self, prompt: Prompt, workflow: Workflow | None = None) -> str:
        """Queue a prompt and return its id; `workflow` is the graph that is saved in its images in addition
        to the prompt.

        Raises:
            PromptFailure: when a node is invalid. Then no part of the prompt gives a result.
        """
        body: dict[str, Any] = {"prompt": {key: _with_meta(node) for key, node in prompt.items()}}
        if workflow is not None:
            body["extra_data"] = {"extra_pnginfo": {"workflow": workflow}}
        try:
            answer = self._request("/prompt", body)
        except urllib.error.HTTPError as error:
            raise PromptFailure(_refusals(error)) from None
        if node_errors := answer["node_errors"]:
            self._cancel(answer["prompt_id"])
            raise PromptFailure(_node_refusals(node_errors))
        return answer["prompt_id"]

    def result(
        self, prompt_id: str, timeout: float = 3600.0, on_progress: Callable[[float], None] | None = None
    ) -> History:
        """Wait for a queued prompt and return its history: `prompt`, `outputs` by node id, `status`.

        `on_progress` is called after every request to the server with the seconds waited so far.

        Raises:
            PromptFailure: when a node raises, or the prompt is interrupted or not finished after `timeout`
                seconds.
            ServerFailure: when the server dies.
        """
        started = time.monotonic()
        while (waited := time.monotonic() - started) < timeout:
            if (history := self._history(prompt_id)) is not None:
                if failures := _execution_failures(history):
                    raise PromptFailure(failures)
                return history
            if on_progress:
                on_progress(waited)
            time.sleep(_POLL_SECONDS)
        self._cancel(prompt_id)
        raise PromptFailure([NodeFailure("", "", "timeout", f"not finished after {timeout:.0f} s")])

    def wait(self) -> None:
        """Wait for the server to end.

        Raises:
            ServerFailure: when the server ends, always.
        """
        self.process.wait()
        _check_alive(self)

    def images(self, history: History, node_id: str | None = None) -> list[Path]:
        """Return the images that a prompt wrote, in order; only those of one node if it is given."""
        return self.files(history, "images", node_id)

    def files(self, history: History, kind: str, node_id: str | None = None) -> list[Path]:
        """Return the files of one kind ("images", "latents") that a prompt wrote, in order."""
        outputs = history["outputs"]
        chosen = outputs.values() if node_id is None else [outputs.get(node_id, {})]
        return [
            self.base / file["type"] / file["subfolder"] / file["filename"]
            for output in chosen
            for file in output.get(kind, ())
        ]

    def _history(self, prompt_id: str) -> History | None:
        try:
            return self._request(f"/history/{prompt_id}").get(prompt_id)
        except OSError:
            # A server that computes on all cores may answer late; only a dead one is an error.
            _check_alive(self)
            return None

    def _cancel(self, prompt_id: str) -> None:
        with contextlib.suppress(OSError):
            self._request("/queue", {"delete": [prompt_id]})
            self._request("/interrupt", {"prompt_id": prompt_id})

    def _request(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"})
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(request, timeout=_REQUEST_SECONDS) as response:
            content = response.read()
        return json.loads(content) if content else None


def current_environment() -> Environment:
    """Return the environment that `dev.py` started this process in.

    Raises:
        ServerFailure: when this process was not started by it.
    """
    comfyui = os.environ.get("COMFYUI_PATH")
    if not comfyui:
        raise ServerFailure("COMFYUI_PATH: expected the folder of a ComfyUI, got nothing. Use dev.py.")
    return Environment(Path(sys.executable), Path(comfyui), "")


def default_base() -> Path:
    """Return the base directory of this checkout in the cache; each checkout has its own."""
    return cache_folder() / f"base-{hashlib.sha256(str(ROOT).encode()).hexdigest()[:12]}"


@contextlib.contextmanager
def running_server(
    environment: Environment, packs: Mapping[str, Path], cpu: bool = True, base: Path | None = None
) -> Iterator[Server]:
    """Start a server with exactly these custom node packs. Its processes end with the block, and soon after
    this process if that ends in another way.

    `packs` maps the folder name that the server sees to the pack's own folder. Without `base` the server uses
    `default_base()`, where models and settings stay between runs.

    Raises:
        ServerFailure: when the server does not start, or a pack has no node.
    """
    base = (base or default_base()).resolve()
    for folder in ("custom_nodes", "models/checkpoints", "input", "output", "temp", "user"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    for name, pack in packs.items():
        _link_folder(pack.resolve(), base / "custom_nodes" / name)
    port = _free_port()
    with (base / "server.log").open("wb") as log:
        process = start(
            _command(environment, base, port, packs, cpu),
            cwd=base,
            env={**environment.variables(), "HF_HUB_OFFLINE": "1"},
            output=log,
        )
        try:
            server = Server(f"http://{_LOCALHOST}:{port}", base, process)
            _wait_until_ready(server)
            _check_packs(server, packs)
            yield server
        finally:
            end(process)


def _command(environment: Environment, base: Path, port: int, packs: Iterable[str], cpu: bool) -> list[str]:
    return [
        str(environment.python), str(environment.comfyui / "main.py"),
        "--listen", _LOCALHOST, "--port", str(port),
        "--base-directory", str(base), "--user-directory", str(base / "user"),
        "--database-url", f"sqlite:///{(base / 'user' / 'comfyui.db').as_posix()}",
        "--disable-auto-launch", "--disable-api-nodes", "--use-pytorch-cross-attention",
        *(["--cpu"] if cpu else []), *_other_front_end(),
        "--disable-all-custom-nodes", "--whitelist-custom-nodes", *packs,
    ]  # fmt: skip


def _other_front_end() -> list[str]:
    """Return the options for the version of the front end that MEGAPIXEL_FRONT_END names; without it none,
    for ComfyUI's own.
    """
    version = os.environ.get("MEGAPIXEL_FRONT_END")
    if not version:
        return []
    package = extra_package(f"comfyui-frontend-package=={version}")
    return ["--front-end-root", str(package / "comfyui_frontend_package" / "static")]


def _wait_until_ready(server: Server) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        _check_alive(server)
        with contextlib.suppress(OSError):
            server._request("/object_info/KSampler")
            return
        time.sleep(_POLL_SECONDS)
    raise ServerFailure(f"ComfyUI did not answer within {_START_SECONDS:.0f} s:\n{_log_end(server)}")


def _check_alive(server: Server) -> None:
    if (code := server.process.poll()) is not None:
        raise ServerFailure(f"ComfyUI ended with exit status {code}:\n{_log_end(server)}")


def _check_packs(server: Server, packs: Iterable[str]) -> None:
    loaded = {node["python_module"] for node in server.object_info().values()}
    if missing := [name for name in packs if f"custom_nodes.{name}" not in loaded]:
        raise ServerFailure(f"ComfyUI loaded no node of {', '.join(missing)}:\n{_first_traceback(server)}")


def _log_end(server: Server) -> str:
    return "\n".join([*_log_lines(server)[-_LOG_LINES:], f"(whole log: {server.log})"])


def _first_traceback(server: Server) -> str:
    lines = _log_lines(server)
    start = next((number for number, line in enumerate(lines) if "Traceback" in line), len(lines))
    return "\n".join([*lines[start : start + _LOG_LINES], f"(whole log: {server.log})"])


def _log_lines(server: Server) -> list[str]:
    text = _COLOUR_CODE.sub("", server.log.read_bytes().decode("utf-8", errors="replace"))
    # A progress bar is one line that returns to its beginning again and again.
    return [line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n") if line.strip()]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_LOCALHOST, 0))
        return probe.getsockname()[1]


def _link_folder(folder: Path, link: Path) -> None:
    """Make `folder` appear at `link`, as a link or else a copy, in place of what an earlier call made."""
    if os.path.lexists(link):
        try:
            link.unlink()
        except OSError:
            shutil.rmtree(link)  # an earlier copy; a link never comes here, and rmtree would refuse it
    try:
        if os.name == "nt":
            # A junction, unlike a symbolic link, asks for no special right.
            make = ["cmd", "/c", "mklink", "/J", str(link), str(folder)]
            subprocess.run(make, check=True, capture_output=True)
        else:
            link.symlink_to(folder, target_is_directory=True)
    except (OSError, subprocess.CalledProcessError):
        shutil.copytree(folder, link, ignore=shutil.ignore_patterns(".git", "output"))


def _with_meta(node: Mapping[str, Any]) -> dict[str, Any]:
    # The host looks for a title in every node it may have to replace, and fails on a node without one.
    return {"_meta": {"title": node["class_type"]}, **node}


def _refusals(error: urllib.error.HTTPError) -> list[NodeFailure]:
    try:
        answer = json.load(error)
    except ValueError:
        return [NodeFailure("", "", f"HTTP {error.code}", "the server gave no reason; see its log")]
    whole = answer["error"]
    if node_errors := answer.get("node_errors"):
        return _node_refusals(node_errors)
    place = whole.get("extra_info") or {}
    node_id, node_type = str(place.get("node_id", "")), place.get("class_type", "")
    return [NodeFailure(node_id, node_type, whole["type"], whole["message"])]


def _node_refusals(node_errors: Mapping[str, Any]) -> list[NodeFailure]:
    return [
        NodeFailure(node_id, node["class_type"], error["type"], f"{error['message']}: {error['details']}")
        for node_id, node in node_errors.items()
        for error in node["errors"]
    ]


def _execution_failures(history: History) -> list[NodeFailure]:
    messages = dict(history["status"]["messages"])
    if error := messages.get("execution_error"):
        message = error["exception_message"].strip()
        return [NodeFailure(str(error["node_id"]), error["node_type"], error["exception_type"], message)]
    if stop := messages.get("execution_interrupted"):
        return [NodeFailure(str(stop["node_id"]), stop["node_type"], "interrupted", "stopped by a person")]
    return []
