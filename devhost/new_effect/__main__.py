"""Create the files of a small working effect: `python3 dev.py new-effect soft_focus`.

The method is simple and real, so that everything runs from the start: a pure function, a patch, a node, their
tests, a help page, and the lines about it elsewhere. Replace the method and the texts step by step; the tests
show whether it still works.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from string import Template

from ..environment import ROOT

TEMPLATES = Path(__file__).with_name("templates")
NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
FILES = {  # template -> file
    "scaling": "scaling/$name.py",
    "patches": "patches/$name.py",
    "nodes": "nodes/$name.py",
    "help": "web/docs/$node.md",
    "test_scaling": "tests/scaling/test_$name.py",
    "test_patches": "tests/patches/test_$name.py",
    "test_nodes": "tests/nodes/test_$name.py",
}
NEXT = """
Next:
  python3 dev.py test tests/scaling/test_$name.py tests/patches/test_$name.py tests/nodes/test_$name.py -n0
  git add --all
Then replace the method in scaling/$name.py, what its plan does in patches/$name.py, and all texts.
After a change of the node's inputs: python3 dev.py schemas
After a change of imports: python3 dev.py house --write
Before you finish: python3 dev.py test --quick, python3 dev.py lint"""


def words_of(name: str) -> dict[str, str]:
    """Return the values for the placeholders of the templates."""
    parts = [part.capitalize() for part in name.split("_")]
    camel = "".join(parts)
    return {"name": name, "camel": camel, "node": f"Megapixel{camel}", "title": " ".join(parts)}


def files_of(words: dict[str, str]) -> dict[Path, str]:
    """Return the new files with their texts."""
    return {
        ROOT / Template(file).substitute(words): _read(TEMPLATES / f"{template}.txt", words)
        for template, file in FILES.items()
    }


def with_node(text: str, words: dict[str, str]) -> str:
    """Return the text of `nodes/__init__.py` with one more node at the end of the list, and its import at the
    top.
    """
    new = "from .{name} import {node}\n".format(**words)
    imported = text.replace("\nfrom .", f"\n{new}from .", 1)
    return re.sub(
        r"(^NODES = \[\n.*?)^\]", rf"\1    {words['node']},\n]", imported, flags=re.MULTILINE | re.DOTALL
    )


def with_row(text: str, words: dict[str, str]) -> str:
    """Return the README with one more row after the last of the table of nodes."""
    row = "| make the features of the UNet softer | [{title}](web/docs/{node}.md) | |".format(**words)
    return _after_last(text, lambda line: line.startswith("| ") and "](web/docs/Megapixel" in line, [row])


def with_entry(text: str, words: dict[str, str]) -> str:
    """Return the changelog with one more entry, the last of the newest version."""
    start = text.index("\n## ")
    end = text.find("\n## ", start + 1)
    newest, older = (text[:end], text[end:]) if end > 0 else (text, "")
    entry = "- **{title} (Megapixel)**: softer features. Images at a fixed seed do not change.".format(
        **words
    )
    return newest.rstrip("\n") + f"\n{entry}\n" + older


EDITS: dict[str, Callable[[str, dict[str, str]], str]] = {
    "nodes/__init__.py": with_node,
    "README.md": with_row,
    "CHANGELOG.md": with_entry,
}


def _after_last(text: str, is_it: Callable[[str], bool], more: Iterable[str]) -> str:
    lines = text.split("\n")
    last = max(number for number, line in enumerate(lines) if is_it(line))
    return "\n".join([*lines[: last + 1], *more, *lines[last + 1 :]])


def _read(template: Path, words: dict[str, str]) -> str:
    return Template(template.read_text(encoding="utf-8")).substitute(words)


def _write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8", newline="\n")
    print(file.relative_to(ROOT).as_posix())


def main() -> int:
    """Write the files, and bring the snapshot of schemas and the list of imports up to date."""
    parser = argparse.ArgumentParser(prog="dev.py new-effect", description="Make the files of a new effect.")
    parser.add_argument("name", help="such as soft_focus")
    name = parser.parse_args().name
    if not NAME.fullmatch(name):
        parser.error(f"name: expected lower-case words joined with _, got '{name}'. Such as soft_focus.")
    words = words_of(name)
    files = files_of(words)
    if there := [str(file.relative_to(ROOT)) for file in files if file.exists()]:
        parser.error(
            f"name: expected a new one, got '{name}': {', '.join(there)} exists. Choose another name."
        )
    for file, text in files.items():
        _write(file, text)
    for place, edit in EDITS.items():
        file = ROOT / place
        _write(file, edit(file.read_text(encoding="utf-8"), words))
    python = [str(file) for file in [*files, ROOT / "nodes" / "__init__.py"] if file.suffix == ".py"]
    for command in (
        ["ruff", "check", "--quiet", "--select=I", "--fix", *python],  # the order of imports
        ["ruff", "format", "--quiet", *python],  # the longer lines of a longer name
        ["devhost.schemas"],
        ["devhost.house", "--write"],
    ):
        subprocess.run([sys.executable, "-m", *command], cwd=ROOT, check=True)
    print(Template(NEXT).substitute(words))
    return 0


if __name__ == "__main__":
    sys.exit(main())
