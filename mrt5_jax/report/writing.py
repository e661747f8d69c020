"""A report as files: the page, and each chart as SVG and PNG beside it."""

import html
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mrt5_jax.errors import UserError
from mrt5_jax.report.charts import Chart
from mrt5_jax.report.contents import ReportSection
from mrt5_jax.report.drawing import Draw, draw_chart, inline_svg
from mrt5_jax.report.page import render_report
from mrt5_jax.runs.files import AnyPath, FilePath, as_path, explained, files_for, in_bucket

REPORT_PAGE = "index.html"

ChartWatch = Callable[[Sequence[Chart]], Iterator[Chart]]
"""Sees the charts go by while they are drawn, to show progress."""


def check_report_folder(folder: AnyPath) -> None:
    """Refuses a folder on this machine that a report cannot be written to, before anything is read or drawn.

    Raises:
        UserError: it, or what it would lie in, is a file or may not be written to.
    """
    if in_bucket(folder):
        return
    place = Path(folder).absolute()
    nearest = next((one for one in (place, *place.parents) if os.path.lexists(one)), place)
    if not nearest.is_dir():
        raise UserError(f"--out: {folder}: {nearest} is not a folder: give another name")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"--out: {folder}: {nearest} may not be written to: give another name")
    if (place / REPORT_PAGE).is_dir():
        raise UserError(f"--out: {folder}: {REPORT_PAGE} in it is a folder: give another name")


def write_report(
    folder: AnyPath,
    title: str,
    sections: Sequence[ReportSection],
    refresh_seconds: int | None = None,
    watch: ChartWatch = iter,
    draw: Draw = draw_chart,
) -> FilePath:
    """Draws the charts of a report and writes it, the page last; returns the page's path.

    Args:
        folder: to write into, made where there is none; files of the same names are replaced, others stay.
        refresh_seconds: see `render_report`.
        watch: sees the charts go by.
        draw: makes a chart's files.

    Raises:
        UserError: a file cannot be written, or there is nothing to draw with.
    """
    place = as_path(folder)
    drawings: dict[str, str] = {}
    for chart in watch([chart for section in sections for chart in section.charts]):
        files = draw(chart)
        drawings[chart.name] = inline_svg(files.svg, chart.name, html.escape(chart.title))
        _write(place / f"{chart.name}.svg", files.svg.encode())
        _write(place / f"{chart.name}.png", files.png)
    page = place / REPORT_PAGE
    _write(page, render_report(title, sections, drawings, refresh_seconds).encode())
    return page


def _write(path: FilePath, data: bytes) -> None:
    with explained(path, "--out: "):
        files_for(path).write(path, data)
