"""The help pages in the real front end in each language of the pack: no line is cut off,
nothing covers another text.
"""

from __future__ import annotations

import pytest
from megapixel.nodes import NODES

from devhost.environment import ROOT
from devhost.locales import LANGUAGES

from .conftest import SCREENSHOTS


@pytest.mark.slow
@pytest.mark.parametrize("language", ["en", *LANGUAGES])
def test_no_line_is_cut_off_and_nothing_overlaps(front_end, language):
    found = {}
    with front_end.in_language(language):
        # The pages are English in each language; what the panel writes around them is not.
        for node in NODES if language == "en" else NODES[::6]:
            page = (ROOT / "web" / "docs" / f"{node.__name__}.md").read_text(encoding="utf-8")
            front_end.open_help(node.__name__)
            front_end.help_headings(page.splitlines()[0].removeprefix("# "))
            front_end.wait_for_help_pictures()
            found[node.__name__] = front_end.cut_help()
            front_end.photograph(SCREENSHOTS / "help" / language / f"{node.__name__}.png")
    assert {name: cut for name, cut in found.items() if cut} == {}
