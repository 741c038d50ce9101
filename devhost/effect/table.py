"""The results as Markdown and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from .methods import DRAWN, SETTLED
from .plan import CURVE_SIZE, SETTINGS, SIZES, TRAINED_SIZE
from .rows import CurvePoint, Figures, Interval, ObjectRow
from .statistics import Change

Column = tuple[str, Callable[[Any], str]]

LEGEND = """\
Sampled with {settings}; picture i has the same noise and prompt whatever the method. Sizes are multiples of the trained side of
{trained} latent pixels; 1:2 is {wide[0]} x {wide[1]}. Intervals are 95 %, Wilson's for shares and Student's for means.

*one*: exactly one object; *whole*: one, in its true shape; *edge*: mean gradient of the steepest pixels, and its ratio to drawn scenes
of the trained size; *residual noise*: noise left in the background, which makes edges seem sharper; *composition*, *patches*: Fréchet distance
from {reference} drawn scenes, of the whole at the trained size and of the patches that an object's border crosses, smaller is nearer;
*gained / lost*: pictures that became or ceased to be whole beside plain, and the exact test's probability. The rows *drawn scenes*
are real ones at that size: what the counter and the distances say where nothing is wrong."""
SEVERAL_OBJECTS = """\
The prompt names two to five objects. *counted / asked*: mean over pictures; *exact*: pictures with as many as asked; *gained / lost*:
those that became or ceased to be exact beside plain. A cure that merges or deletes objects has more pictures with *fewer*."""
CURVES = f"""\
At {CURVE_SIZE}, by the share of the sampling at which the method ends. Deep Shrink has its automatic settings otherwise; RAU-Net has its
published blocks and phases, the last of which ends here. *{SETTLED}* is a bound for whatever composes on the small grid until then and
leaves the rest to plain: its pictures begin at the end as drawn scenes of the trained size, enlarged and with noise."""


def as_markdown(found: Figures, heading: str) -> str:
    """Return the tables under a heading."""
    legend = LEGEND.format(
        settings=SETTINGS, trained=TRAINED_SIZE[0], wide=SIZES["1:2"], reference=found.reference
    )
    parts = [f"# {heading}", legend, _table(OBJECT_COLUMNS, found.objects)]
    if found.several_objects:
        parts += ["## Several objects", SEVERAL_OBJECTS, _table(CROWD_COLUMNS, found.several_objects)]
    if found.curves:
        parts += ["## When to end", CURVES, _table(CURVE_COLUMNS, found.curves)]
    return "\n\n".join(parts) + "\n"


def as_json(found: Figures, about: Mapping[str, Any]) -> str:
    """Return `about` and all rows; a change compared with plain is {"gained", "lost", "p"}."""
    return json.dumps({**about, "settings": SETTINGS, **_plain(found)}, indent=1) + "\n"


def _plain(value: Any) -> Any:
    """Return dataclasses as mappings, with the probability of each change."""
    if isinstance(value, Change):
        return {**asdict(value), "p": value.p}
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _table(columns: Sequence[Column], rows: Iterable[Any]) -> str:
    lines = [[title for title, _ in columns], ["---"] * len(columns)]
    lines += [[show(row) for _, show in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _share(value: float, interval: Interval) -> str:
    return f"{value:.3f} ({interval[0]:.2f} to {interval[1]:.2f})"


def _number(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _change(value: Change | None) -> str:
    return "" if value is None else f"+{value.gained} / -{value.lost}, {value.p:.1g}"


def _edge(row: ObjectRow) -> str:
    return _number(row.edge) + (f" ({row.edge_ratio:.2f})" if row.edge_ratio is not None else "")


def _seconds(row: ObjectRow) -> str:
    if row.model == DRAWN:
        return ""
    return _number(row.cpu_seconds) + (f" ({row.cpu_ratio:.2f})" if row.cpu_ratio is not None else "")


def _point(show: Callable[[ObjectRow], str]) -> Callable[[CurvePoint], str]:
    return lambda point: show(point.row)


_WHERE: list[Column] = [
    ("model", lambda row: row.model if row.model != DRAWN else ""),
    ("size", lambda row: row.size),
    ("method", lambda row: row.method),
    ("n", lambda row: str(row.n)),
]
_FOUND: list[tuple[str, Callable[[ObjectRow], str]]] = [
    ("one", lambda row: _share(row.one, row.one_interval)),
    ("whole", lambda row: _share(row.whole, row.whole_interval)),
    ("mean count", lambda row: _number(row.mean_count)),
    ("edge (ratio)", _edge),
    ("residual noise", lambda row: _number(row.residual_noise, 3)),
    ("composition", lambda row: _number(row.composition)),
    ("patches", lambda row: _number(row.patches)),
    ("gained / lost, p", lambda row: _change(row.whole_change)),
    ("CPU s a picture (to plain)", _seconds),
]
OBJECT_COLUMNS: list[Column] = [*_WHERE, *_FOUND]
CURVE_COLUMNS: list[Column] = [
    ("model", _point(lambda row: row.model)),
    ("method", lambda point: point.curve),
    ("end", lambda point: f"{point.end:g}"),
    ("n", _point(lambda row: str(row.n))),
    *((title, _point(show)) for title, show in _FOUND),
]
CROWD_COLUMNS: list[Column] = [
    *_WHERE,
    ("counted / asked", lambda row: _share(row.ratio, row.ratio_interval)),
    ("exact", lambda row: _share(row.exact, row.exact_interval)),
    ("fewer", lambda row: _number(row.fewer)),
    ("more", lambda row: _number(row.more)),
    ("gained / lost, p", lambda row: _change(row.exact_change)),
]
