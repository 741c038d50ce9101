"""Which part of the pack imports which, read from the code and from CONTRIBUTING.md.

An arrow `a -> b` means that a file of `a` imports one of `b`. CONTRIBUTING.md lists all arrows between the
folders, and those from file to file inside `nodes/` and inside `host/`, each in a fenced block of its own:

    ```arrows folders
    patches -> host, attention, scaling
    ```

`python3 dev.py house` prints the blocks that follow from the code; with `--write` it writes them into
CONTRIBUTING.md. Standard library only.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from .environment import ROOT

PURE = ("segs", "faces", "video", "upscale", "attention", "scaling")
FOLDERS = ("nodes", "patches", "host", *PURE)
ROOMS = ("__init__", *FOLDERS, "errors", "record")  # from top to bottom; three of them are single files
FOLDERS_INSIDE = ("nodes", "host")
BLOCKS = ("folders", *FOLDERS_INSIDE)
PAPER = "CONTRIBUTING.md"

Arrow = tuple[str, str]
Arrows = Mapping[Arrow, list[str]]  # -> the imports that make it, as "file:line"


@dataclass(frozen=True)
class Import:
    """One import statement of one module: `level` counts the dots before `module`."""

    file: Path
    line: int
    level: int
    module: str
    names: tuple[str, ...] = ()

    @property
    def top(self) -> str:
        return self.module.split(".")[0]

    def files(self) -> list[Path]:
        """Return the files of the pack that a relative import names;
        a package counts as its `__init__.py`.
        """
        if not self.level:
            return []
        place = self.file.parents[self.level - 1].joinpath(*self.module.split("."))
        if self.module and place.with_suffix(".py").is_file():
            return [place.with_suffix(".py")]
        inside = [place / f"{name}.py" for name in self.names]
        return [file if file.is_file() else place / "__init__.py" for file in inside]


def imports(file: Path) -> Iterator[Import]:
    """Yield every import of a file, also those inside functions."""
    yield from _imports(file, ast.walk(_tree(file)))


def imports_at_once(file: Path) -> Iterator[Import]:
    """Yield the imports that run when the file is loaded."""
    yield from _imports(file, _tree(file).body)


def pack_files(root: Path = ROOT) -> list[Path]:
    """Return the Python files of the pack, in the order of its folders."""
    single = (root / f"{room}.py" for room in ROOMS)
    files = [file for folder in FOLDERS for file in sorted((root / folder).rglob("*.py"))]
    return [*(file for file in single if file.is_file()), *files]


def imported_files(file: Path) -> set[Path]:
    """Return `file` and all files of the pack that it imports, directly or not;
    packages' own files do not count.
    """
    seen: set[Path] = set()
    waiting = [file]
    while waiting:
        if (here := waiting.pop()) not in seen:
            seen.add(here)
            targets = (target for one in imports(here) for target in one.files())
            waiting += [target for target in targets if target.name != "__init__.py"]
    return seen


def arrows(block: str, root: Path = ROOT) -> Arrows:
    """Return the arrows of one of `BLOCKS` that follow from the code."""
    if block == "folders":
        return _between(pack_files(root), lambda file: _room(file, root))
    files = [file for file in sorted((root / block).glob("*.py")) if file.name != "__init__.py"]
    return _between(files, lambda file: file.stem if file.parent == root / block else None)


def listed(block: str, text: str) -> set[Arrow]:
    """Return the arrows that a Markdown file lists in the block of that name.

    Raises:
        ValueError: when the file does not have exactly one such block.
    """
    found = re.findall(rf"^```arrows {block}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    if len(found) != 1:
        raise ValueError(f"{PAPER}: expected one block '```arrows {block}', got {len(found)}.")
    lines = (line.split(" -> ") for line in found[0].splitlines() if line.strip())
    return {(source.strip(), target.strip()) for source, targets in lines for target in targets.split(",")}


def drawn(block: str, some: Iterable[Arrow]) -> str:
    """Return the fenced block that lists these arrows, one line for each source."""
    some = set(some)
    order = ROOMS if block == "folders" else sorted({name for arrow in some for name in arrow})
    lines = [
        f"{source} -> {', '.join(targets)}"
        for source in order
        if (targets := [target for target in order if (source, target) in some])
    ]
    return "\n".join([f"```arrows {block}", *lines, "```"])


def difference(block: str, made: Arrows, paper: set[Arrow]) -> str:
    """Return the differences between the code and the Markdown file, as text; empty if there are none."""
    faults = [
        f"{a} -> {b} is not listed; it is made by {', '.join(made[a, b])}" for a, b in made.keys() - paper
    ]
    faults += [f"{a} -> {b} is listed, and no file needs it" for a, b in paper - made.keys()]
    if not faults:
        return ""
    return "\n".join([*sorted(faults), f"Remove the import, or paste this into {PAPER}:", drawn(block, made)])


def cycle(some: Iterable[Arrow]) -> list[str]:
    """Return names that import each other in a circle, first and last the same;
    empty if there is no circle.
    """
    targets: dict[str, list[str]] = {}
    for source, target in some:
        targets.setdefault(source, []).append(target)
    finished: set[str] = set()

    def search(path: list[str]) -> list[str]:
        for target in targets.get(path[-1], []):
            if target in path:
                return [*path[path.index(target) :], target]
            if target not in finished and (found := search([*path, target])):
                return found
        finished.add(path[-1])
        return []

    return next((found for name in sorted(targets) if (found := search([name]))), [])


def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _imports(file: Path, statements: Iterable[ast.AST]) -> Iterator[Import]:
    for statement in statements:
        if isinstance(statement, ast.Import):
            yield from (Import(file, statement.lineno, 0, alias.name) for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            names = tuple(alias.name for alias in statement.names)
            yield Import(file, statement.lineno, statement.level, statement.module or "", names)


def _room(file: Path, root: Path) -> str:
    return file.relative_to(root).parts[0].removesuffix(".py")


def _between(files: Iterable[Path], name: Callable[[Path], str | None]) -> Arrows:
    """Return the arrows from the files to others;
    `name` names a file's end of an arrow, None has no arrow.
    """
    found: dict[Arrow, list[str]] = {}
    for file in files:
        for one in imports(file):
            for target in one.files():
                source, end = name(file), name(target)
                if source and end and source != end:
                    found.setdefault((source, end), []).append(f"{_shown(file)}:{one.line}")
    return found


def _shown(file: Path) -> str:
    return f"{file.parent.name}/{file.name}"


def main() -> int:
    """Print the blocks, or write them into CONTRIBUTING.md."""
    parser = argparse.ArgumentParser(prog="dev.py house", description="The arrows that the code makes.")
    parser.add_argument("--write", action="store_true", help=f"write the blocks into {PAPER}")
    blocks = {block: drawn(block, arrows(block)) for block in BLOCKS}
    if not parser.parse_args().write:
        print("\n\n".join(blocks.values()))
        return 0
    paper = ROOT / PAPER
    text = paper.read_text(encoding="utf-8")
    for block, new in blocks.items():
        text = re.sub(rf"^```arrows {block}\n.*?^```$", new, text, flags=re.MULTILINE | re.DOTALL)
    paper.write_text(text, encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
