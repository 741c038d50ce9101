#!/usr/bin/env python3
"""The development commands; `python3 dev.py --help` lists them.

Each makes the environment first if it is missing, so all that a fresh checkout needs is a Python and pip.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from collections.abc import Mapping

from devhost.environment import ROOT, Environment, EnvironmentFailure, prepare

INTERRUPTED = 130
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # small tensors: more threads only get in each other's way
MODULES = {  # command -> what Python runs; each reads its own options
    "test": "pytest",
    "effect": "devhost.effect",
    "whole-objects": "devhost.whole_objects",
    "house": "devhost.house",
    "locales": "devhost.locales",
    "schemas": "devhost.schemas",
    "new-effect": "devhost.new_effect",
}


def main() -> int:
    """Run one command and return its exit status."""
    options, rest = _parse()
    try:
        environment = prepare()
        if options.command == "env":
            print(environment.as_json())
            return 0
        if options.command == "demo":
            real = any(argument.startswith("--checkpoint") for argument in rest)
            return _python(environment, "-m", "devhost.demo", *rest, added={} if real else ONE_THREAD)
        if options.command == "lint":
            return _lint(environment)
        if options.command in MODULES:
            return _python(environment, "-m", MODULES[options.command], *rest)
        return _bench(environment, options.names, rest)
    except EnvironmentFailure as failure:
        print(f"dev: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED


def _parse() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(prog="dev.py", description="Develop Megapixel on a real ComfyUI.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("env", help="create the environment and print its paths, as one line of JSON")
    commands.add_parser("lint", help="run ruff and pyright")
    # These take their own options, --help included.
    for command, purpose in {
        "demo": "run the example workflows on tiny models and save the results as images",
        "test": "run pytest; further arguments go to pytest. --quick: only the tests for a change to one effect",
        "effect": "count the objects that each method draws in large images",
        "whole-objects": "count whole objects in large images of several models",
        "new-effect": "create the files of a small working effect",
        "schemas": "write tests/nodes/schemas.json from the schemas of all nodes",
        "locales": "list the translations that are missing or older than their English text",
        "house": "list the imports between folders, as in CONTRIBUTING.md",
    }.items():
        commands.add_parser(command, help=purpose, add_help=False)
    bench = commands.add_parser("bench", help="run benchmarks; a single one accepts its own options")
    bench.add_argument("names", nargs="*", help="files in bench/ without .py; all of them by default")
    options, rest = parser.parse_known_args()
    one_bench = options.command == "bench" and len(options.names) == 1
    if rest and not (one_bench or options.command == "demo" or options.command in MODULES):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return options, rest


def _lint(environment: Environment) -> int:
    # The host's types for pyright, and no word about newer versions of it: this one is pinned.
    host = {"PYTHONPATH": str(environment.comfyui), "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    statuses = [
        _python(environment, "-m", "ruff", "check", "."),
        _python(environment, "-m", "ruff", "format", "--check", "."),
        _python(environment, "-m", "pyright", "--pythonpath", str(environment.python), added=host),
    ]
    return max(statuses)


def _bench(environment: Environment, names: list[str], rest: list[str]) -> int:
    known = sorted(file.stem for file in (ROOT / "bench").glob("[!_]*.py"))
    if unknown := [name for name in names if name not in known]:
        print(f"dev: no benchmark {', '.join(unknown)}; there are: {', '.join(known)}", file=sys.stderr)
        return 1
    return max((_python(environment, "-m", f"bench.{name}", *rest) for name in names or known), default=0)


def _python(environment: Environment, *arguments: str, added: Mapping[str, str] = ONE_THREAD) -> int:
    """Run the environment's Python in the repository root and return its exit status.

    The variables in `added` hold where the surroundings do not set them.
    """
    variables = {**added, **environment.variables()}
    interrupted = False
    with subprocess.Popen([str(environment.python), *arguments], cwd=ROOT, env=variables) as process:
        signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        while True:
            try:
                status = process.wait()
                break
            except KeyboardInterrupt:
                interrupted = True  # the child was interrupted as well: let it finish in its own way
    if interrupted:
        raise KeyboardInterrupt
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main())
