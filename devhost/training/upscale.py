"""Train the small upscale model of the repository: spandrel's Compact, scale 4.

Run from the repository's root in the development environment; about twenty minutes on one CPU core::

    python -m devhost.training.upscale assets/upscale_models/megapixel-compact-4x.safetensors
    python -m devhost.training.upscale assets/upscale_models/megapixel-compact-4x.safetensors --evaluate

It learns from crops of a few free photographs and of drawn images with sharp edges, lines and letters. The
drawn ones matter: photographs are few, and edges at every angle are most of what so small a network learns.

Dimensions: B crops, H and W in pixels of the small image.
"""

from __future__ import annotations

import argparse
import copy
import math
import random
import string
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont, ImageOps
from spandrel import ModelLoader
from spandrel.architectures.Compact import Compact
from torch import Tensor, nn

from devhost.photographs import HELD_OUT, photograph, psnr, reduce_by

SCALE = 4
FEATURES = 24
CONVOLUTIONS = 6
CROP = 20  # of the small image; the network sees 17 pixels
BATCH = 20
LEARNING_RATE = 6e-3
WARM_UP = 0.02
AVERAGE = 0.999
ROUNDING = 0.1

# Name and by how many times it is reduced first, as some are soft or show traces of JPEG at full size.
PHOTOGRAPHS = {
    "brick": (1, 2),
    "camera": (1, 2),
    "clock_motion": (1, 2),
    "coins": (1,),
    "grass": (1, 2),
    "gravel": (1, 2),
    "hubble_deep_field": (2, 3),
    "ihc": (1, 2),
    "retina": (3, 5),
    "rocket": (1, 2),
    "text": (1,),
}
DRAWN = 160
DRAWN_SIZE = 256
OVERSIZE = 4  # drawn so many times larger, then reduced: that is what makes the edges smooth
PHOTOGRAPHED_SHARE = 0.5

Colour = tuple[int, int, int]


def build_model(generator: torch.Generator) -> Compact:
    """Return an untrained network that enlarges to nearest neighbours."""
    model = Compact(num_feat=FEATURES, num_conv=CONVOLUTIONS, upscale=SCALE)
    convolutions = [module for module in model.body if isinstance(module, nn.Conv2d)]
    for convolution in convolutions:
        nn.init.kaiming_normal_(convolution.weight, a=0.25, generator=generator)
        nn.init.zeros_(convolution.bias)  # pyright: ignore[reportArgumentType]
    for convolution in convolutions[1:-1]:
        # Starting near the identity trains a plain stack of convolutions as well as a residual one.
        dirac = nn.init.dirac_(torch.empty_like(convolution.weight))
        convolution.weight.data.mul_(0.5).add_(dirac)
    convolutions[-1].weight.data.mul_(0.01)
    return model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


class Painter:
    """Draws images of overlapping shapes, lines and letters, all from one seed."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.side = DRAWN_SIZE * OVERSIZE

    def picture(self) -> Tensor:
        """Draw one image, (1, 3, DRAWN_SIZE, DRAWN_SIZE)."""
        canvas = self._fill()
        things = (self._disc, self._polygon, self._line, self._letters, self._outline)
        for _ in range(self.chance.randint(12, 70)):
            mask = Image.new("L", (self.side, self.side))
            self.chance.choice(things)(ImageDraw.Draw(mask))
            canvas.paste(self._fill(), mask=mask)
        small = canvas.reduce(OVERSIZE)
        return torch.from_numpy(np.array(small)).permute(2, 0, 1)[None].float() / 255

    def _colour(self) -> Colour:
        if self.chance.random() < 0.3:
            gray = self.chance.randrange(256)
            return gray, gray, gray
        red, green, blue = (self.chance.randrange(256) for _ in range(3))
        return red, green, blue

    def _fill(self) -> Image.Image:
        kind = self.chance.random()
        size = (self.side, self.side)
        if kind < 0.5:
            return Image.new("RGB", size, self._colour())
        if kind < 0.8:
            ramp = Image.linear_gradient("L").rotate(self.chance.uniform(0, 360), Image.Resampling.BILINEAR)
            ramp = ramp.crop((64, 64, 192, 192))  # without the corners that the rotation left black
        else:
            ramp = self._stripes()
        return ImageOps.colorize(ramp, self._colour(), self._colour()).resize(size)

    def _stripes(self) -> Image.Image:
        period = self.chance.uniform(4, 30) * 2  # drawn at twice the size of the image
        angle = self.chance.uniform(0, math.pi)
        across = np.arange(DRAWN_SIZE * 2)
        phase = across[:, None] * math.sin(angle) + across[None] * math.cos(angle)
        wave = np.sin(phase * (2 * math.pi / period)) * self.chance.choice((1, 3, 8))
        return Image.fromarray(np.uint8(127.5 + 127.5 * wave.clip(-1, 1)))

    def _length(self, low: float, high: float) -> float:
        """Draw a length in canvas pixels, small ones more often, between bounds in image pixels."""
        return OVERSIZE * math.exp(self.chance.uniform(math.log(low), math.log(high)))

    def _point(self) -> tuple[float, float]:
        return self.chance.uniform(0, self.side), self.chance.uniform(0, self.side)

    def _box(self) -> tuple[float, float, float, float]:
        (x, y), height, width = self._point(), self._length(2, 70), self._length(2, 70)
        return x - width, y - height, x + width, y + height

    def _disc(self, pen: ImageDraw.ImageDraw) -> None:
        pen.ellipse(self._box(), fill=255)

    def _outline(self, pen: ImageDraw.ImageDraw) -> None:
        pen.ellipse(self._box(), outline=255, width=round(self._length(0.8, 6)))

    def _polygon(self, pen: ImageDraw.ImageDraw) -> None:
        (x, y), radius = self._point(), self._length(3, 80)
        angles = sorted(self.chance.uniform(0, 2 * math.pi) for _ in range(self.chance.randint(3, 7)))
        pen.polygon(
            [(x + radius * math.cos(angle), y + radius * math.sin(angle)) for angle in angles], fill=255
        )

    def _line(self, pen: ImageDraw.ImageDraw) -> None:
        points = [self._point() for _ in range(self.chance.randint(2, 4))]
        pen.line(points, fill=255, width=round(self._length(0.8, 8)), joint="curve")

    def _letters(self, pen: ImageDraw.ImageDraw) -> None:
        symbols = string.ascii_letters + string.digits + "   .,;:!?()+-"
        lines = [
            "".join(self.chance.choices(symbols, k=self.chance.randint(3, 20)))
            for _ in range(self.chance.randint(1, 4))
        ]
        font = ImageFont.load_default(self._length(7, 40))
        pen.multiline_text(self._point(), "\n".join(lines), fill=255, font=font, anchor="mm")


class Crops:
    """Pairs of small and large crops from photographs and drawn images."""

    def __init__(self, seed: int, drawn: int = DRAWN) -> None:
        self.chance = random.Random(seed)
        painter = Painter(seed)
        self.drawn = [painter.picture() for _ in range(drawn)]
        self.photographs = [
            reduce_by(photograph(name), factor) for name, factors in PHOTOGRAPHS.items() for factor in factors
        ]
        # A large image is seen more often, but not in proportion: the largest are not the most varied.
        self.weights = [math.sqrt(picture[0, 0].numel()) for picture in self.photographs]

    def batch(self) -> tuple[Tensor, Tensor]:
        """Return small crops (B, 3, CROP, CROP), rounded to 8 bits, and the large ones they came from."""
        large = torch.cat([self._crop() for _ in range(BATCH)])
        large = large.contiguous(memory_format=torch.channels_last)
        small = reduce_by(large, SCALE)
        return small.mul(255).round().div(255), large

    def _crop(self) -> Tensor:
        if self.chance.random() < PHOTOGRAPHED_SHARE:
            [picture] = self.chance.choices(self.photographs, self.weights)
        else:
            picture = self.chance.choice(self.drawn)
        side = CROP * SCALE
        top, left = (self.chance.randrange(length - side + 1) for length in picture.shape[-2:])
        return self._vary(picture[..., top : top + side, left : left + side])

    def _vary(self, crop: Tensor) -> Tensor:
        """Flip, transpose, mix the channels and change the contrast of a crop."""
        if self.chance.random() < 0.5:
            crop = crop.flip(-1)
        if self.chance.random() < 0.5:
            crop = crop.flip(-2)
        if self.chance.random() < 0.5:
            crop = crop.transpose(-1, -2)
        crop = crop[:, self.chance.sample(range(3), 3)]
        # Most of the photographs are gray: a tint of its own for each channel's dark and bright end.
        low = torch.tensor([self.chance.uniform(0, 0.2) for _ in range(3)])
        high = torch.tensor([self.chance.uniform(0.6, 1) for _ in range(3)])
        tinted = torch.lerp(low[:, None, None], high[:, None, None], crop)
        return tinted if self.chance.random() < 0.5 else crop


def loss(actual: Tensor, wanted: Tensor) -> Tensor:
    """Return the mean of differences that count squared when small and plainly when large (Charbonnier)."""
    return (actual - wanted).square().add(ROUNDING**2).sqrt().mean()


def learning_rate(progress: float) -> float:
    """Return the rate after a share ``progress`` of the steps: a short rise, then half a cosine to zero."""
    return LEARNING_RATE * min(1.0, progress / WARM_UP) * 0.5 * (1 + math.cos(math.pi * progress))


def train(model: Compact, crops: Crops, steps: int) -> Compact:
    """Train ``model`` on ``steps`` batches; return a model of the weights averaged over the last ones."""
    average = copy.deepcopy(model)
    optimiser = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99))
    start = time.monotonic()
    for step in range(1, steps + 1):
        optimiser.param_groups[0]["lr"] = learning_rate(step / steps)
        small, large = crops.batch()
        value = loss(model(small), large)
        optimiser.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        with torch.no_grad():
            share = min(AVERAGE, step / (step + 10))  # the first steps are soon forgotten
            for mean, weight in zip(average.parameters(), model.parameters(), strict=True):
                mean.lerp_(weight, 1 - share)
        if step % 1000 == 0:
            gains = " ".join(f"{new - old:+.2f}" for _, old, new in compare(average))
            seconds = time.monotonic() - start
            print(f"step {step}/{steps}  loss {value.item():.4f}  {gains} dB  {seconds:.0f} s", flush=True)
    return average


@torch.inference_mode()
def compare(model: nn.Module, names: Sequence[str] = HELD_OUT) -> list[tuple[str, float, float]]:
    """Return (name, PSNR of bicubic, PSNR of ``model``) for photographs reduced and enlarged again.

    RGB, the whole image without a margin, results clamped to [0, 1].
    """
    rows: list[tuple[str, float, float]] = []
    for name in names:
        whole = photograph(name)
        small = reduce_by(whole, SCALE)
        bicubic = F.interpolate(small, scale_factor=SCALE, mode="bicubic").clamp(0, 1)
        large = whole[..., : bicubic.shape[-2], : bicubic.shape[-1]]
        rows.append((name, psnr(bicubic, large), psnr(model(small).clamp(0, 1), large)))
    return rows


def save(model: Compact, path: Path) -> None:
    """Write the weights in half precision."""
    state = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(state, path)


def evaluate(path: Path) -> None:
    """Print the card's table: PSNR of bicubic and of the saved weights on each held-out photograph."""
    model = ModelLoader().load_from_file(path).model.eval()
    print("| picture | bicubic | model | gain |\n|---|---|---|---|")
    for name, bicubic, ours in compare(model):
        print(f"| {name} | {bicubic:.2f} dB | {ours:.2f} dB | {ours - bicubic:+.2f} dB |")


def main() -> None:
    """Train and save the model, then print its PSNR; or only print it."""
    parser = argparse.ArgumentParser(description="Train the repository's small upscale model.")
    parser.add_argument("output", type=Path, help="where the weights go (.safetensors)")
    parser.add_argument("--steps", type=int, default=46000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--evaluate", action="store_true", help="do not train, measure the weights that are there"
    )
    arguments = parser.parse_args()

    if not arguments.evaluate:
        model = build_model(torch.Generator().manual_seed(arguments.seed))
        save(train(model, Crops(arguments.seed), arguments.steps), arguments.output)
    evaluate(arguments.output)


if __name__ == "__main__":
    main()
