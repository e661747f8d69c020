"""Charts as SVG and PNG, by matplotlib, which is imported where a chart is drawn."""

import io
import math
import re
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mrt5_jax.errors import UserError
from mrt5_jax.report.charts import CategoryChart, Chart, PointChart, Series, ShareChart

_INK = "#010203"
"""Of text and axes; in a page the colour of the text around the chart takes its place."""
_LOOKS = (
    ("#0072b2", "o", "-"),
    ("#d55e00", "s", "--"),
    ("#009e73", "^", "-."),
    ("#cc79a7", "D", ":"),
    ("#e69f00", "v", "-"),
    ("#56b4e9", "P", "--"),
)
"""Colours of Okabe and Ito, told apart with every kind of colour blindness, each with a mark and dashes of its own."""

_WIDTH = 4.6
"""Inches: narrow, so that letters can be read where the chart fills a phone."""
_LONGEST_LABEL = 48
_MOST_LABELLED = 8
"""Columns up to which the shares are written into the cells."""
_MOST_UPRIGHT = 3
"""Columns of shares up to which their names are not turned."""
_DOTS_PER_INCH = 200

_Handles = list[tuple[str, Any]]
"""Labels of a legend, each with what is drawn beside it."""


class ChartFiles(NamedTuple):
    """A chart as it lies beside the page."""

    svg: str
    png: bytes


def check_drawing() -> None:
    """Refuses to begin where charts cannot be drawn.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UserError(
            "the report's charts need matplotlib, which the extra report has: pip install 'mrt5-jax[report]'"
        ) from None


def draw_chart(chart: Chart) -> ChartFiles:
    """Draws a chart; the same chart gives the same bytes.

    Raises:
        UserError: matplotlib is not installed.
    """
    check_drawing()
    import matplotlib
    from matplotlib.figure import Figure

    settings: Any = {
        **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK),
        **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon", "text.parse_math"), False),
        "axes.facecolor": "none",
        "font.size": 10,
        "svg.fonttype": "none",
        "svg.hashsalt": chart.name,
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        # Glyphs that the font lacks are the reader's font's in SVG; labels too wide for the axes are in the table.
        warnings.simplefilter("ignore", UserWarning)
        figure = Figure(figsize=(_WIDTH, _height(chart)), layout="constrained")
        axes = figure.subplots()
        if isinstance(chart, PointChart):
            handles = _draw_points(axes, chart)
        elif isinstance(chart, CategoryChart):
            handles = _draw_categories(axes, chart)
        else:
            handles = _draw_shares(axes, chart)
        if handles:
            labels, drawn = [label for label, _ in handles], [artist for _, artist in handles]
            figure.legend(drawn, labels, loc="outside lower left", ncols=1, fontsize=9)
        svg, png = io.BytesIO(), io.BytesIO()
        figure.savefig(svg, format="svg", facecolor="none", dpi=_DOTS_PER_INCH, metadata={"Date": None})
        figure.savefig(png, format="png", facecolor="white", dpi=_DOTS_PER_INCH)
    return ChartFiles(svg.getvalue().decode(), png.getvalue())


def inline_svg(svg: str, name: str, label: str) -> str:
    """Returns a drawing as an element of a page: no ids of other drawings, no addresses, in the page's text colour.

    Args:
        name: begins its ids.
        label: says what it is to those who do not see it; no markup in it.
    """
    root, _, content = svg[svg.index("<svg") :].partition(">")
    root = re.sub(r'\s(?:xmlns(?::\w+)?|width|height|version)="[^"]*"', "", root)
    content = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", content, flags=re.DOTALL)

    def own(tag: re.Match[str]) -> str:
        return re.sub(r'(\sid="|href="#|url\(#)', rf"\g<1>{name}-", tag[0]).replace(_INK, "currentColor")

    content = re.sub(r"<[^>]*>", own, content)
    return f'{root} role="img" aria-label="{label}">{content}'


def _height(chart: Chart) -> float:
    if isinstance(chart, ShareChart):
        turned = [_short(column) for column in chart.columns if len(chart.columns) > _MOST_UPRIGHT]
        return 1.2 + 0.24 * len(chart.rows) + 0.07 * max(map(len, turned), default=0)
    legend = 0.2 * len(chart.series)
    return 1.0 + legend + (0.26 * len(chart.categories) if isinstance(chart, CategoryChart) else 2.2)


def _look(number: int) -> tuple[str, str, str]:
    """Colour, mark and dashes; once the colours begin again, the marks and dashes are shifted against them."""
    _, mark, dashes = _LOOKS[(number + number // len(_LOOKS)) % len(_LOOKS)]
    return _LOOKS[number % len(_LOOKS)][0], mark, dashes


def _draw_points(axes: Any, chart: PointChart) -> _Handles:
    handles = [(_short(series.label), _draw_series(axes, series)) for series in chart.series]
    axes.set(xlabel=chart.x_label, ylabel=chart.y_label)
    axes.grid(alpha=0.2, color=_INK, linewidth=0.6)
    return handles


def _draw_series(axes: Any, series: Series) -> Any:
    x, y = ([getattr(point, field) for point in series.points] for field in ("x", "y"))
    colour, mark, dashes = _look(series.look)
    if series.style == "line":
        marks = max(1, len(x) // 8)
        (line,) = axes.plot(x, y, color=colour, linestyle=dashes, marker=mark, markevery=marks, markersize=4)
        return line
    if series.style == "level":
        (line,) = axes.plot(x, y, color=colour, linestyle=(0, (6, 3)), linewidth=1)
        return line
    if series.style == "front":
        (line,) = axes.plot(x, y, color=_INK, linestyle=(0, (1, 2)), linewidth=1.2)
        return line
    if series.style == "samples":
        # As a picture within the SVG, which would be large with a path for each.
        return axes.scatter(x, y, s=9, color=colour, marker=mark, alpha=0.5, linewidths=0, rasterized=True)
    errors = [[_or_zero(getattr(point, field)) for point in series.points] for field in ("x_error", "y_error")]
    return axes.errorbar(x, y, xerr=errors[0], yerr=errors[1], color=colour, marker=mark, linestyle="none")


def _draw_categories(axes: Any, chart: CategoryChart) -> _Handles:
    """A line a category, from above; the series of a category lie beside each other."""
    handles = []
    places = {category: place for place, category in enumerate(chart.categories)}
    for number, (label, estimates) in enumerate(chart.series.items()):
        colour, mark, _ = _look(number)
        shift = 0.7 * ((number + 0.5) / len(chart.series) - 0.5)
        y = [places[category] + shift for category in estimates]
        x = [one.value for one in estimates.values()]
        errors = [_or_zero(one.error) for one in estimates.values()]
        drawn = axes.errorbar(x, y, xerr=errors, color=colour, marker=mark, markersize=4, linestyle="none")
        handles.append((_short(label), drawn))
    axes.set(xlabel=chart.value_label)
    axes.set_yticks(list(places.values()), [_short(category) for category in places])
    axes.set_ylim(len(places) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.2, color=_INK, linewidth=0.6)
    return handles


def _draw_shares(axes: Any, chart: ShareChart) -> _Handles:
    """Cells from dark (0) to bright (1); what does not occur is empty."""
    shares = np.array(
        [
            [tallies[row].rate if row in tallies else math.nan for tallies in chart.columns.values()]
            for row in chart.rows
        ]
    )
    mesh = axes.pcolormesh(np.ma.masked_invalid(shares), cmap="cividis", vmin=0, vmax=1)
    columns = [_short(column) for column in chart.columns]
    few = len(columns) <= _MOST_LABELLED
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns, rotation=0 if len(columns) <= _MOST_UPRIGHT else 90)
    axes.set_yticks(np.arange(len(chart.rows)) + 0.5, [_short(row) for row in chart.rows])
    axes.invert_yaxis()
    axes.tick_params(length=0)
    for (row, column), share in np.ndenumerate(shares):
        if few and not math.isnan(share):
            ink = "white" if share < 0.5 else "black"
            axes.text(column + 0.5, row + 0.5, f"{share:.0%}", ha="center", va="center", color=ink, fontsize=8)
    axes.figure.colorbar(mesh, ax=axes, label="deleted share")
    return []


def _short(label: str) -> str:
    """A label as drawings have it; the chart's table has all of it. One that begins with "_" would be left out."""
    half = _LONGEST_LABEL // 2
    text = label if len(label) <= _LONGEST_LABEL else f"{label[:half]}\u2026{label[-half:]}"
    return f" {text}" if text.startswith("_") else text


def _or_zero(error: float) -> float:
    return 0.0 if math.isnan(error) else error


Draw = Callable[[Chart], ChartFiles]
"""What makes a chart's files, such as `draw_chart`."""
