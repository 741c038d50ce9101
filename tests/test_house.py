"""The house: the arrows between its rooms are those that CONTRIBUTING.md lists,
and a file loads only what it may.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from devhost.house import (
    BLOCKS,
    FOLDERS,
    PAPER,
    PURE,
    ROOT,
    arrows,
    cycle,
    difference,
    drawn,
    imports,
    imports_at_once,
    listed,
    pack_files,
)

HOST = {
    "comfy",
    "comfy_api",
    "comfy_extras",
    "comfy_execution",
    "nodes",
    "folder_paths",
    "server",
    "execution",
}
AT_ONCE = {
    "torch",
    "typing_extensions",
    "numpy",
    "PIL",
    "yaml",
    "latent_preview",
}  # the host has these when it loads a pack
LOADED = AT_ONCE | HOST | sys.stdlib_module_names
BELOW = {*PURE, "errors", "record"}  # what a pure folder may import of the pack


def faults(file, root=ROOT):
    """Yield what is wrong with the imports of one file."""
    place = file.relative_to(root)
    for one in imports(file):
        where = f"{place}:{one.line}"
        rooms = {target.relative_to(root).parts[0].removesuffix(".py") for target in one.files()}
        if one.level == 0 and one.top in FOLDERS:
            yield f"{where}: imports inside the pack are relative, not '{one.module}'"
        if place.parts[0] in PURE and one.level == 0 and one.top in HOST:
            yield f"{where}: a pure folder imports '{one.module}' of ComfyUI"
        if place.parts[0] in PURE and not rooms <= BELOW:
            yield f"{where}: a pure folder imports {', '.join(sorted(rooms - BELOW))}, which know ComfyUI"
    for one in imports_at_once(file):
        if one.level == 0 and one.top not in LOADED:
            yield f"{place}:{one.line}: import '{one.module}' where it is used; the host has not loaded it"


def test_the_arrows_of_the_code_are_those_of_the_paper():
    text = (ROOT / PAPER).read_text(encoding="utf-8")
    made = {block: arrows(block) for block in BLOCKS}
    found = [difference(block, made[block], listed(block, text)) for block in BLOCKS]
    assert not any(found), "\n\n" + "\n\n".join(filter(None, found))
    assert [cycle(made[block]) for block in BLOCKS] == [[]] * len(BLOCKS)


def test_files_load_only_what_they_may():
    found = [fault for file in pack_files() for fault in faults(file)]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.slow  # a process of its own
def test_the_pack_loads_nothing_but_itself():
    program = """
import sys
from devhost.host import PACK, find_host, import_host

find_host()
import nodes

host = set(sys.modules)
import_host()
assert f"{PACK}.nodes.upscale" in sys.modules
print(*(name for name in set(sys.modules) - host - sys.stdlib_module_names if name.split(".")[0] != PACK))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_the_checker_sees_forbidden_imports_and_arrows(tmp_path):
    for folder in ("nodes", "patches", "scaling"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").touch()
    file = tmp_path / "scaling" / "x.py"
    file.write_text(
        "import safetensors\ndef f():\n    import comfy.utils\n    from ..nodes import deep_shrink\n"
    )
    (tmp_path / "nodes" / "deep_shrink.py").write_text("from ..patches import y\nfrom .z import z\n")
    (tmp_path / "nodes" / "z.py").write_text("import nodes.deep_shrink\n")
    (tmp_path / "patches" / "y.py").touch()

    assert [fault.split(":")[1] for fault in faults(file, tmp_path)] == ["3", "4", "1"]
    assert [fault.split(":")[1] for fault in faults(tmp_path / "nodes" / "z.py", tmp_path)] == ["1"]
    made = arrows("folders", tmp_path)
    assert made == {
        ("scaling", "nodes"): ["scaling/x.py:4"],
        ("nodes", "patches"): ["nodes/deep_shrink.py:1"],
    }
    assert set(arrows("nodes", tmp_path)) == {("deep_shrink", "z")}
    assert listed("folders", f"before\n{drawn('folders', made)}\nafter\n") == set(made)
    message = difference("folders", made, {("nodes", "patches"), ("nodes", "segs")})
    assert "scaling -> nodes is not listed; it is made by scaling/x.py:4" in message
    assert "nodes -> segs is listed, and no file needs it" in message
    assert "```arrows folders\nnodes -> patches\nscaling -> nodes\n```" in message
    assert cycle([*made, ("patches", "scaling")]) == ["nodes", "patches", "scaling", "nodes"]


def test_requirements_install_line_by_line():
    from packaging.requirements import Requirement

    for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            Requirement(line)  # raises on an option, a file or a nested list
