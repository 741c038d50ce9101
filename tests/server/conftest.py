"""One real server for all tests of this folder, which therefore run in one process."""

from __future__ import annotations

import pytest

from devhost.environment import ROOT
from devhost.server import current_environment, running_server


def pytest_collection_modifyitems(items):
    for item in items:
        if "server" in item.nodeid.split("::")[0].split("/"):
            item.add_marker(pytest.mark.server)
            item.add_marker(pytest.mark.xdist_group("server"))


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    packs = {"megapixel": ROOT, "megapixel-tiny": ROOT / "devhost" / "tiny"}
    with running_server(current_environment(), packs, base=tmp_path_factory.mktemp("base")) as running:
        yield running
