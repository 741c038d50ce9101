"""Counts the objects in latents of the toy world: whether there are as many as requested, and whether they
are whole.

An object is a connected part of the mask channel; its one light part (head, bar or core) is counted on its
own, because objects that touch are one component but still have two light parts. Thresholds lie half-way
between background and object in each image, since a sampled image is softer than a drawn one.

Dimensions: B images, H and W in latent pixels. Lengths are in latent pixels, positions are (y, x).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .forms import RING_EXTENT, crowd_count, is_crowd, is_person, parts_of

Floats = NDArray[np.floating[Any]]
Flags = NDArray[np.bool_]

MIN_AREA, MIN_BALL_AREA = 10.8, 1.6
"""Minimum area of a ball: a fifth of the median area in the training images (16 x 16 latent pixels)."""
MIN_LIGHT_AREA = 2
MIN_CONTRAST = 0.7
"""Least difference of the mask channel between object and background; in drawn scenes it is 2."""
MIN_OVERLAP = 0.6
"""Least intersection over union with the drawn shape of a whole object."""
STEEPEST_SHARE = 0.02
_EIGHT_NEIGHBOURS = np.ones((3, 3))


@dataclass(frozen=True)
class PictureCount:
    """The counts of one image: mask components, light parts, and how well the largest component fits its
    shape.
    """

    components: int
    light_parts: int
    overlap: float
    edge: float
    asked: int = 1

    @property
    def objects(self) -> int:
        """Return the number of objects; touching ones count separately."""
        return max(self.components, self.light_parts)

    @property
    def exactly_one(self) -> bool:
        """Return whether there is one object."""
        return self.objects == 1

    @property
    def exact(self) -> bool:
        """Return whether there are as many objects as the prompt requests."""
        return self.objects == self.asked

    @property
    def whole(self) -> bool:
        """Return whether there are as many objects as requested and the largest has the
        shape of its class.
        """
        return self.exact and self.overlap > MIN_OVERLAP

    @property
    def verdict(self) -> str:
        """Return the result for an image of one object, in two or three words."""
        if self.whole:
            return "one object"
        return "one, misshapen" if self.exactly_one else f"{self.objects or 'no'} objects"


@dataclass(frozen=True)
class CountSummary:
    """Counts of ``n`` images, with 95 % confidence intervals of the shares."""

    n: int
    mean_count: float
    share_one: float
    share_one_interval: tuple[float, float]
    share_whole: float
    share_whole_interval: tuple[float, float]
    edge: float

    @property
    def finding(self) -> str:
        """Return the text below a sheet of images."""
        low, high = (100 * bound for bound in self.share_whole_interval)
        share = f"{100 * self.share_whole:.0f} % one whole object"
        return f"{share} (n = {self.n}, 95 % interval {low:.0f} to {high:.0f} %)"

    def __str__(self) -> str:
        one, whole = self.share_one_interval, self.share_whole_interval
        return (
            f"n {self.n}  one {self.share_one:.2f} [{one[0]:.2f}, {one[1]:.2f}]  "
            f"whole {self.share_whole:.2f} [{whole[0]:.2f}, {whole[1]:.2f}]  "
            f"mean {self.mean_count:.2f}  edge {self.edge:.2f}"
        )


def count_objects(latents: Any, classes: Sequence[int]) -> list[PictureCount]:
    """Count the objects of each image in latents (B, 4, H, W); ``classes`` were requested."""
    pictures = np.asarray(latents, dtype=np.float32)
    return [_count_picture(picture, int(c)) for picture, c in zip(pictures, classes, strict=True)]


def summarise(counts: Sequence[PictureCount]) -> CountSummary:
    """Summarise the counts of at least one image."""
    if not counts:
        raise ValueError("no pictures to summarise")
    n = len(counts)
    one, whole = sum(c.exactly_one for c in counts), sum(c.whole for c in counts)
    return CountSummary(
        n=n,
        mean_count=sum(c.objects for c in counts) / n,
        share_one=one / n,
        share_one_interval=wilson_interval(one, n),
        share_whole=whole / n,
        share_whole_interval=wilson_interval(whole, n),
        edge=sum(c.edge for c in counts) / n,
    )


def wilson_interval(successes: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Return Wilson's score interval of a share (Wilson 1927), by default at 95 %."""
    share, spread = successes / n, z * z / n
    centre = share + spread / 2
    radius = z * (share * (1 - share) / n + spread / (4 * n)) ** 0.5
    return (max(0.0, (centre - radius) / (1 + spread)), min(1.0, (centre + radius) / (1 + spread)))


def _count_picture(picture: Floats, class_id: int) -> PictureCount:
    colours, mask = picture[:3], picture[3]
    labels, areas = _components(_object_mask(mask))
    large = np.flatnonzero(areas >= (MIN_BALL_AREA if is_crowd(class_id) else MIN_AREA)) + 1
    edge, asked = edge_sharpness(colours), crowd_count(class_id)
    if not len(large):
        return PictureCount(components=0, light_parts=0, overlap=0.0, edge=edge, asked=asked)
    return PictureCount(
        components=len(large),
        light_parts=_count_light_parts(colours, np.isin(labels, large)),
        overlap=_overlap_with_shape(labels == areas.argmax() + 1, class_id),
        edge=edge,
        asked=asked,
    )


def _components(flags: Flags) -> tuple[NDArray[np.int32], Floats]:
    """Label the 8-connected components from 1 on; return labels (H, W) and areas (components,)."""
    labels = np.zeros(flags.shape, dtype=np.int32)
    ndimage.label(flags, _EIGHT_NEIGHBOURS, output=labels)
    return labels, np.bincount(labels.ravel())[1:].astype(float)


def _object_mask(mask: Floats) -> Flags:
    background, foreground = np.median(mask), np.percentile(mask, 99.5)
    return (mask > (background + foreground) / 2) & (foreground - background > MIN_CONTRAST)


def _count_light_parts(colours: Floats, inside: Flags) -> int:
    lightness = colours.min(axis=0)
    dark, light = np.percentile(lightness[inside], [10, 97])
    _, areas = _components(inside & (lightness > (dark + light) / 2))
    return int((areas >= MIN_LIGHT_AREA).sum())


def _overlap_with_shape(component: Flags, class_id: int) -> float:
    """Return the best intersection over union of a component with its class's shape, over small shifts."""
    rows, columns = ndimage.find_objects(component.astype(np.int8))[0]
    sides = (rows.stop - rows.start, columns.stop - columns.start)
    centre = ((rows.start + rows.stop) / 2, (columns.start + columns.stop) / 2)
    height = (
        sides[0] if is_person(class_id) else sum(sides) / 2 / (1.0 if is_crowd(class_id) else RING_EXTENT)
    )
    shapes = (
        draw_shape(class_id, component.shape, (centre[0] + dy, centre[1] + dx), height * scale)
        for scale, dy, dx in product((0.93, 1.0, 1.07), (-0.5, 0.0, 0.5), (-0.5, 0.0, 0.5))
    )
    return max(float((shape & component).sum() / (shape | component).sum()) for shape in shapes)


def draw_shape(
    class_id: int, size: tuple[int, ...], centre: tuple[float, float], height: float, supersampling: int = 2
) -> Flags:
    """Draw the mask (H, W) of an object: pixels that it covers by more than half."""
    y, x = ((np.arange(n * supersampling) + 0.5) / supersampling for n in size)
    v, u = (y[:, None] - centre[0]) / height, (x - centre[1]) / height
    samples = parts_of(class_id, u, v).whole.reshape(size[0], supersampling, size[1], supersampling)
    return samples.mean((1, 3)) > 0.5


def edge_sharpness(colours: Floats) -> float:
    """Return the mean gradient of the steepest pixels of (3, H, W)."""
    across = np.abs(np.diff(colours, axis=2)).mean(0)[:-1, :]
    down = np.abs(np.diff(colours, axis=1)).mean(0)[:, :-1]
    gradient = np.sort(np.hypot(across, down), axis=None)
    return float(gradient[-max(8, int(STEEPEST_SHARE * gradient.size)) :].mean())
