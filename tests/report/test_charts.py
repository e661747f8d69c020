"""What charts leave out, and how they are drawn."""

import itertools
import math
import re
import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrt5_jax.evaluation.estimates import Estimate
from mrt5_jax.evaluation.inspection import Tally
from mrt5_jax.report.charts import (
    CategoryChart,
    Chart,
    Point,
    PointChart,
    Series,
    ShareChart,
    chart_table,
    pareto_front,
    thinned,
)
from mrt5_jax.report.drawing import draw_chart, inline_svg

LABELS = ("_hidden", "$a_{$", "日本", "<b>&\"'", "x" * 60, 'id="#010203"')
STYLES = ("line", "level", "point", "samples", "front")
POINTS = [Point(0.0, 1.0, 0.1, 0.2), Point(1.0, 0.5), Point(2.0, math.nan)]
CHARTS: list[Chart] = [
    PointChart("points", "t", "x", "y", [Series(LABELS[n], POINTS, style, n) for n, style in enumerate(STYLES)]),
    CategoryChart(
        *("categories", "t", "language", "rate", LABELS[:3]),
        {label: {LABELS[0]: Estimate(0.5, 0.1), LABELS[2]: Estimate(math.nan)} for label in LABELS},
    ),
    ShareChart(
        *("shares", "t", "kind", "text", ["vowel", "space"]),
        {label: {"vowel": Tally(4, 1), **({"space": Tally(2, 2)} if n else {})} for n, label in enumerate(LABELS)},
    ),
]


@given(st.lists(st.integers(), max_size=50), st.integers(1, 10))
def test_thinned_keeps_the_last_and_even_distances(items: list[int], most: int) -> None:
    found = thinned(list(enumerate(items)), most)
    assert len(found) <= most
    assert found[-1:] == list(enumerate(items))[-1:]
    steps = {after[0] - before[0] for before, after in itertools.pairwise(found)}
    assert len(steps) <= 1
    if len(items) <= most:
        assert [item for _, item in found] == items


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=20))
def test_the_front_is_what_nothing_beats(values: list[tuple[int, int]]) -> None:
    points = [Point(float(x), float(y)) for x, y in values]
    front = pareto_front([*points, Point(math.nan, 0.0), Point(0.0, math.nan)])
    beaten = {
        one for one in points for other in points if other.x <= one.x and other.y <= one.y and other[:2] != one[:2]
    }
    assert front == sorted(set(points) - beaten)


def test_tables_have_every_number() -> None:
    headings, rows = chart_table(CHARTS[0])
    assert headings == ["", "x", "y", "standard error of x", "standard error of y"]
    assert rows[0] == [LABELS[0], 0, 1.0, 0.1, 0.2]
    assert len(rows) == len(STYLES) * len(POINTS)
    assert chart_table(CHARTS[1]).rows[0] == [LABELS[0], LABELS[0], 0.5, 0.1]
    assert chart_table(CHARTS[2]).rows[:2] == [[LABELS[0], "vowel", 4, 1, 0.25], [LABELS[1], "vowel", 4, 1, 0.25]]


@pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: chart.name)
def test_drawings(chart: Chart) -> None:
    """Whatever the labels: XML and a PNG, the same each time; in a page neither addresses nor foreign ids."""
    pytest.importorskip("matplotlib", reason="needs matplotlib: the extra report")
    drawn = draw_chart(chart)
    assert draw_chart(chart) == drawn
    assert drawn.png.startswith(b"\x89PNG")
    texts = [element.text for element in ET.fromstring(drawn.svg).iter("{http://www.w3.org/2000/svg}text")]
    assert LABELS[1] in texts, "letters stay letters, also those of formulas"
    element = inline_svg(drawn.svg, chart.name, "label")
    root = ET.fromstring(element.replace("xlink:href", "href"))
    assert (root.get("role"), root.get("aria-label"), root.get("width")) == ("img", "label", None)
    tags = "".join(re.findall(r"<[^>]*>", element))
    assert "://" not in tags
    assert "currentColor" in tags
    assert "#010203" not in tags
    names = {one.get("id") for one in root.iter() if one.get("id")}
    assert all(name.startswith(f"{chart.name}-") for name in names)
    for reference in re.findall(r'(?:href="#|url\(#)([^")]+)', tags):
        assert reference in names


def axes_of(chart: Chart, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What is drawn of a chart, before it becomes a picture."""
    figure = pytest.importorskip("matplotlib.figure", reason="needs matplotlib: the extra report")
    drawn = []

    def savefig(self: Any, file: Any, **_: Any) -> None:
        drawn.append(self.axes[0])
        file.write(b"<svg>")

    monkeypatch.setattr(figure.Figure, "savefig", savefig)
    draw_chart(chart)
    return drawn[0]


def test_points_are_drawn_where_the_table_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """All styles, with their errors; a number that is none leaves a gap."""
    x, y = zip(*(point[:2] for point in POINTS), strict=True)
    axes = axes_of(CHARTS[0], monkeypatch)
    assert len(axes.lines) == len(STYLES) - 1
    for line in axes.lines:
        np.testing.assert_array_equal(np.asarray(line.get_xdata(), float), x)
        np.testing.assert_array_equal(np.asarray(line.get_ydata(), float), y)
    (samples,) = (one.get_offsets() for one in axes.collections if not hasattr(one, "get_segments"))
    np.testing.assert_array_equal(np.ma.filled(samples, np.nan)[:2], [point[:2] for point in POINTS[:2]])
    across, upright = (one.get_segments()[0] for one in axes.collections if hasattr(one, "get_segments"))
    np.testing.assert_allclose(across, [[-0.1, 1.0], [0.1, 1.0]])
    np.testing.assert_allclose(upright, [[0.0, 0.8], [0.0, 1.2]])


def test_categories_and_shares_are_drawn_where_the_table_says(monkeypatch: pytest.MonkeyPatch) -> None:
    axes = axes_of(CHARTS[1], monkeypatch)
    assert len(axes.lines) == len(LABELS)
    for line in axes.lines:
        np.testing.assert_array_equal(np.asarray(line.get_xdata(), float), [0.5, math.nan])
    for errors in axes.collections:
        np.testing.assert_allclose(errors.get_segments()[0][:, 0], [0.4, 0.6])
    (mesh,) = axes_of(CHARTS[2], monkeypatch).collections
    shares = np.ma.filled(mesh.get_array(), np.nan).reshape(2, len(LABELS))
    np.testing.assert_array_equal(shares, [[0.25] * 6, [math.nan, 1, 1, 1, 1, 1]])
