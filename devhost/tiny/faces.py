"""Drawn faces, and an antelopev2 that finds them: two ONNX networks with weights written by hand.

Their inputs and outputs are those of the real files, so that the real insightface and onnxruntime run them: SCRFD with
five points, two anchors a place and strides of 8, 16 and 32; ArcFace from 112 x 112 pixels to 512 numbers. They know only
the faces of `draw_portraits`, whose five points are dots in five pure colours. The boxes and points are computed from the
dots, so they follow a face to any place, size and angle; faces of 24 to 256 pixels are found, smaller than the square that
the detector looks at, as with the real one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
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


@dataclass(frozen=True)
class Portrait:
    """A drawn face: who it is, where the nose is (x, y), its width in pixels, and its turn clockwise in degrees."""

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
        """Return left, top, right and bottom, which do not turn with the face."""
        (x, y), half, tall = self.nose, self.width / 2, self.width * HALF_HEIGHT
        return x - half, y - tall, x + half, y + tall


def draw_portraits(size: tuple[int, int], *portraits: Portrait, ground: int = GREY) -> NDArray[np.uint8]:
    """Return an RGB picture (H, W, 3) with the faces on grey."""
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
    """Lay a colour over the picture where `inside`, in pixels, is positive; the edge is one pixel wide."""
    cover = np.clip(inside + 0.5, 0, 1)[..., None]
    picture += cover * (colour - picture)


def _rotation(turn: float) -> NDArray[np.float64]:
    sine, cosine = math.sin(math.radians(turn)), math.cos(math.radians(turn))
    return np.array([[cosine, -sine], [sine, cosine]])


class _Graph:
    """ONNX nodes in the order in which they were added, each with one output that is named after its number."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def add(self, kind: str, *inputs: Any, **attributes: Any) -> str:
        """Add a node; inputs are names or numbers."""
        from onnx import helper

        output = f"{kind}{len(self.nodes)}"
        names = [one if isinstance(one, str) else self._constant(one) for one in inputs]
        self.nodes.append(
            helper.make_node(kind, names, [output], name=f"Node_{len(self.nodes)}", **attributes)
        )
        return output

    def _constant(self, value: Any) -> str:
        from onnx import numpy_helper

        name = f"weight{len(self.weights)}"
        array = np.asarray(value)
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def model(
        self, shape: Sequence[int | str], outputs: Mapping[str, tuple[str, Sequence[int | str]]]
    ) -> Any:
        """Return the model; `outputs` names the nodes and shapes of its outputs."""
        from onnx import TensorProto, checker, helper

        for name, (node, _) in outputs.items():
            self.nodes.append(helper.make_node("Identity", [node], [name]))
        given = helper.make_tensor_value_info("input.1", TensorProto.FLOAT, shape)
        made = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, (_, shape) in outputs.items()
        ]
        graph = helper.make_graph(self.nodes, "tiny", [given], made, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
        checker.check_model(model)
        return model


def _detector() -> Any:
    """Return a SCRFD: in each place the centroids of the dots around it, and whether they are a face of its own."""
    graph = _Graph()
    planes = _dot_planes(graph)
    levels = [_level(graph, planes, stride, *widths) for stride, widths in STRIDES.items()]
    kinds = zip(*levels, strict=True)  # scores, boxes, points, each of three strides
    names = iter(("448", "471", "494", "451", "474", "497", "454", "477", "500"))
    outputs = {
        next(names): (node, ("?", values))
        for nodes, values in zip(kinds, (1, 4, 10), strict=True)
        for node in nodes
    }
    return graph.model((1, 3, "?", "?"), outputs)


def _dot_planes(graph: _Graph) -> str:
    """Return (1, 15, H, W): the five colours' places, and the same times x, and times y."""
    signs = COLOURS / 127.5 - 1
    # Colours lie in -1 to 1: a dot gives 1, half of it 0 to 1/2, everything that is less pure nothing.
    dots = graph.add("Relu", graph.add("Conv", "input.1", signs[:, :, None, None], np.full(5, -2.0)))
    x, y = (_coordinates(graph, dots, axis) for axis in (3, 2))
    return graph.add("Concat", dots, graph.add("Mul", dots, x), graph.add("Mul", dots, y), axis=1)


def _coordinates(graph: _Graph, like: str, axis: int, step: float = 1.0) -> str:
    """Return the coordinate along an axis of (1, C, H, W), as something to calculate with."""
    shape = graph.add("Shape", like)
    length = graph.add("Squeeze", graph.add("Gather", shape, np.array([axis])), axes=[0])
    numbers = graph.add("Range", np.array(0), length, np.array(1))
    places = graph.add("Mul", graph.add("Cast", numbers, to=1), np.array(step))
    return graph.add("Reshape", places, np.array([1, 1] + ([1, -1] if axis == 3 else [-1, 1])))


def _level(graph: _Graph, planes: str, stride: int, narrow: float, wide: float) -> tuple[str, str, str]:
    """Return scores, boxes and points of one stride: (2 H W, 1), (2 H W, 4) and (2 H W, 10)."""
    blocks = graph.add(
        "AveragePool", planes, kernel_shape=[stride] * 2, strides=[stride] * 2,
        pads=[stride // 2, stride // 2, 0, 0], count_include_pad=1,
    )  # fmt: skip
    around = graph.add(
        "AveragePool", blocks, kernel_shape=[2 * REACH + 1] * 2, pads=[REACH] * 4, count_include_pad=1
    )
    mass, x, y = (
        graph.add("Slice", around, np.array([start]), np.array([start + 5]), np.array([1]))
        for start in (0, 5, 10)
    )
    safe = graph.add("Max", mass, np.array(1e-6))
    x, y = (
        graph.add("Sub", graph.add("Div", total, safe), _coordinates(graph, blocks, axis, float(stride)))
        for total, axis in ((x, 3), (y, 2))
    )
    xs, ys = list(_channels(graph, x)), list(_channels(graph, y))
    width = graph.add("Div", _distance(graph, xs[:2], ys[:2]), np.array(EYES))
    mouth = graph.add("Div", _distance(graph, xs[3:], ys[3:]), np.array(MOUTH))
    alike = graph.add(
        "Abs",
        graph.add("Sub", graph.add("Div", mouth, graph.add("Max", width, np.array(1.0))), np.array(1.0)),
    )
    conditions = [
        graph.add("Greater", graph.add("ReduceMin", mass, axes=[1]), np.array(2e-4)),
        graph.add("Less", graph.add("Abs", xs[2]), np.array(stride / 2 + 0.01)),
        graph.add("Less", graph.add("Abs", ys[2]), np.array(stride / 2 + 0.01)),
        graph.add("Not", graph.add("Less", width, np.array(narrow))),
        graph.add("Less", width, np.array(wide)),
        graph.add("Less", alike, np.array(0.2)),
    ]
    face = conditions[0]
    for condition in conditions[1:]:
        face = graph.add("And", face, condition)
    score = graph.add("Mul", graph.add("Cast", face, to=1), np.array(SCORE))
    half, tall = (graph.add("Mul", width, np.array(part)) for part in (0.5, HALF_HEIGHT))
    edges = [
        graph.add("Sub", half, xs[2]), graph.add("Sub", tall, ys[2]),
        graph.add("Add", half, xs[2]), graph.add("Add", tall, ys[2]),
    ]  # fmt: skip
    points = [one for pair in zip(xs, ys, strict=True) for one in pair]
    return (
        _rows(graph, [score, graph.add("Mul", score, np.array(0.5))], 1),
        _rows(graph, _in_strides(graph, edges, stride) * 2, 4),
        _rows(graph, _in_strides(graph, points, stride) * 2, 10),
    )


def _channels(graph: _Graph, plane: str) -> Iterator[str]:
    for number in range(5):
        yield graph.add("Slice", plane, np.array([number]), np.array([number + 1]), np.array([1]))


def _distance(graph: _Graph, xs: Sequence[str], ys: Sequence[str]) -> str:
    squares = [
        graph.add("Mul", side, side)
        for side in (graph.add("Sub", xs[1], xs[0]), graph.add("Sub", ys[1], ys[0]))
    ]
    return graph.add("Sqrt", graph.add("Add", *squares))


def _in_strides(graph: _Graph, planes: Sequence[str], stride: int) -> list[str]:
    return [graph.add("Div", plane, np.array(float(stride))) for plane in planes]


def _rows(graph: _Graph, planes: Sequence[str], values: int) -> str:
    """Return planes of the two anchors as one row for each anchor of each place."""
    together = graph.add("Transpose", graph.add("Concat", *planes, axis=1), perm=[0, 2, 3, 1])
    return graph.add("Reshape", together, np.array([-1, values]))


def _recogniser() -> Any:
    """Return an ArcFace: the mean colours of 8 x 8 blocks as 512 numbers, through cosines of 192 frequencies."""
    graph = _Graph()
    blocks = graph.add("AveragePool", "input.1", kernel_shape=[14, 14], strides=[14, 14])
    row = graph.add("Flatten", blocks, axis=1)
    frequency, place = np.mgrid[:192, :512]
    cosines = np.cos(np.pi * (frequency + 1) * (place + 0.5) / 512)
    return graph.model(("None", 3, 112, 112), {"1333": (graph.add("MatMul", row, cosines), ("None", 512))})
