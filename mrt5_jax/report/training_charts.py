"""Charts of training, from metrics.jsonl: the loss, deletion against its target, alpha, the soft-hard gap."""

import math
import re
from collections.abc import Sequence

from mrt5_jax.data.task_names import label_of
from mrt5_jax.report.charts import Point, PointChart, Series, thinned
from mrt5_jax.report.reading import RunResults
from mrt5_jax.report.visible import visible_text

MOST_STEPS = 300
"""Of a curve; of more the chart has every k-th."""
MOST_POINTS = 3000
"""Of all curves of a chart together: of many curves each has fewer points, so that a page stays small."""

_THINNED = "Of curves with more than {:,} points every k-th is drawn, the last one among them."
_ONE = "{}(?:/(.*))?"
_CURVES = (
    ("training_loss", "Loss in training", "loss, nats per target token", r"loss"),
    ("deletion", "Deletion in training", "deletion rate", _ONE.format("deletion_rate")),
    ("alpha", "Weight of deletion in the loss", "alpha", _ONE.format("alpha")),
    ("soft_hard_gap", "Soft-hard gap in evaluation", "hard - soft, nats per target token", r"eval/(.*)/soft_hard_gap"),
)
"""Name, title, label and which metrics it shows; a group of the pattern is the language or the task."""

_NOTES = {
    "deletion": "Dashed: the target.",
    "soft_hard_gap": "How much higher the loss is under hard deletion than under soft deletion.",
}


def training_charts(runs: Sequence[RunResults]) -> list[PointChart]:
    """Makes the charts of training; those of which no run has numbers are left out."""
    charts = []
    for name, title, y_label, pattern in _CURVES:
        curves = [(run, part, points) for run in runs for part, points in _curves(run, pattern).items()]
        most = max(2, min(MOST_STEPS, MOST_POINTS // max(1, len(curves))))
        series = []
        for look, (run, part, points) in enumerate(curves):
            label = ", ".join(map(visible_text, filter(None, (run.name, part))))
            series.append(Series(label, thinned(points, most), "line", look))
            if name == "deletion" and part in run.targets:
                ends = [Point(points[end].x, run.targets[part]) for end in (0, -1)]
                series.append(Series(f"{label}, target", ends, "level", look))
        if series:
            note = " ".join(filter(None, (_NOTES.get(name), _THINNED.format(most))))
            charts.append(PointChart(name, title, "step", y_label, series, note))
    return charts


def _curves(run: RunResults, pattern: str) -> dict[str, list[Point]]:
    """Points by step of the metrics that a pattern fits, by its group; numbers that are not finite are left out."""
    names = {name for line in run.metrics for name in line}
    parts = {name: fits for name in sorted(names) if (fits := re.fullmatch(pattern, name, re.DOTALL))}
    found: dict[str, list[Point]] = {}
    for name, fits in parts.items():
        part = label_of(fits[1]) if fits.re.groups and fits[1] else ""
        points = [Point(line["step"], line[name]) for line in run.metrics if math.isfinite(line.get(name, math.nan))]
        if points:
            found[part] = points
    return found
