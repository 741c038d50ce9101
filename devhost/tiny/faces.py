"""Drawn faces, and an antelopev2 that detects them: two ONNX networks with weights written by hand.

Their inputs and outputs are those of the real files, so that the real insightface and onnxruntime run them:
SCRFD with five points, two anchors a place and strides of 8, 16 and 32; ArcFace from 112 x 112 pixels to 512
numbers. They detect only the faces of `draw_portraits`, whose five points are dots in five pure colours. The
boxes and points are computed from the dots, so they follow a face to any place, size and angle; faces of 24
to 256 pixels are found, smaller than the square that the detector looks at, as with the real one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Of the width of the face: where the points lie from the nose, and the radius of their dots.
POINTS = np.array([(-0.2, -0.23), (0.2, -0.23), (0.0, 0.0), (-0.165, 0.235), (0.165, 0.235)])
DOT = 0.05
HALF_HEIGHT = 0.65
EYES, MOUTH = 0.4, 0.33  # distance of the two
COLOURS = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255)])
GREY = 127

STRIDES = {8: (24.0, 64.0), 16: (64.0, 128.0), 32: (128.0, 256.0)}  # and the widths that each finds
SCORE = 0.9
REACH = 3  # blocks of a stride around a place in which the dots of its face lie
LEAST = 2e-4  # of these blocks that a dot must fill


@dataclass(frozen=True)
class Portrait:
    """A drawn face: its identity, the position of the nose (x, y), its width in pixels, and its clockwise
    rotation in degrees.
    """

    person: int
    nose: tuple[float, float]
    width: float
    turn: float = 0.0

    @property
    def points(self) -> NDArray[np.float64]:
        """Return the five points (5, 2), x and y."""
        turned = POINTS @ _rotation(self.turn).T
        return np.array(self.nose) + self.width * turned

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Return top, left, bottom and right of the box, which does not rotate with the face."""
        (x, y), half, tall = self.nose, self.width / 2, self.width * HALF_HEIGHT
        return y - tall, x - half, y + tall, x + half


def draw_portraits(size: tuple[int, int], *portraits: Portrait, ground: int = GREY) -> NDArray[np.uint8]:
    """Return an RGB image (H, W, 3) with the faces on grey."""
    picture = np.full((*size, 3), ground, np.float64)
    for portrait in portraits:
        _draw(picture, portrait)
    return picture.round().astype(np.uint8)


def save_antelopev2(folder: Path) -> Path:
    """Write the two networks into `folder` under the names of the real ones, and return it."""
    import onnx

    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(_detector(), str(folder / "scrfd_10g_bnkps.onnx"))
    onnx.save(_recogniser(), str(folder / "glintr100.onnx"))
    return folder


def _draw(picture: NDArray[np.float64], portrait: Portrait) -> None:
    """Draw an oval of four colours that are the person's own, and the dots."""
    colours = np.random.default_rng(portrait.person).uniform(50, 205, (4, 3))
    height, width, _ = picture.shape
    y, x = np.mgrid[:height, :width]
    across, down = np.moveaxis(np.stack([x, y], -1) - portrait.nose, -1, 0) / portrait.width
    oval = np.hypot(across * 2, down / HALF_HEIGHT)
    along, below = np.moveaxis(np.stack([across, down], -1) @ _rotation(portrait.turn), -1, 0)
    skin = colours[2 * (below > 0) + (along > 0)]
    _blend(picture, (1 - oval) * portrait.width / 2, skin)
    for point, colour in zip(portrait.points, COLOURS, strict=True):
        distance = np.hypot(x - point[0], y - point[1])
        _blend(picture, DOT * portrait.width - distance, colour)


def _blend(picture: NDArray[np.float64], inside: NDArray[np.float64], colour: NDArray[Any]) -> None:
    """Lay a colour over the image where `inside`, in pixels, is positive; the edge is one pixel wide."""
    cover = np.clip(inside + 0.5, 0, 1)[..., None]
    picture += cover * (colour - picture)


def _rotation(turn: float) -> NDArray[np.float64]:
    sine, cosine = math.sin(math.radians(turn)), math.cos(math.radians(turn))
    return np.array([[cosine, -sine], [sine, cosine]])


@dataclass(frozen=True)
class _Value:
    """The output of a node, to calculate with: every operator adds a node."""

    graph: _Graph
    name: str

    def __add__(self, other: Operand) -> _Value:
        return self.graph.add("Add", self, other)

    def __sub__(self, other: Operand) -> _Value:
        return self.graph.add("Sub", self, other)

    def __mul__(self, other: Operand) -> _Value:
        return self.graph.add("Mul", self, other)

    def __truediv__(self, other: Operand) -> _Value:
        return self.graph.add("Div", self, other)

    def __lt__(self, other: Operand) -> _Value:
        return self.graph.add("Less", self, other)

    def __gt__(self, other: Operand) -> _Value:
        return self.graph.add("Greater", self, other)

    def __and__(self, other: _Value) -> _Value:
        return self.graph.add("And", self, other)

    def __abs__(self) -> _Value:
        return self.graph.add("Abs", self)

    def at_least(self, least: float) -> _Value:
        return self.graph.add("Max", self, least)

    def channels(self, first: int, last: int) -> _Value:
        """Return channels `first` to `last`, not included, of (1, C, H, W)."""
        return self.graph.add("Slice", self, [first], [last], [1])

    def split(self) -> list[_Value]:
        """Return the channels of five, each (1, 1, H, W)."""
        return [self.channels(number, number + 1) for number in range(5)]

    def pooled(self, side: int, before: int, after: int, step: int) -> _Value:
        """Return the means of squares, with zeros around."""
        pads = [before, before, after, after]
        return self.graph.add(
            "AveragePool", self, kernel_shape=[side] * 2, strides=[step] * 2, pads=pads, count_include_pad=1
        )

    def coordinates(self, axis: int, step: float = 1.0) -> _Value:
        """Return 0, `step`, 2 `step`, … along an axis of (1, C, H, W)."""
        length = self.graph.add(
            "Squeeze", self.graph.add("Gather", self.graph.add("Shape", self), [axis]), axes=[0]
        )
        numbers = self.graph.add("Cast", self.graph.add("Range", 0, length, 1), to=1)
        return self.graph.add("Reshape", numbers * step, [1, 1, 1, -1] if axis == 3 else [1, 1, -1, 1])


Operand = _Value | float


class _Graph:
    """ONNX nodes in the order in which they were added, each with one output."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def add(self, kind: str, *inputs: Any, **attributes: Any) -> _Value:
        """Add a node; inputs are values, names, or numbers to be kept as weights."""
        from onnx import helper

        output = f"{kind}{len(self.nodes)}"
        names = [self._name(one) for one in inputs]
        self.nodes.append(helper.make_node(kind, names, [output], **attributes))
        return _Value(self, output)

    def _name(self, one: Any) -> str:
        from onnx import numpy_helper

        if isinstance(one, _Value | str):
            return one.name if isinstance(one, _Value) else one
        name, array = f"weight{len(self.weights)}", np.asarray(one)
        kept = array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
        self.weights.append(numpy_helper.from_array(kept, name))
        return name

    def model(self, shape: Sequence[int | str], outputs: Mapping[str, tuple[_Value, int]]) -> Any:
        """Return the model; `outputs` gives, by name, rows and how many values each has."""
        from onnx import TensorProto, checker, helper

        for name, (value, _) in outputs.items():
            self.nodes.append(helper.make_node("Identity", [value.name], [name]))
        given = helper.make_tensor_value_info("input.1", TensorProto.FLOAT, shape)
        made = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ("rows", values))
            for name, (_, values) in outputs.items()
        ]
        graph = helper.make_graph(self.nodes, "tiny", [given], made, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
        checker.check_model(model)
        return model


def _detector() -> Any:
    """Return a SCRFD: in each place the centroids of the dots around it,
    and whether they are a face of its own.
    """
    graph = _Graph()
    planes = _dot_planes(graph)
    levels = [_level(planes, stride, *widths) for stride, widths in STRIDES.items()]
    scores, boxes, points = zip(*levels, strict=True)
    rows = [*((one, 1) for one in scores), *((one, 4) for one in boxes), *((one, 10) for one in points)]
    names = ("448", "471", "494", "451", "474", "497", "454", "477", "500")
    return graph.model((1, 3, "?", "?"), dict(zip(names, rows, strict=True)))


def _dot_planes(graph: _Graph) -> _Value:
    """Return (1, 15, H, W): how much of a dot of each colour is here, and the same times x, and times y."""
    signs = COLOURS / 127.5 - 1
    # The input lies in -1 to 1: the pure colour gives 1, and what is less than half of it nothing.
    dots = graph.add("Relu", graph.add("Conv", "input.1", signs[:, :, None, None], np.full(5, -2.0)))
    return graph.add("Concat", dots, dots * dots.coordinates(3), dots * dots.coordinates(2), axis=1)


def _level(planes: _Value, stride: int, narrow: float, wide: float) -> tuple[_Value, _Value, _Value]:
    """Return scores, boxes and points of one stride: (2 H W, 1), (2 H W, 4) and (2 H W, 10)."""
    blocks = planes.pooled(stride, stride // 2, 0, stride)
    around = blocks.pooled(2 * REACH + 1, REACH, REACH, 1)
    mass = around.channels(0, 5)
    # Means of the dots' places, from the place of the anchor and in its stride, as SCRFD tells them.
    x, y = (
        (around.channels(first, first + 5) / mass.at_least(1e-6) - blocks.coordinates(axis, float(stride)))
        / float(stride)
        for first, axis in ((5, 3), (10, 2))
    )
    xs, ys = x.split(), y.split()
    width = _distance(xs[:2], ys[:2]) / EYES
    mouth = _distance(xs[3:], ys[3:]) / MOUTH
    face = (
        (planes.graph.add("ReduceMin", mass, axes=[1]) > LEAST)
        & (abs(xs[2]) < 0.5005)  # the nose is nearest to this anchor
        & (abs(ys[2]) < 0.5005)
        & (width > narrow / stride - 1e-4)
        & (width < wide / stride)
        & (abs(mouth / width.at_least(1e-6) - 1.0) < 0.2)  # all of one face
    )
    score = planes.graph.add("Cast", face, to=1) * SCORE
    half, tall = width * 0.5, width * HALF_HEIGHT
    box = [half - xs[2], tall - ys[2], half + xs[2], tall + ys[2]]
    points = [one for pair in zip(xs, ys, strict=True) for one in pair]
    return _rows([score, score * 0.5], 1), _rows(box * 2, 4), _rows(points * 2, 10)


def _distance(xs: Sequence[_Value], ys: Sequence[_Value]) -> _Value:
    across, down = xs[1] - xs[0], ys[1] - ys[0]
    return across.graph.add("Sqrt", across * across + down * down)


def _rows(planes: Sequence[_Value], values: int) -> _Value:
    """Return planes of the two anchors as one row for each anchor of each place."""
    graph = planes[0].graph
    together = graph.add("Transpose", graph.add("Concat", *planes, axis=1), perm=[0, 2, 3, 1])
    return graph.add("Reshape", together, [-1, values])


def _recogniser() -> Any:
    """Return an ArcFace: the mean colours of 8 x 8 blocks as 512 numbers,
    through cosines of 192 frequencies.
    """
    graph = _Graph()
    blocks = graph.add("AveragePool", "input.1", kernel_shape=[14, 14], strides=[14, 14])
    frequency, place = np.mgrid[:192, :512]
    cosines = np.cos(np.pi * (frequency + 1) * (place + 0.5) / 512)
    embedding = graph.add("MatMul", graph.add("Flatten", blocks, axis=1), cosines)
    return graph.model(("None", 3, 112, 112), {"1333": (embedding, 512)})
