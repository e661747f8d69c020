"""Evaluations that are finished: the same settings, the same weights, everything written."""

import json
from collections.abc import Sequence
from typing import Any

from mrt5_jax.config import Deletion, RunConfig
from mrt5_jax.evaluation.costs import COSTS_FILE, Costs, read_costs
from mrt5_jax.evaluation.evaluate import Evaluation
from mrt5_jax.evaluation.model_dirs import RECORDS, SETTINGS, SUMMARY, LoadedModel, threshold_under
from mrt5_jax.evaluation.records import read_records
from mrt5_jax.runs.files import FilePath, explained, read_bytes


def evaluation_settings(
    loaded: LoadedModel, run: RunConfig, deletions: Sequence[Deletion], answers: Sequence[str]
) -> dict[str, Any]:
    """Returns what the records of an evaluation depend on besides the task's examples, for JSON.

    Args:
        loaded: the model.
        run: the data and the evaluation.
        deletions: that are evaluated.
        answers: how the model answers, a word for each way.
    """
    return {
        "weights": loaded.digest,
        "deletions": list(deletions),
        "thresholds": [threshold_under(run.model, deletion) for deletion in deletions],
        "num_examples": run.evaluation.num_examples,
        "capacity": run.evaluation.capacity,
        "seed": run.evaluation.seed,
        "input_length": run.data.input_length,
        "target_length": run.data.target_length,
        "answers": list(answers),
    }


def finished_evaluation(folder: FilePath, settings: dict[str, Any]) -> Evaluation | None:
    """Reads an evaluation that was made under the same settings; None where there is none.

    Raises:
        UserError: its records are damaged, or a file cannot be read.
    """
    try:
        with explained(folder):
            summary = json.loads(_read_if_there(folder / SUMMARY) or b"{}")
    except ValueError:  # what is damaged is evaluated again
        return None
    if not isinstance(summary, dict) or summary.get(SETTINGS) != settings:
        return None
    records = read_records(folder / RECORDS)
    costs = read_costs(folder / COSTS_FILE) or Costs()
    return Evaluation(records, {}, task_metrics=summary.get("task_metrics"), costs=costs)


def _read_if_there(path: FilePath) -> bytes | None:
    try:
        return read_bytes(path)
    except FileNotFoundError:
        return None
