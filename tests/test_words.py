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
NAMES = {"Reach", "Need", "Form", "reach", "need", "choose_form"}  # of anything in the code
MODULES = {"form.py"}
EARLIER_IDS = ["remove_mottle"]  # saved graphs and prompts may still name it
ENDINGS = (".py", ".md", ".js", ".toml")


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


def test_docstrings_say_when_an_error_is_raised():
    entries = (
        (name, entry)
        for name, text in texts()
        for section in re.findall(r"Raises:\n((?:\s+\S.*\n)+)", text)
        for entry in re.findall(r"^\s+([A-Z]\w+(?:, [A-Z]\w+)*: .*)$", section, re.MULTILINE)
    )
    assert [place for place in entries if not re.search(r": (when|if) ", place[1])] == []


def names_in(text):
    """Yield every name that a program defines or uses as an attribute."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.alias):
            yield node.name.split(".")[-1]
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Name):
            yield node.id


def test_nothing_in_the_code_is_named_so():
    programs = [(name, text) for name, text in texts() if name.endswith(".py")]
    assert [name for name, text in programs if not NAMES.isdisjoint(names_in(text))] == []
    assert [name for name, _ in programs if name.rpartition("/")[2] in MODULES] == []
