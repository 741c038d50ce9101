"""The banner of the pack's page in the registry, 21:9, from the pack's own images:
`python -m devhost.banner`.
"""

from __future__ import annotations

from PIL import Image, ImageDraw, ImageFont

from .environment import ROOT

SIZE = (1344, 576)  # width, height
BACKGROUND, LIGHT, DIM = (36, 27, 77), (255, 224, 150), (200, 190, 220)
CELL, GAP = 168, 12
COLUMNS = range(2, 6)  # of the six prompts
PLAIN, HIDIFFUSION = 40, 1992  # where their first cells begin in assets/demo.png
STEP, TOP, FRAME, SIDE = (
    158,
    213,
    4,
    146,
)  # from cell to cell, of the first row, width of a cell's frame, its side


def draw_banner() -> Image.Image:
    """Return the banner: images of a model at twice its trained size, without HiDiffusion above and with it
    below.
    """
    banner = Image.new("RGB", SIZE, BACKGROUND)
    draw = ImageDraw.Draw(banner)
    with Image.open(ROOT / "assets" / "icon.png") as icon:
        small = icon.convert("RGBA").resize((150, 150), Image.Resampling.LANCZOS)
        banner.paste(small, (64, 70), small)
    draw.text((60, 250), "Megapixel", LIGHT, ImageFont.load_default(84))
    lines = "Large images without duplicated objects,\nconsistent faces,\nupscaling to any size"
    draw.multiline_text((64, 366), lines, DIM, ImageFont.load_default(27), spacing=12)
    left = SIZE[0] - 4 * CELL - 3 * GAP - 44
    with Image.open(ROOT / "assets" / "demo.png") as demo:
        for row, (title, start) in enumerate((("plain", PLAIN), ("HiDiffusion", HIDIFFUSION))):
            top = 84 + row * (CELL + 76)
            draw.text((left, top - 40), title, DIM, ImageFont.load_default(26))
            for place, column in enumerate(COLUMNS):
                x = start + column * STEP
                inner = (x + FRAME, TOP + FRAME, x + SIDE - FRAME, TOP + SIDE - FRAME)
                cell = demo.convert("RGB").crop(inner).resize((CELL, CELL), Image.Resampling.LANCZOS)
                banner.paste(cell, (left + place * (CELL + GAP), top))
    return banner


if __name__ == "__main__":
    draw_banner().quantize(256).save(ROOT / "assets" / "banner.png", optimize=True)
