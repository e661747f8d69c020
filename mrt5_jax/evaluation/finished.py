"""Evaluations that are finished: the same settings, the same weights, the same examples, everything written."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from mrt5_jax.compaction.ladder import BodyCost
from mrt5_jax.config import Deletion, RunConfig
from mrt5_jax.data.task_names import key_of
from mrt5_jax.evaluation.costs import COSTS_FILE, Costs, read_costs
from mrt5_jax.evaluation.evaluate import Evaluation
from mrt5_jax.evaluation.model_dirs import EXAMPLES, RECORDS, SETTINGS, SUMMARY, LoadedModel, threshold_under
from mrt5_jax.evaluation.records import RECORD_SCHEMA, read_records
from mrt5_jax.runs.files import FilePath, explained, read_bytes


def evaluation_settings(
    loaded: LoadedModel, run: RunConfig, deletions: Sequence[Deletion], answers: Sequence[str], rounds: int
) -> dict[str, Any]:
    """Returns what records and runtimes of an evaluation depend on besides the task's examples, for JSON.

    Args:
        loaded: the model.
        run: the data and the evaluation.
        deletions: that are evaluated.
        answers: how the model answers, a word for each way.
        rounds: how often runtimes are clocked on the same batches.
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
        "rounds": rounds,
        "others": key_of((RECORD_SCHEMA, run.model, run.execution)),
    }


def finished_evaluation(
    folder: FilePath, settings: dict[str, Any], body: BodyCost | None, examples: Callable[[], str]
) -> Evaluation | None:
    """Reads an evaluation that was made under the same settings and of the same examples; None where there is none.

    Args:
        settings: see `evaluation_settings`.
        body: of the model, see `Evaluation`.
        examples: gives the digest of the examples as they are now; called where the settings are the same.

    Raises:
        UserError: its records are damaged, or a file cannot be read.
    """
    try:
        with explained(folder):
            summary = json.loads(_read_if_there(folder / SUMMARY) or b"{}")
            timing = json.loads(_read_if_there(folder / COSTS_FILE) or b"{}")
    except ValueError:  # what is damaged is evaluated again
        return None
    if not isinstance(summary, dict) or summary.get(SETTINGS) != settings or summary.get(EXAMPLES) != examples():
        return None
    cut = summary["num_cut"]
    return Evaluation(
        read_records(folder / RECORDS),
        timing.get("milliseconds_per_batch", {}),
        cut["inputs"],
        cut["targets"],
        body,
        costs=read_costs(folder / COSTS_FILE) or Costs(),
    )


def _read_if_there(path: FilePath) -> bytes | None:
    try:
        return read_bytes(path)
    except FileNotFoundError:
        return None
