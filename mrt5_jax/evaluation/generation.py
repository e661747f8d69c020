"""Evaluation by generation: what a model writes to each example, and what the example's task makes of it.

Metrics are computed from a file of what was written (`answer_files`), so that a changed metric needs no model.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from mrt5_jax.config import Deletion, RunConfig
from mrt5_jax.data.arrangements import ExampleInfo
from mrt5_jax.data.mixing import Shard
from mrt5_jax.data.registry import tasks_of
from mrt5_jax.evaluation.answer_files import ExampleRow, Requests, read_answers_to, request_about, write_answers_to
from mrt5_jax.evaluation.evaluate import Evaluation
from mrt5_jax.evaluation.model_dirs import LoadedModel
from mrt5_jax.evaluation.records import Record
from mrt5_jax.evaluation.task_metrics import measure_texts
from mrt5_jax.inference.beam import Beam
from mrt5_jax.inference.decoding import Greedy
from mrt5_jax.inference.requests import Request
from mrt5_jax.inference.shards import WHOLE
from mrt5_jax.runs.files import FilePath

Choice = Greedy | Beam
"""A search whose result follows from the model alone."""

_FIELDS = {"prediction": str, "prediction_ids": list, "score": float}


class Written(NamedTuple):
    """What a model wrote to an example; fields are those of `Record`."""

    generated: str
    generated_correct: bool
    generated_score: float
    metrics: dict[str, float]


class Generation(NamedTuple):
    """What a model wrote to a task's examples under a deletion."""

    written: dict[tuple[str, int], Written]
    """By task and index."""
    together: dict[str, dict[str, float]]
    """By task, its metrics of all examples together; see `TaskMetrics`."""
    notes: list[str]


def search_name(search: Choice) -> str:
    """Returns what records, tables and folders call a search."""
    if isinstance(search, Greedy):
        return "greedy"
    penalty = "" if search.length_penalty == 1 else f"-penalty{search.length_penalty:g}"
    return f"beam{search.size}{penalty}"


def generate_answers(
    loaded: LoadedModel,
    run: RunConfig,
    task: str,
    split: str,
    deletion: Deletion,
    search: Choice,
    folder: FilePath,
    watch: Callable[[int], None] = lambda done: None,
    shard: Shard = WHOLE,
) -> FilePath:
    """Writes what the model writes to the examples of a task's split, or goes on where the file ends; returns the file.

    Inputs are cut to the run's input_length, and at most target_length ids are written. See `write_answers_to`.
    """
    asked = _requests(run)
    return write_answers_to(loaded, run, task, split, deletion, folder, "generated", asked, search, watch, shard)


def read_answers(path: FilePath, run: RunConfig, task: str, split: str) -> Generation:
    """Reads what `generate_answers` wrote, and computes the tasks' metrics of it.

    Raises:
        UserError: see `read_answers_to`.
    """
    specs = {spec.name: spec for spec in tasks_of(task)}
    by_task: dict[str, list[tuple[ExampleInfo, ExampleRow, dict[str, Any]]]] = {}
    for info, example, (answer,) in read_answers_to(path, run, task, split, _requests(run), _FIELDS):
        by_task.setdefault(info.task, []).append((info, example, answer))
    written: dict[tuple[str, int], Written] = {}
    together: dict[str, dict[str, float]] = {}
    notes: list[str] = []
    for name, found in by_task.items():
        metrics = measure_texts(specs[name], [(answer["prediction"], example) for _, example, answer in found])
        notes += metrics.notes
        if metrics.together:
            together[name] = metrics.together
        for (info, example, answer), values in zip(found, metrics.by_example, strict=True):
            target = np.asarray(example["targets"])[: run.data.target_length].tolist()
            correct = not info.target_cut and answer["prediction_ids"] == target
            written[name, info.index] = Written(answer["prediction"], correct, answer["score"], values)
    return Generation(written, together, notes)


def with_generation(evaluation: Evaluation, generations: Mapping[Deletion, Generation], search: Choice) -> Evaluation:
    """Puts what was generated under each deletion into the records of its examples."""
    records: list[Record] = []
    for record in evaluation.records:
        if (generation := generations.get(record.deletion)) is not None:
            own = generation.written[record.task, record.index]
            record = record._replace(search=search_name(search), **own._asdict())
        records.append(record)
    together: dict[str, dict[str, dict[str, float]]] = {
        deletion: generation.together for deletion, generation in generations.items()
    }
    return evaluation._replace(records=records, task_metrics=together)


def _requests(run: RunConfig) -> Requests:
    return functools.partial(_of_input, run)


def _of_input(run: RunConfig, info: ExampleInfo, example: ExampleRow) -> list[Request]:
    return [request_about(info, example, run)]
