"""What a chart says, before it is drawn: its series, and the same numbers as a table."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeVar

from mrt5_jax.evaluation.estimates import Estimate
from mrt5_jax.evaluation.inspection import Tally

Cell = str | int | float
"""Of a table: a text, or a number in full precision; NaN where nothing was counted."""

SeriesStyle = Literal["line", "level", "point", "samples", "front"]
"""line: joined points. level: the same, dashed. point: a mark with its errors. samples: many small marks. front: a
dotted line that is no system's."""

_Item = TypeVar("_Item")


class Point(NamedTuple):
    """A point of a chart."""

    x: float
    y: float
    x_error: float = math.nan
    """Standard error; NaN where none is known."""
    y_error: float = math.nan
    name: str = ""
    """What the point is of, where its series has several things."""


@dataclasses.dataclass(frozen=True)
class Series:
    """Points that belong together."""

    label: str
    points: Sequence[Point]
    style: SeriesStyle
    look: int
    """Chooses colour, mark and dashes; series of the same thing have the same."""


@dataclasses.dataclass(frozen=True)
class PointChart:
    """A chart of numbers against numbers."""

    name: str
    """Of its files, without an ending."""
    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    note: str = ""
    """What there is to know to read it."""


@dataclasses.dataclass(frozen=True)
class CategoryChart:
    """A chart of numbers by category, such as languages."""

    name: str
    title: str
    category_label: str
    value_label: str
    categories: Sequence[str]
    series: Mapping[str, Mapping[str, Estimate]]
    """Label -> category -> number with its standard error."""
    note: str = ""


@dataclasses.dataclass(frozen=True)
class ShareChart:
    """A chart of what share of some things is deleted, rows by columns, as shades."""

    name: str
    title: str
    row_label: str
    column_label: str
    rows: Sequence[str]
    columns: Mapping[str, Mapping[str, Tally]]
    """Column -> row -> how many things there are, and how many are deleted."""
    note: str = ""


Chart = PointChart | CategoryChart | ShareChart


class ChartTable(NamedTuple):
    """The numbers of a chart, or others, in full precision."""

    headings: list[str]
    rows: list[list[Cell]]


def chart_table(chart: Chart) -> ChartTable:
    """Returns every number that a chart draws."""
    if isinstance(chart, PointChart):
        return _point_table(chart)
    if isinstance(chart, CategoryChart):
        rows: list[list[Cell]] = [
            [label, category, estimates[category].value, estimates[category].error]
            for label, estimates in chart.series.items()
            for category in chart.categories
            if category in estimates
        ]
        return ChartTable(["", chart.category_label, chart.value_label, "standard error"], rows)
    rows = [
        [column, row, tally.total, tally.deleted, tally.rate]
        for column, tallies in chart.columns.items()
        for row, tally in tallies.items()
    ]
    return ChartTable([chart.column_label, chart.row_label, "all", "deleted", "deleted share"], rows)


def _point_table(chart: PointChart) -> ChartTable:
    points = [point for series in chart.series for point in series.points]
    has_names = any(point.name for point in points)
    has_errors = any(not math.isnan(point.x_error) or not math.isnan(point.y_error) for point in points)
    headings = ["", *([""] if has_names else []), chart.x_label, chart.y_label]
    headings += [f"standard error of {label}" for label in (chart.x_label, chart.y_label) if has_errors]
    rows: list[list[Cell]] = []
    for series in chart.series:
        for point in series.points:
            names = [series.label, *([point.name] if has_names else [])]
            errors = [point.x_error, point.y_error] if has_errors else []
            rows.append([*names, _number(point.x), point.y, *errors])
    return ChartTable(headings, rows)


def _number(value: float) -> int | float:
    """Steps are whole."""
    return int(value) if math.isfinite(value) and value == int(value) else value


def thinned(items: Sequence[_Item], most: int) -> list[_Item]:
    """Returns every k-th item, the last among them, with the least k that leaves at most `most`."""
    step = max(1, math.ceil(len(items) / most))
    return list(items[::-step])[::-1]


def pareto_front(points: Iterable[Point]) -> list[Point]:
    """Returns the points of which no other one is at most as far right and at most as high, by x."""
    known = [point for point in points if not math.isnan(point.x) and not math.isnan(point.y)]
    front: list[Point] = []
    for point in sorted(known, key=lambda point: (point.x, point.y)):
        if not front or point.y < front[-1].y:
            front.append(point)
    return front
