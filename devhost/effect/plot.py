"""The results as one plot: a row of two panels for each model.

Left: the share of images with exactly one object, by size and method. Right: that share against the
sharpness, by the end of the method. Colours are those of Okabe and Ito, which can be distinguished with any
colour vision; each method also has its own mark.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .methods import DRAWN, METHODS, PLAIN, SETTLED
from .plan import CURVE_SIZE, MODELS, SIZES
from .rows import CurvePoint, Figures, ObjectRow

WIDTH, HEIGHT, DOTS = 8.4, 3.3, 160  # inches of a line, dots an inch
COLOURS = ("#000000", "#E69F00", "#56B4E9", "#0072B2", "#CC79A7", "#009E73", "#D55E00")
MARKS = ("o", "s", "^", "D", "v", "P", "X")
CURVE_STYLES = {"Deep Shrink": ("#D55E00", 5), "RAU-Net": ("#009E73", -21), SETTLED: ("#888888", 24)}
"""Colour, and how many points above the line its ends are written."""
APART = 0.11
"""Between the methods of one size, where 1 is between sizes."""


def draw_plot(found: Figures, file: Path) -> None:
    """Write the plot as PNG."""
    models = list(dict.fromkeys(row.model for row in found.objects if row.model != DRAWN))
    figure = Figure(figsize=(WIDTH, HEIGHT * max(1, len(models))), dpi=DOTS, layout="constrained")
    panels = figure.subplots(max(1, len(models)), 2, squeeze=False)
    for (left, right), model in zip(panels, models, strict=False):
        rows = [row for row in found.objects if row.model == model]
        points = [point for point in found.curves if point.row.model == model]
        draw_shares(left, rows, model)
        draw_curves(right, rows, points, model)
    figure.savefig(file)


def draw_shares(axes: Axes, rows: Sequence[ObjectRow], model: str) -> None:
    """Draw the share of one object with its interval, methods side by side at each size."""
    sizes = [size for size in SIZES if any(row.size == size for row in rows)]
    methods = [method for method in METHODS if any(row.method == method for row in rows)]
    for number, method in enumerate(methods):
        chosen = [row for row in rows if row.method == method]
        places = [sizes.index(row.size) + (number - (len(methods) - 1) / 2) * APART for row in chosen]
        _bars(axes, places, chosen, method)
    axes.set(
        title=f"{MODELS[model]}: pictures with exactly one object", xlabel="size, times the trained side"
    )
    axes.set_xticks(range(len(sizes)), sizes)
    axes.set_ylim(0, 1.02)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize="small", loc="center left")


def draw_curves(axes: Axes, rows: Sequence[ObjectRow], points: Sequence[CurvePoint], model: str) -> None:
    """Draw the share of one object against the sharpness: a line through the ends of each curve,
    a mark for each method.
    """
    for curve in dict.fromkeys(point.curve for point in points):
        chosen = [point for point in points if point.curve == curve]
        across, up = [_sharpness(point.row) for point in chosen], [point.row.one for point in chosen]
        colour, above = CURVE_STYLES[curve]
        axes.plot(across, up, ".-", color=colour, label=f"{curve}, until")
        for x, y, point in zip(across, up, chosen, strict=True):
            axes.annotate(
                f"{point.end:g}",
                (x, y),
                (0, above),
                textcoords="offset points",
                fontsize="x-small",
                color=colour,
                rotation=90,  # ends lie close together
                horizontalalignment="center",
            )
    for row in rows:
        if row.size == CURVE_SIZE:
            _bars(axes, [_sharpness(row)], [row], row.method)
    axes.set(
        title=f"{MODELS[model]}: one object and sharpness at {CURVE_SIZE}",
        xlabel="edge, times that of drawn scenes",
    )
    axes.set_ylim(0, 1.27)  # room for the ends above the line
    axes.set_yticks((0, 0.2, 0.4, 0.6, 0.8, 1))
    axes.grid(alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    curves = [pair for pair in zip(handles, labels, strict=True) if pair[1].endswith("until")]
    if curves:
        axes.legend(*zip(*curves, strict=True), fontsize="small", loc="lower left")


def _bars(axes: Axes, places: Sequence[float], rows: Sequence[ObjectRow], method: str) -> None:
    number = list(METHODS).index(method)
    below = [max(0.0, row.one - row.one_interval[0]) for row in rows]  # a rounding away from 0 or 1 is none
    above = [max(0.0, row.one_interval[1] - row.one) for row in rows]
    axes.errorbar(
        places, [row.one for row in rows], (below, above), fmt=MARKS[number], color=COLOURS[number],
        markersize=4.5 if method == PLAIN else 5, capsize=2, linewidth=1, label=method,
    )  # fmt: skip


def _sharpness(row: ObjectRow) -> float:
    return row.edge if row.edge_ratio is None else row.edge_ratio
