"""The translations of the nodes' texts, and which of them are missing or older than their English text.

The English texts are in the schemas. If a language has no translation of a text, the front end shows the
English one, so there is no `locales/en`, and a missing translation is no error. The other languages are
written by hand in `locales/<language>/nodeDefs.json`. A translated tooltip begins with the input's id, which
errors, help pages and other tooltips use.

`translated.json` beside it contains for each translation a digest of the English text that was translated,
and a digest of the translation. A translation is stale if the English text has changed since then and the
translation has not.

    python3 dev.py locales                               list, and record the new translations
    python3 dev.py locales --keep zh MegapixelUpscale    this node's translations are still correct
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from .environment import ROOT
from .host import import_host

LOCALES = ROOT / "locales"
LANGUAGES = ("zh", "ja", "ko")

Texts = Mapping[str, str]  # by their paths, such as "MegapixelUpscale.inputs.image.tooltip"


def english_texts(nodes: list[Any]) -> dict[str, str]:
    """Return the texts of the nodes that the front end shows, from their schemas."""
    return flat({node.__name__: _node_texts(node) for node in nodes})


def flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return the texts in nested mappings by their keys joined with dots."""
    texts: dict[str, str] = {}
    for key, inner in nested.items():
        texts |= {prefix + key: inner} if isinstance(inner, str) else flat(inner, f"{prefix}{key}.")
    return texts


def digest(text: str) -> str:
    """Return a short digest of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:10]


@dataclass(frozen=True)
class Language:
    """The translations into one language, and the digests of the texts that were translated."""

    code: str
    english: Texts
    folder: Path = LOCALES

    @cached_property
    def texts(self) -> dict[str, str]:
        return flat(self.read("nodeDefs"))

    @cached_property
    def record(self) -> dict[str, list[str]]:
        """[digest of the English text, digest of the translation] by path."""
        return self.read("translated")

    def read(self, name: str) -> dict[str, Any]:
        """Return the content of one of the language's files."""
        return json.loads(self._file(name).read_text(encoding="utf-8"))

    @property
    def missing(self) -> list[str]:
        return [path for path in self.english if path not in self.texts]

    @property
    def unknown(self) -> list[str]:
        """Translations of texts that no schema has."""
        return [path for path in self.texts if path not in self.english]

    @property
    def stale(self) -> list[str]:
        return [path for path in self.texts if path in self.english and self._is_stale(path)]

    @property
    def current(self) -> list[str]:
        """Translations of the current English texts."""
        return [path for path in self.texts if path in self.english and not self._is_stale(path)]

    def remember(self, keep: Collection[str] = ()) -> None:
        """Update the record for translations that were written since.

        Stale translations stay stale, except those at or under one of the paths in `keep`, which are still
        correct.
        """
        old = {path for path in self.stale if not any(f"{path}.".startswith(f"{kept}.") for kept in keep)}
        record = {
            path: self.record[path] if path in old else [digest(self.english[path]), digest(text)]
            for path, text in self.texts.items()
            if path in self.english
        }
        lines = [f"  {json.dumps(path)}: {json.dumps(digests)}" for path, digests in record.items()]
        text = "{\n" + ",\n".join(lines) + "\n}\n"
        self._file("translated").write_text(text, encoding="utf-8", newline="\n")

    def _is_stale(self, path: str) -> bool:
        source, translation = self.record.get(path, (None, None))
        return translation == digest(self.texts[path]) and source != digest(self.english[path])

    def _file(self, name: str) -> Path:
        return self.folder / self.code / f"{name}.json"


def _node_texts(node: Any) -> dict[str, Any]:
    schema = node.GET_SCHEMA()
    info = schema.get_v1_info(node)
    inputs = {
        name: _named(name, options["tooltip"])
        for group in ("required", "optional")
        for name, (_, options) in info.input.get(group, {}).items()
    }
    outputs = zip(info.output_name, info.output_tooltips, strict=True)
    return {
        "display_name": schema.display_name,
        "description": schema.description,
        "inputs": inputs,
        "outputs": {str(index): _named(*output) for index, output in enumerate(outputs)},
    }


def _named(name: str, tooltip: str | None) -> dict[str, str]:
    return {"name": name, "tooltip": tooltip} if tooltip else {"name": name}


def main() -> int:
    """List what is missing, stale or unknown in each language."""
    parser = argparse.ArgumentParser(
        prog="dev.py locales", description="List missing and stale translations."
    )
    parser.add_argument(
        "--keep", nargs=2, action="append", default=[], metavar=("LANGUAGE", "PATH"),
        help="the translations at and under this path are still right, such as zh MegapixelUpscale.inputs.image",
    )  # fmt: skip
    keep: list[list[str]] = parser.parse_args().keep
    import_host()
    english = english_texts(importlib.import_module("megapixel.nodes").NODES)
    for code in LANGUAGES:
        paths = [path for language, path in keep if language == code]
        Language(code, english).remember(keep=paths)
        language = Language(code, english)
        for kind in ("missing", "stale", "unknown"):
            for path in getattr(language, kind):
                print(f"{code} {kind:7} {path}: {english.get(path, '')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
