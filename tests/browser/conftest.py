"""One real server for all tests of this folder, and a browser and a page for each of its files."""

from __future__ import annotations

import pytest
from PIL import Image

from devhost.browser import BrowserFailure, open_browser, open_front_end
from devhost.demo import PACK, TINY_PACK
from devhost.environment import ROOT
from devhost.server import current_environment, running_server
from devhost.video_demo import write_example_video

SCREENSHOTS = ROOT / "output" / "browser"


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    base = tmp_path_factory.mktemp("base")
    settings = base / "user" / "default" / "comfy.settings.json"
    settings.parent.mkdir(parents=True)
    settings.write_text('{"Comfy.TutorialCompleted": true}')  # or templates cover the page of a new person
    with running_server(current_environment(), {**PACK, **TINY_PACK}, base=base) as running:
        # The picture that every new ComfyUI has in its input folder, smaller.
        Image.linear_gradient("L").resize((48, 32)).convert("RGB").save(
            running.base / "input" / "example.png"
        )
        write_example_video(running.base / "input" / "example.mp4")
        yield running


# Not for the whole session: while Playwright is there, no other test of the process could run an event loop.
@pytest.fixture(scope="module")
def browser():
    try:
        with open_browser() as opened:
            yield opened
    except BrowserFailure as failure:
        pytest.skip(str(failure))


@pytest.fixture(scope="module")
def page(browser, server):
    """The front end in a page that the tests of a file share: to load it takes longer than most of them."""
    with open_front_end(browser, server.address) as opened:
        yield opened


@pytest.fixture
def front_end(page, request):
    """The shared page with an empty graph; how it looks in the end is saved in output/browser."""
    page.clear()
    yield page
    page.photograph(SCREENSHOTS / f"{request.node.name}.png")


@pytest.fixture
def fresh_front_end(browser, server, request):
    """The front end in a page of its own, for tests of its panels and results, which stay open."""
    with open_front_end(browser, server.address) as opened:
        yield opened
        opened.photograph(SCREENSHOTS / f"{request.node.name}.png")
