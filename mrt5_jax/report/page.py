"""The report as one HTML page: no script, nothing loaded, which the page itself forbids."""

import html
import math
import re
from collections.abc import Mapping, Sequence

from mrt5_jax.report.charts import Cell, Chart, ChartTable, chart_table
from mrt5_jax.report.contents import ReportSection

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""Whatever a text might hold, a browser that reads this runs nothing of it and asks nobody."""

_STYLE = """
:root { color-scheme: light dark; --rule: #8886 }
body { max-width: 76rem; margin: 1.5rem auto; padding: 0 1rem; font: 1rem/1.5 system-ui, sans-serif;
  overflow-wrap: anywhere }
h1 { font-size: 1.5rem } h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; border-bottom: 1px solid var(--rule) }
h3, caption { font-size: 1rem; font-weight: 600; text-align: start; margin: 1rem 0 .3rem }
nav a { display: inline-block; padding: .3rem .8rem .3rem 0 }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(26rem, 100%), 1fr)); gap: 1.5rem }
figure { margin: 0; min-width: 0 }
figure svg { display: block; width: 100%; height: auto; max-width: 36rem }
figure svg text { font-family: system-ui, sans-serif !important }
figcaption { font-weight: 600 } figcaption small { display: block; font-weight: 400 }
.scroll { overflow-x: auto; max-height: 26rem; overflow-y: auto; margin: .5rem 0 }
table { border-collapse: collapse; font-size: .9rem; overflow-wrap: normal }
th, td { text-align: start; padding: .15rem .7rem .15rem 0; border-bottom: 1px solid var(--rule); vertical-align: top }
td.number { text-align: end; font-variant-numeric: tabular-nums; white-space: nowrap }
summary { cursor: pointer; padding: .4rem 0 }
"""


def render_report(
    title: str, sections: Sequence[ReportSection], drawings: Mapping[str, str], refresh_seconds: int | None = None
) -> str:
    """Returns the page as text.

    Args:
        sections: texts in them have no control characters; markup in them is shown as it is.
        drawings: by the chart's name, an element for each; see `drawing.inline_svg`.
        refresh_seconds: after how many seconds a browser is to read the page again; None: never.
    """
    refresh = "" if refresh_seconds is None else f'<meta http-equiv="refresh" content="{refresh_seconds}">\n'
    links = "".join(f'<a href="#{_anchor(section)}">{html.escape(section.heading)}</a>' for section in sections)
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n{refresh}'
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>",
            f"<h1>{html.escape(title)}</h1>\n<nav>{links}</nav>\n<main>",
            *(_section(section, drawings) for section in sections),
            "</main>\n</html>\n",
        ]
    )


def _anchor(section: ReportSection) -> str:
    return re.sub(r"\W+", "-", section.heading.lower())


def _section(section: ReportSection, drawings: Mapping[str, str]) -> str:
    parts = [f'<section id="{_anchor(section)}">\n<h2>{html.escape(section.heading)}</h2>']
    parts += [f"<p>{html.escape(line)}</p>" for line in section.lines]
    if section.charts:
        figures = "\n".join(_figure(chart, drawings[chart.name]) for chart in section.charts)
        parts.append(f'<div class="charts">\n{figures}\n</div>')
    parts += [render_table(title, table) for title, table in section.tables.items()]
    parts += [f"<h3>{html.escape(title)}</h3>\n{fragment}" for title, fragment in section.fragments.items()]
    return "\n".join([*parts, "</section>"])


def _figure(chart: Chart, drawing: str) -> str:
    note = f"<small>{html.escape(chart.note)}</small>" if chart.note else ""
    return (
        f'<figure id="chart-{chart.name}">\n{drawing}\n<figcaption>{html.escape(chart.title)}{note}</figcaption>\n'
        f"<details><summary>The numbers of this chart</summary>\n{render_table('', chart_table(chart))}\n</details>\n"
        "</figure>"
    )


def render_table(title: str, table: ChartTable) -> str:
    """Returns a table as a part of a page; each number stands in a <data> element with its full precision."""
    caption = f"<caption>{html.escape(title)}</caption>" if title else ""
    heads = "".join(f'<th scope="col">{html.escape(heading)}</th>' for heading in table.headings)
    rows = "\n".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in table.rows)
    label = f' role="region" aria-label="{html.escape(title)}"' if title else ""
    return (
        f'<div class="scroll" tabindex="0"{label}><table>{caption}\n<thead><tr>{heads}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody></table></div>"
    )


def _cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return f"<td><bdi>{html.escape(cell)}</bdi></td>"
    if isinstance(cell, float) and math.isnan(cell):
        return '<td class="number">-</td>'
    shown = f"{cell:,}" if isinstance(cell, int) else f"{cell:.4g}"
    return f'<td class="number"><data value="{cell!r}">{shown}</data></td>'
