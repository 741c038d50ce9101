"""What the registry hands out: the tracked files that `.comfyignore` leaves in,
through a server of their own.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.request

import pytest
from megapixel.nodes import NODES

from devhost.environment import ROOT
from devhost.server import current_environment, running_server

KEPT = {
    "LICENSE", "README.md", "requirements.txt", "pyproject.toml", "__init__.py",
    "assets/upscale_models/megapixel-compact-4x.safetensors",
    *(f"web/docs/{node.__name__}.md" for node in NODES),
    *(f"example_workflows/{file.name}" for file in (ROOT / "example_workflows").iterdir()),
}  # fmt: skip
LEFT_OUT = (".ci", ".git", "assets/tiny", "bench", "dev.py", "devhost", "output", "tests")
MOST_BYTES = 4_000_000


def git_files(*options):
    done = subprocess.run(
        ["git", "ls-files", "-z", *options], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return set(done.stdout.split("\0")) - {""}


@pytest.fixture(scope="module")
def archive():
    """The names of the files in the archive, as comfy-cli packs it."""
    return git_files() - git_files("--cached", "--ignored", "--exclude-from=.comfyignore")


def test_the_archive_holds_what_the_nodes_need_and_no_more(archive):
    assert archive >= KEPT
    assert not [name for name in archive if name.startswith(LEFT_OUT)]
    assert sum((ROOT / name).stat().st_size for name in archive) < MOST_BYTES


def test_a_server_runs_from_the_archive(archive, tmp_path):
    pack = tmp_path / "pack"
    for name in archive:
        (pack / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, pack / name)
    with running_server(current_environment(), {"megapixel": pack}, base=tmp_path / "base") as server:
        known = server.object_info()
        assert {node.__name__ for node in NODES} <= set(known)
        assert "megapixel-compact-4x.safetensors" in json.dumps(known["UpscaleModelLoader"])
        with urllib.request.urlopen(f"{server.address}/api/workflow_templates") as answer:
            offered = json.load(answer)["megapixel"]
        assert len(offered) == len(list((ROOT / "example_workflows").glob("*.json")))
