"""Private words that the project has given up: none comes back, in texts or in code."""

from __future__ import annotations

import ast
import re
import subprocess

import pytest

from devhost.environment import ROOT

WORDS = [
    "mottle", "crowds", "filling picture", "careful", "known node", "known pack", "known preset", "stands in for",
    "one sentence", "behind block", "goes four times as far",
]  # fmt: skip
NAMES = ["Reach", "Need", "Form"]  # of classes
EARLIER_IDS = ["remove_mottle"]  # saved graphs and prompts may still name it
ENDINGS = (".py", ".md", ".js", ".toml")
NAMES_IN_CODE = {"reach", "need", "choose_form"}  # of functions, parameters, attributes, variables
MODULES = {"form.py"}


def texts():
    """Yield (name, text) of every text and program that is tracked, but not of this one."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in listed.stdout.split("\n"):
        if name.endswith(ENDINGS) and not name.endswith("test_words.py") and (ROOT / name).is_file():
            yield name, (ROOT / name).read_text(encoding="utf-8")


def lines():
    """Yield (place, line) of all of them."""
    for name, text in texts():
        for number, line in enumerate(text.split("\n"), start=1):
            yield f"{name}:{number}", re.sub("|".join(EARLIER_IDS), "", line)


@pytest.mark.parametrize("word", WORDS)
def test_no_text_uses_it(word):
    used = re.compile(rf"\b{word}", re.IGNORECASE)
    assert [place for place, line in lines() if used.search(line)] == []


def test_nothing_in_the_code_is_named_so():
    programs = [(name, text) for name, text in texts() if name.endswith(".py")]
    used = {
        name
        for name, text in programs
        for node in ast.walk(ast.parse(text))
        for field in ("id", "attr", "arg", "name")
        if getattr(node, field, None) in NAMES_IN_CODE
    }
    assert used == set()
    assert [name for name, _ in programs if name.rpartition("/")[2] in MODULES] == []


def test_docstrings_say_when_an_error_is_raised():
    entries = (
        (name, entry)
        for name, text in texts()
        for section in re.findall(r"Raises:\n((?:\s+\S.*\n)+)", text)
        for entry in re.findall(r"^\s+([A-Z]\w+(?:, [A-Z]\w+)*: .*)$", section, re.MULTILINE)
    )
    assert [place for place in entries if not re.search(r": (when|if) ", place[1])] == []


@pytest.mark.parametrize("name", NAMES)
def test_no_class_is_named_so(name):
    used = re.compile(rf"\b{name}\b(?=[(.\]:,)]| =)|class {name}\b|import .*\b{name}\b")
    found = [place for place, line in lines() if place.split(":")[0].endswith(".py") and used.search(line)]
    assert found == []
