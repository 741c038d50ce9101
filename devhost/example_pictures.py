"""Each example workflow as an image to drag into ComfyUI: its thumbnail as PNG, with the graph inside.

    python3 -m devhost.example_pictures

The graph is plain ASCII in an uncompressed text chunk, as ComfyUI writes it: the front end reads no
compressed ones.
"""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .environment import ROOT

EXAMPLES = ROOT / "example_workflows"
PICTURES = ROOT / "assets"
COLOURS = 256  # a third of the size, with no difference that is seen in a thumbnail


def picture_of(example: Path) -> Path:
    """Return the path of the image of an example workflow."""
    return PICTURES / f"{example.stem}.png"


def write_picture(example: Path) -> Path:
    """Write the image of an example workflow and return its path."""
    chunks = PngInfo()
    chunks.add_text("workflow", json.dumps(json.loads(example.read_text(encoding="utf-8"))))
    with Image.open(example.with_suffix(".jpg")) as thumbnail:
        thumbnail.quantize(COLOURS).save(picture_of(example), pnginfo=chunks, optimize=True)
    return picture_of(example)


if __name__ == "__main__":
    for example in sorted(EXAMPLES.glob("*.json")):
        print(write_picture(example))
