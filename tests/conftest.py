"""The real ComfyUI in the test process, and tiny real models to run on it."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import bench  # noqa: F401 - so that tests of benchmarks find it
from devhost.host import import_host

import_host()  # takes the pack's folder off sys.path again

import torch

from devhost.tiny import random_models, topology
from devhost.tiny.faces import save_antelopev2

NOT_QUICK = {"browser", "devhost", "effect", "server", "whole_objects"}  # folders
# No effect is there: quick only where they change.
OTHER_ROOMS = {"bench", "faces", "host", "segs", "upscale", "video"}
OTHER_NODES = ("test_face", "test_segs", "test_upscale")  # files of tests/nodes
MODELS = {"sd15", "sdxl", "short_sd15", "light_model", "request"}  # fixtures; `request` names one of them
BRANCHES = ("main", "origin/main", "HEAD")  # a change is what differs from the first of these that exists


def pytest_addoption(parser):
    parser.addoption(
        "--quick",
        action="store_true",
        help="what a change to one effect needs: all fast tests of the effects' folders and of those that change, one of "
        "each file that samples a model, and, with their first cases, those of the files that are named as a changed one",
    )


def folders_of(item):
    return set(item.nodeid.split("::")[0].split("/"))


def pytest_ignore_collect(collection_path, config):
    if not config.getoption("quick"):
        return None
    name = collection_path.name
    if name in OTHER_ROOMS:
        return name not in {part for file in changed_files() for part in Path(file).parts} or None
    if name.startswith(OTHER_NODES):
        return not name.removeprefix("test_").startswith(changed_names()) or None
    return name in NOT_QUICK or None


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the marks in its own
def pytest_collection_modifyitems(config, items):
    """Tests that share a server run in one process: mark them by their folder."""
    for item in items:
        for folder in {"server", "browser"} & folders_of(item):
            item.add_marker(getattr(pytest.mark, folder))
            item.add_marker(pytest.mark.xdist_group(folder))
    if config.getoption("quick"):
        quick = list(quick_ones(items))
        kept = set(quick)
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = quick


def quick_ones(items):
    """Yield the tests that `--quick` runs."""
    changed, begun = changed_names(), set()
    for item in items:
        if item.get_closest_marker("slow") or "compiled" in item.fixturenames:
            continue
        if MODELS & set(item.fixturenames):
            name = item.path.stem.removeprefix("test_")
            part = item.nodeid.split("[")[0] if name.startswith(changed) else item.path
            if part in begun:
                continue
            begun.add(part)
        yield item


@cache
def changed_files():
    """Return the files that this branch and the working tree change."""

    def git(*arguments):
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
        return done.stdout.split() if done.returncode == 0 else []

    base = next((found[0] for branch in BRANCHES if (found := git("merge-base", branch, "HEAD"))), None)
    if not base:
        return []
    return [*git("diff", "--name-only", base), *git("ls-files", "--others", "--exclude-standard")]


def changed_names():
    """Return the names of the changed Python files, without their ends."""
    names = {Path(file).stem.removeprefix("test_") for file in changed_files() if file.endswith(".py")}
    return tuple(names - {"__init__"})


@pytest.fixture(scope="session")
def sd15():
    return random_models.sd15()


@pytest.fixture(scope="session")
def sdxl():
    return random_models.sdxl(**topology.SHALLOW)


@pytest.fixture(scope="session")
def short_sd15():
    return random_models.sd15(**topology.SHORT)


@pytest.fixture(scope="session")
def antelopev2(tmp_path_factory):
    """A folder with the two networks that find and tell apart drawn faces,
    under the names of the real ones.
    """
    return save_antelopev2(tmp_path_factory.mktemp("insightface") / "models" / "antelopev2")


@pytest.fixture(scope="session")
def face_analysis(antelopev2):
    """The real insightface on them, as ComfyUI_InstantID's loader makes it. No test may change it."""
    from insightface.app import FaceAnalysis

    root = antelopev2.parent.parent
    analysis = FaceAnalysis(name="antelopev2", root=str(root), providers=["CPUExecutionProvider"])
    analysis.prepare(ctx_id=0, det_size=(640, 640))
    return analysis


@pytest.fixture(scope="session")
def draw():
    """A function (*shape, seed=0) that draws from its own generator."""
    return lambda *shape, seed=0: torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="session")
def random_boxes():
    """A function (random, size, count, most) that draws boxes (x1, y1, x2, y2) inside a size,
    some at its borders.
    """

    def draw(random, size, count, most=40):
        boxes = []
        for _ in range(count):
            spans = []
            for length in (size[1], size[0]):
                side = random.randint(1, min(most, length))
                low = random.choice([0, length - side, *(random.randint(0, length - side) for _ in range(4))])
                spans.append((low, low + side))
            boxes.append((spans[0][0], spans[1][0], spans[0][1], spans[1][1]))
        return boxes

    return draw


@pytest.fixture(autouse=True)
def global_random_state_untouched():
    """No test may leave the global generator changed: nothing of ours reads or writes it."""
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before), "the global random state was changed"


class SizeRecorder:
    """The feature sizes that enter an input block, by noise level, seen through the host's own hook."""

    def __init__(self, model, block):
        self.calls = []
        self.block = block
        model.set_model_input_block_patch(self.record)

    def record(self, features, options):
        if options["block"] == ("input", self.block):
            self.calls.append((options["sigmas"][0].item(), tuple(features.shape[-2:])))
        return features

    @property
    def sizes(self):
        return [size for _, size in self.calls]


@pytest.fixture(scope="session")
def record_sizes():
    """A function (model, block) that starts a recorder on a clone's input block."""
    return SizeRecorder
