"""Draws the images of the README and the help pages that show Deep Shrink and HiDiffusion, with the current
code.

    COMFYUI_PATH=... python -m devhost.help_pictures

A few minutes on one core. Each image contains its recipe, the settings that it was drawn with; a test
compares the recipe with the current settings, so outdated images are found. The banner is cut from
`assets/demo.png` afterwards: `python -m devhost.banner`.
"""

# The pack has its name only after `import_host()`.
# pyright: reportMissingImports=false

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .environment import ROOT
from .example_pictures import write_picture
from .host import import_host
from .sheet import Block, Cell, draw_sheet
from .tiny.counting import PictureCount, count_objects, summarise
from .tiny.forms import CLASS_TEXTS

DOCS, EXAMPLES = ROOT / "web" / "docs", ROOT / "example_workflows"
DEMO, PLAN = ROOT / "assets" / "demo.png", DOCS / "plan.png"
LINES, SIZE, TRAINED_SIDE, SEED = 4, (32, 32), 128, 2026
SAMPLING: dict[str, Any] = {
    "steps": 20, "cfg": 2.5, "sampler": "dpmpp_2m", "scheduler": "normal",
}  # fmt: skip
TITLE = f"Tiny SD 1.5, trained at {TRAINED_SIDE} px, asked for {8 * SIZE[0]} px"
SUBTITLE = (
    "The same place is the same noise, and only the effect differs. "
    "Whole: one object in its true shape, though the frame may cut it."
)
PLAN_SIZE, PLAN_STEPS = (256, 192), 20
THUMBNAIL = (800, 350)
THUMBNAIL_TOP = 95
"""Height of the heading of a sheet of two blocks, which a thumbnail goes without."""
JPEG_QUALITY = 88


def methods() -> dict[str, Callable[[Any], Any]]:
    """Return the methods that are shown: for each title a function from a model to a model."""
    from megapixel.patches.deep_shrink import DeepShrink, apply_deep_shrink
    from megapixel.patches.hidiffusion import HiDiffusion, apply_hidiffusion

    return {
        "Plain": lambda model: model,
        "Deep Shrink": lambda model: apply_deep_shrink(
            model, DeepShrink(mode="auto", trained_size=TRAINED_SIDE)
        ),
        "HiDiffusion": lambda model: apply_hidiffusion(model, HiDiffusion(trained_size=TRAINED_SIDE)),
    }


def sheet_recipe() -> str:
    """Return the recipe of the sheets: the settings of the sampler and of both effects."""
    from megapixel.patches.deep_shrink import AUTOMATIC
    from megapixel.patches.hidiffusion import WINDOWS_END, HiDiffusion

    settings = {
        "deep_shrink": asdict(AUTOMATIC), "hidiffusion": asdict(HiDiffusion()), "windows_end": WINDOWS_END,
    }  # fmt: skip
    return json.dumps({**SAMPLING, "seed": SEED, "size": SIZE, **settings}, sort_keys=True)


def draw_plan_picture() -> tuple[Image.Image, str]:
    """Return the plan of HiDiffusion for an image of 1536 x 2048 pixels, and its recipe: the log lines of the
    effects.
    """
    import comfy.samplers
    from megapixel.patches.hidiffusion import HiDiffusion, apply_hidiffusion
    from megapixel.patches.plan_picture import draw_plan
    from megapixel.patches.run_plan import plan_run

    from .tiny import random_models

    model = apply_hidiffusion(random_models.sd15(), HiDiffusion())
    sampling = model.get_model_object("model_sampling")
    plan = plan_run(model, PLAN_SIZE, comfy.samplers.calculate_sigmas(sampling, "normal", PLAN_STEPS))
    return draw_plan(plan), json.dumps(dict(plan.words))


def recipe_in(picture: Path) -> str | None:
    """Return the recipe in an image file."""
    with Image.open(picture) as image:
        found = image.info.get("recipe") or image.info.get("comment")
    return found.decode() if isinstance(found, bytes) else found


def main() -> None:
    """Draw and write all images."""
    import_host()
    plan, plan_recipe = draw_plan_picture()
    plan.save(PLAN, pnginfo=_chunks({"recipe": plan_recipe}), optimize=True)
    recipe = sheet_recipe()
    with TemporaryDirectory() as folder:
        blocks = _blocks(Path(folder))
        with Image.open(DEMO) as earlier:  # the workflow that it opens as stays
            chunks = {key: earlier.info[key] for key in ("workflow", "prompt")}
        _sheet(blocks).save(DEMO, pnginfo=_chunks({**chunks, "recipe": recipe}), optimize=True)
        for name, block in (("deep_shrink", blocks[1]), ("hidiffusion", blocks[2])):
            _write_pair(name, _sheet([blocks[0], block]), recipe)


def _write_pair(name: str, sheet: Image.Image, recipe: str) -> None:
    """Write a help page's picture, an example's thumbnail and the picture that opens as that example."""
    width = 1328
    page = sheet.resize((width, round(sheet.height * width / sheet.width)), Image.Resampling.LANCZOS)
    page.save(DOCS / f"{name}.jpg", quality=JPEG_QUALITY, comment=recipe)
    below = page.crop((0, THUMBNAIL_TOP, page.width, page.height))
    small = below.resize(
        (THUMBNAIL[0], round(below.height * THUMBNAIL[0] / below.width)), Image.Resampling.LANCZOS
    )
    thumbnail = Image.new("RGB", THUMBNAIL, "white")
    thumbnail.paste(small, (0, 0))
    thumbnail.save(EXAMPLES / f"{name}.jpg", quality=JPEG_QUALITY, comment=recipe)
    write_picture(EXAMPLES / f"{name}.json")


def _sheet(blocks: Sequence[Block]) -> Image.Image:
    return draw_sheet(TITLE, SUBTITLE, CLASS_TEXTS, blocks)


def _blocks(folder: Path) -> list[Block]:
    """Sample every prompt with every method, and return a block for each method."""
    from .tiny import node

    model, clip, vae = node.load_trained("sd15")
    return [_block(title, apply(model), clip, vae, folder) for title, apply in methods().items()]


def _block(title: str, model: Any, clip: Any, vae: Any, folder: Path) -> Block:
    from .sampling import sample

    columns: list[list[Cell]] = []
    counts: list[PictureCount] = []
    for number, text in enumerate(CLASS_TEXTS):
        texts = {
            name: clip.encode_from_tokens_scheduled(clip.tokenize(word))
            for name, word in (("positive", text), ("negative", ""))
        }
        latents = sample(model, SIZE, batch=LINES, seed=SEED + number, **texts, **SAMPLING)
        found = count_objects(latents.float().numpy(), [number] * LINES)
        with torch.inference_mode():
            pictures = (255 * vae.decode(latents).clamp(0, 1)).round().byte().cpu().numpy()
        columns.append(
            [
                _cell(p, c, folder / f"{title}_{number}_{i}.png")
                for i, (p, c) in enumerate(zip(pictures, found, strict=True))
            ]
        )
        counts += found
    return Block(title, summarise(counts).finding, list(zip(*columns, strict=True)))


def _cell(picture: np.ndarray, count: PictureCount, file: Path) -> Cell:
    Image.fromarray(picture).save(file)
    return Cell(file, count.verdict, count.whole)


def _chunks(texts: Mapping[str, str]) -> PngInfo:
    chunks = PngInfo()
    for key, text in texts.items():
        chunks.add_text(key, text)
    return chunks


if __name__ == "__main__":
    main()
