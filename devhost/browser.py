"""The front end of a running server in a real Chromium, driven by Playwright.

    with open_browser() as browser, open_front_end(browser, server.address) as front_end:
        front_end.drop(ROOT / "assets" / "upscale.png")
        front_end.press_run()

Chromium is the one of the system. Playwright is installed into a separate folder of the cache on first use.
"""

from __future__ import annotations

import base64
import contextlib
import importlib
import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .environment import extra_package
from .workflow import Graph

PLAYWRIGHT = "playwright==1.65.2"
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
VIEW = {"width": 1600, "height": 1000}

_HAS_NODES = "() => Boolean(window.app?.graph?.nodes.length)"
_DROP = """([name, type, content]) => {
    const bytes = Uint8Array.from(atob(content), (byte) => byte.charCodeAt(0))
    const dataTransfer = new DataTransfer()
    dataTransfer.items.add(new File([bytes], name, { type }))
    const drop = new DragEvent('drop', { dataTransfer, bubbles: true, cancelable: true })
    document.querySelector('#graph-canvas').dispatchEvent(drop)
}"""
_UNKNOWN_NODES = """() => app.graph.nodes.map((node) => node.type)
    .filter((type) => !(type in LiteGraph.registered_node_types))"""
_RED_LINKS = """() => [...app.graph.links.values()].filter((link) => {
    const output = app.graph.getNodeById(link.origin_id)?.outputs[link.origin_slot]
    const input = app.graph.getNodeById(link.target_id)?.inputs[link.target_slot]
    return !output || !input || !LiteGraph.isValidConnection(output.type, input.type)
}).map((link) => link.id)"""
_VIDEO = """() => {
  const isResult = (video) => video.readyState >= 2 && video.currentSrc.includes('type=output')
  const video = [...document.querySelectorAll('video')].find(isResult)
  return video ? [video.videoHeight, video.videoWidth] : null
}"""
_PICTURES = """() => app.graph.nodes.filter((node) => node.type === 'SaveImage')
    .flatMap((node) => node.imgs ?? []).map((image) => [image.naturalHeight, image.naturalWidth])"""
_ADD_NODE = """(type) => {
    const node = LiteGraph.createNode(type)
    app.graph.add(node)
    app.canvas.centerOnNode(node)
    app.canvas.canvas.focus()
}"""
_TEXTS = """(type) => {
    const node = LiteGraph.createNode(type)
    app.graph.add(node)
    const labels = [...node.inputs, ...(node.widgets ?? [])].map((one) => [one.name, one.label ?? one.localized_name])
    const definition = LiteGraph.registered_node_types[type].nodeData
    return { title: node.title, description: definition.description, inputs: Object.fromEntries(labels) }
}"""
_WAIT_FOR_END = """() => {
    const ends = ['execution_success', 'execution_error', 'execution_interrupted']
    window.end = new Promise((resolve) =>
        ends.forEach((end) => app.api.addEventListener(end, () => resolve(end), { once: true })))
}"""
_HELP = ".node-help-content"
_CUT_HELP = """(selector) => {
    const page = document.querySelector(selector)
    const right = page.getBoundingClientRect().right
    const parts = [...page.querySelectorAll('h1, h2, h3, p, li, td, th, pre, img')].map((element) => {
        const box = element.getBoundingClientRect()
        return { element, box, name: `${element.tagName} ${element.innerText || element.src}`.slice(0, 80) }
    })
    const isCut = ({ element, box }) => element.scrollWidth > element.clientWidth + 1 || box.right > right + 1
    const covers = (one, other) =>
        !one.element.contains(other.element) && !other.element.contains(one.element) &&
        Math.min(one.box.right, other.box.right) - Math.max(one.box.left, other.box.left) > 1 &&
        Math.min(one.box.bottom, other.box.bottom) - Math.max(one.box.top, other.box.top) > 1
    return parts.filter((part) => isCut(part) || parts.some((other) => other !== part && covers(part, other)))
        .map((part) => part.name)
}"""


class BrowserFailure(Exception):
    """There is no browser; the message is shown in the terminal."""


@dataclass(frozen=True)
class FrontEnd:
    """A page with the graph; `page` is Playwright's."""

    page: Any

    def drop(self, file: Path) -> None:
        """Drag a file (.png or .json) into the page and wait for its graph."""
        self.clear()
        kind = {".png": "image/png", ".json": "application/json"}[file.suffix]
        self.page.evaluate(_DROP, [file.name, kind, base64.b64encode(file.read_bytes()).decode()])
        self.wait_for_graph()

    def wait_for_graph(self) -> None:
        """Wait until a graph with nodes is shown and nothing covers it."""
        self.page.wait_for_function(_HAS_NODES)
        self.page.locator(".p-blockui-mask").wait_for(state="detached")

    def graph(self) -> Graph:
        """Return the graph in the format in which the front end saves it."""
        return self.page.evaluate("() => app.graph.serialize()")

    def unknown_nodes(self) -> list[str]:
        """Return the types of nodes that the front end has no schema for."""
        return self.page.evaluate(_UNKNOWN_NODES)

    def red_links(self) -> list[int]:
        """Return the links that join sockets of different types, or lead nowhere."""
        return self.page.evaluate(_RED_LINKS)

    def open_search(self) -> None:
        """Open the search box by a double click beside all nodes."""
        self.clear()
        # As slow as a person: at once, the box may take the second click for one beside it, and close.
        self.page.mouse.dblclick(VIEW["width"] // 2, VIEW["height"] * 4 // 5, delay=40)

    def find(self, text: str, name: str) -> None:
        """Type a text into the search box, and wait until a node of that name is among the results."""
        box = self.page.get_by_placeholder("Add a node")
        results = self.page.get_by_test_id("result-item")
        box.fill("no such node at all")
        results.first.wait_for(state="detached")  # what follows is of this text, not of the one before
        box.fill(text)
        results.get_by_text(name, exact=True).wait_for()

    def press_run(self) -> None:
        """Press the Run button."""
        self.page.get_by_test_id("queue-button").click()

    def run(self) -> str:
        """Press the Run button and wait for the end of the prompt;
        return the type of the message that ended it.
        """
        self.page.evaluate(_WAIT_FOR_END)
        self.press_run()
        return self.page.evaluate("() => window.end")

    def wait_for_picture(self) -> tuple[int, int]:
        """Wait until a node that saves images shows one, and return its (height, width)."""
        self.page.wait_for_function(f"() => ({_PICTURES})().length > 0")
        [size] = self.page.evaluate(_PICTURES)
        return tuple(size)

    def wait_for_video(self) -> tuple[int, int]:
        """Wait until a node shows a video of the output folder whose first frame is there,
        and return its (height, width).
        """
        self.page.wait_for_function(f"() => ({_VIDEO})() !== null")
        return tuple(self.page.evaluate(_VIDEO))

    def wait_for_error(self, node: str, sentence: str) -> None:
        """Wait until the front end's panel shows this message under the title of the node."""
        self.page.get_by_test_id("error-overlay-see-errors").click()
        told = self.page.get_by_test_id("error-group-execution")
        told.filter(has_text=node).filter(has_text=sentence).wait_for()

    def replace_nodes(self) -> None:
        """Press Replace All, which the front end offers if a graph has nodes that can be replaced."""
        self.page.get_by_test_id("error-overlay-see-errors").click()
        self.page.get_by_role("button", name="Replace All").first.click()
        self.page.wait_for_function(f"() => ({_UNKNOWN_NODES})().length === 0")

    def open_help(self, node_type: str) -> None:
        """Put a new node into an empty graph, select it, and open its help from its toolbox."""
        self.clear()
        self.page.evaluate(_ADD_NODE, node_type)
        self.page.keyboard.press("Control+a")
        self.page.get_by_test_id("info-button").click()

    def help_headings(self, first: str) -> list[str]:
        """Return the headings of the help page that is open, once it is the page under `first`."""
        self.page.locator(_HELP).get_by_role("heading", name=first, exact=True).first.wait_for()
        return self.page.locator(f"{_HELP} :is(h1, h2, h3)").all_inner_texts()

    def wait_for_help_pictures(self) -> None:
        """Wait until all images of the help page are loaded."""
        loaded = f"[...document.querySelectorAll('{_HELP} img')].every((image) => image.naturalWidth > 0)"
        self.page.wait_for_function(f"() => {loaded}")

    def clear(self) -> None:
        """Close dialogs above the graph and open an empty one."""
        self.page.keyboard.press("Escape")
        self.page.evaluate("() => app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")

    def texts_of(self, node_type: str) -> dict[str, Any]:
        """Return the texts that the page shows for a node: its `title`, its `description`,
        and the `inputs` by their names.
        """
        return self.page.evaluate(_TEXTS, node_type)

    def cut_help(self) -> list[str]:
        """Return the beginnings of the parts of the open help page that are wider than
        their place or cover another part.
        """
        return self.page.evaluate(_CUT_HELP, _HELP)

    def photograph(self, file: Path) -> None:
        """Save a screenshot."""
        file.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=file)


@contextlib.contextmanager
def open_browser() -> Iterator[Any]:
    """Start a Chromium without a window; it ends with the block.

    Raises:
        BrowserFailure: when this machine has no browser.
    """
    program = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if program is None:
        raise BrowserFailure("chromium: expected it on the PATH, got none. Run apt-get install chromium.")
    if (folder := str(extra_package(PLAYWRIGHT))) not in sys.path:
        sys.path.append(folder)  # at the end: what the environment has comes first
    playwright = importlib.import_module("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program)
        yield browser
        browser.close()


@contextlib.contextmanager
def open_front_end(
    browser: Any, address: str, language: str = "en", words: Mapping[str, Any] | None = None
) -> Iterator[FrontEnd]:
    """Open the front end at `address` with an empty profile, in a language in which our nodes have only the
    texts `words` (the content of a `nodeDefs.json`), if there are any. The server goes back to English after
    the block.
    """
    setting = f"{address}/api/settings/Comfy.Locale"
    with browser.new_page(viewport=VIEW) as page:
        if words is not None:
            page.route("**/i18n", lambda route: route.fulfill(json={language: {"nodeDefs": words}}))
        page.request.post(setting, data=json.dumps(language))
        try:
            page.goto(address)
            front_end = FrontEnd(page)
            front_end.wait_for_graph()  # the one that ComfyUI shows at first
            yield front_end
        finally:
            page.request.post(setting, data=json.dumps("en"))
