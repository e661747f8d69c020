"""How a deletion rate went to its target, from a run's metrics."""

import json
from pathlib import Path
from typing import Any

import numpy as np

WIDTH = 50
"""Steps of a mean."""
NEAR = 0.01


def read_metrics(model_dir: Path) -> list[dict[str, Any]]:
    """Reads the lines of metrics.jsonl that report a step's metrics."""
    lines = (json.loads(line) for line in (model_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [line for line in lines if "total_loss" in line]


def course(lines: list[dict[str, Any]], language: str, target: float) -> dict[str, float | int | None]:
    """Measures a rate that was reported after every step.

    Returns:
        `arrived`: the step at which the first mean of 50 steps within 1 point of the target ends, None where there is
        none; `farthest`: the largest error of such a mean afterwards; `last_fifth`: the mean over the last fifth;
        `every_50`: the rates' means over 50 steps, one after the other, for a picture.
    """
    name = f"deletion_rate/{language}" if language else "deletion_rate"
    rates = np.array([line.get(name, np.nan) for line in lines], float)
    rates = rates[~np.isnan(rates)]
    means = np.convolve(rates, np.full(WIDTH, 1 / WIDTH), "valid")
    errors = np.abs(means - target)
    near = np.flatnonzero(errors <= NEAR)
    return {
        "target": target,
        "steps": len(lines),
        "arrived": int(near[0]) + WIDTH if len(near) else None,
        "farthest": round(float(errors[near[0] :].max()), 4) if len(near) else None,
        "last_fifth": round(float(rates[-(len(rates) // 5) :].mean()), 4),
        "every_50": [round(float(mean), 3) for mean in means[::WIDTH]],
    }
