"""The help pages in the real front end in each language of the pack: each is our page with its pictures,
no line is cut off, nothing covers another text.
"""

from __future__ import annotations

import re

import pytest
from megapixel.nodes import NODES

from devhost.browser import open_front_end
from devhost.environment import ROOT
from devhost.locales import LANGUAGES

from .conftest import SCREENSHOTS


@pytest.mark.slow
@pytest.mark.parametrize("language", ["en", *LANGUAGES])
def test_the_help_is_our_page_and_no_line_is_cut_off_and_nothing_overlaps(browser, server, language):
    found = {}
    with open_front_end(browser, server.address, language) as front_end:
        # The pages are English in each language; what the panel writes around them is not.
        for node in NODES if language == "en" else NODES[::6]:
            page = (ROOT / "web" / "docs" / f"{node.__name__}.md").read_text(encoding="utf-8")
            headings = [text.replace("`", "") for text in re.findall(r"^#{1,3} (.+)$", page, re.MULTILINE)]
            front_end.open_help(node.__name__)
            assert front_end.help_headings(headings[0]) == headings
            front_end.wait_for_help_pictures()
            found[node.__name__] = front_end.cut_help()
            front_end.photograph(SCREENSHOTS / "help" / language / f"{node.__name__}.png")
    assert {name: cut for name, cut in found.items() if cut} == {}
