"""How much code a node depends on: the files of the pack that it imports, directly or not, and their lines.

The node's own file counts, the empty `__init__.py` of the folders do not. The sum is over five nodes, one for
each family.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from devhost.house import imported_files, imports

MAIN = (
    "MegapixelDeepShrink",
    "MegapixelHiDiffusion",
    "MegapixelUpscale",
    "MegapixelInstantIDApply",
    "MegapixelSEGSUpscale",
)


def node_files(root: Path) -> dict[str, Path]:
    """Return the file of each node by its id, in the order of `nodes/__init__.py`."""
    return {name: one.files()[0] for one in imports(root / "nodes" / "__init__.py") for name in one.names}


def lines(file: Path) -> int:
    return len(file.read_text(encoding="utf-8").splitlines())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="dev.py bench imports", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("."), help="another checkout of the pack")
    parser.add_argument("--files", action="store_true", help="also list the files of each main node")
    options = parser.parse_args()
    root = options.root.resolve()
    nodes = {name: imported_files(file) for name, file in node_files(root).items()}
    print("| node | files | lines |")
    print("| --- | --- | --- |")
    for name, files in nodes.items():
        print(f"| {name} | {len(files)} | {sum(map(lines, files))} |")
    print(f"| sum of {', '.join(MAIN)} | | {sum(lines(file) for name in MAIN for file in nodes[name])} |")
    if options.files:
        for name in MAIN:
            print(f"\n{name}")
            for file in sorted(nodes[name], key=lines, reverse=True):
                print(f"  {lines(file):5} {file.relative_to(root)}")


if __name__ == "__main__":
    main()
