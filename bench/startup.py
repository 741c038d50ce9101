"""What the pack adds to the start of ComfyUI: the time in which the host loads it, and the modules that it
imports.

Each round is a new process that starts like the host, with all of the host's own nodes, and then loads the
pack as the host does: its files, its web folder, the schemas of its nodes. The first round of a fresh
installation also compiles the files.

Expected: under 60 ms after the files are compiled, and only modules of the pack.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

from devhost.environment import ROOT


def load(bytecode: str) -> tuple[float, float, list[str]]:
    """Return wall and CPU milliseconds of loading in a process of its own,
    and the foreign modules it loaded.
    """
    command = [sys.executable, "-m", "bench.startup", "--child"]
    variables = {**os.environ, "PYTHONPYCACHEPREFIX": bytecode, "PYTHONDONTWRITEBYTECODE": ""}
    output = subprocess.run(
        command, check=True, cwd=ROOT, env=variables, stdout=subprocess.PIPE, text=True
    ).stdout
    wall, cpu, foreign = json.loads(output.splitlines()[-1])
    return wall, cpu, foreign


async def child() -> None:
    """Start as the host does, load the pack and print the figures of that."""
    from devhost.host import find_host

    find_host()
    import folder_paths
    import server

    import nodes

    folder_paths.set_user_directory(tempfile.gettempdir())
    server.PromptServer(asyncio.get_running_loop())
    await nodes.init_builtin_extra_nodes()
    before = set(sys.modules)
    wall, cpu = time.perf_counter(), time.process_time()
    loaded = await nodes.load_custom_node(str(ROOT))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    assert loaded
    own = str(ROOT).replace(".", "_x_")  # as the host names a pack's modules
    foreign = sorted(name for name in set(sys.modules) - before if not name.startswith(own))
    print(json.dumps([1000 * wall, 1000 * cpu, foreign]))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="dev.py bench startup", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        asyncio.run(child())
        return
    with tempfile.TemporaryDirectory() as bytecode:
        first, *later = (load(bytecode) for _ in range(1 + options.rounds))
    print("| start | wall, ms | CPU, ms | foreign modules |")
    print("| --- | --- | --- | --- |")
    print(f"| first, compiles | {first[0]:.0f} | {first[1]:.0f} | {' '.join(first[2]) or 'none'} |")
    walls, cpus, foreign = zip(*later, strict=True)
    print(
        f"| later, n = {len(later)} | {_spread(walls)} | {_spread(cpus)} | {' '.join(foreign[-1]) or 'none'} |"
    )


def _spread(values: tuple[float, ...]) -> str:
    low, median, high = statistics.quantiles(values, n=4)
    return f"{median:.0f} ({low:.0f} to {high:.0f})"


if __name__ == "__main__":
    main()
