"""Evaluation by generation: what a model writes to each example, kept as it comes, and what its task makes of it.

FOLDER/generated-DELETION-KEY.jsonl has a line an example, in the order of the task; the key follows from all settings.
A stopped evaluation goes on after its last line, and a finished file is read, not made again. Metrics are computed from
the lines, so that a changed metric needs no model.
"""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mrt5_jax.config import Deletion, RunConfig
from mrt5_jax.data.arrangements import ExampleInfo
from mrt5_jax.data.registry import tasks_of
from mrt5_jax.data.streams import eval_examples
from mrt5_jax.data.task_names import key_of, label_of
from mrt5_jax.data.task_specs import Example
from mrt5_jax.errors import UserError
from mrt5_jax.evaluation.evaluate import Evaluation
from mrt5_jax.evaluation.model_dirs import LoadedModel, threshold_under
from mrt5_jax.evaluation.records import Record
from mrt5_jax.evaluation.task_metrics import measure_texts
from mrt5_jax.inference.answers import Job
from mrt5_jax.inference.beam import Beam
from mrt5_jax.inference.decoding import Greedy
from mrt5_jax.inference.engine import Engine
from mrt5_jax.inference.requests import Limits, Request
from mrt5_jax.inference.resumable import resume_lines
from mrt5_jax.inference.run_defaults import INFERENCE_DELETIONS, execution_of
from mrt5_jax.runs.files import FilePath, explained, read_bytes

Choice = Greedy | Beam
"""A search whose result follows from the model alone."""


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


def check_generation(deletions: Sequence[Deletion]) -> None:
    """Refuses deletions under which nothing is generated.

    Raises:
        UserError: naming the first of them.
    """
    for deletion in deletions:
        if deletion not in INFERENCE_DELETIONS:
            raise UserError(
                f"--generate: nothing is generated under {deletion} deletion: name others by --deletion "
                f"({', '.join(INFERENCE_DELETIONS)}), or leave --generate out"
            )


def generate_answers(
    loaded: LoadedModel,
    run: RunConfig,
    task: str,
    split: str,
    deletion: Deletion,
    search: Choice,
    folder: FilePath,
    watch: Callable[[int], None] = lambda done: None,
) -> FilePath:
    """Writes what the model writes to the examples of a task's split, or goes on where the file ends; returns the file.

    Inputs are cut to the run's input_length, and at most target_length ids are written.

    Args:
        loaded: the model.
        run: the data, in batches of its eval_batch_size, and `evaluation.num_examples`.
        folder: where the file lies.
        watch: sees how many examples have been answered.

    Raises:
        UserError: the file cannot be written.
    """
    limits = Limits(run.model.vocab_size, run.data.input_length, run.data.target_length, "truncate")
    engine = Engine(run.model, loaded.params, deletion, execution_of(run), run.evaluation.capacity)
    job = Job(engine, "predict", limits, run.data.eval_batch_size, search)
    settings = {
        "task": task,
        "split": split,
        "num_examples": run.evaluation.num_examples,
        "step": loaded.step,
        "deletion": deletion,
        "threshold": threshold_under(run.model, deletion),
        "capacity": run.evaluation.capacity,
        "search": repr(search),
        "input_length": run.data.input_length,
        "target_length": run.data.target_length,
        "batch_size": run.data.eval_batch_size,
        "window": engine.execution.window,
        "dispatch": engine.execution.inference_dispatch,
    }
    path = folder / f"generated-{deletion}-{key_of(settings)}.jsonl"
    if isinstance(folder, Path):
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
    with resume_lines(path, settings, made_by="mrt5 eval") as lines:
        watch(lines.num_lines)
        for answers in job.answers_to(_requests(run, task, split), lines.num_lines):
            lines.append([json.dumps(answer, allow_nan=False) for answer in answers])
            watch(lines.num_lines)
    return path


def read_answers(path: FilePath, run: RunConfig, task: str, split: str) -> Generation:
    """Reads what `generate_answers` wrote, and computes the tasks' metrics of it.

    Raises:
        UserError: the file is not of the examples that the task has now, or a line is damaged or has no answer.
    """
    specs = {spec.name: spec for spec in tasks_of(task)}
    examples = eval_examples(task, run.data, split=split, num_examples=run.evaluation.num_examples)
    by_task: dict[str, list[tuple[ExampleInfo, Example, Mapping[str, Any]]]] = {}
    for number, (one, line) in enumerate(itertools.zip_longest(examples, _lines(path)), start=1):
        if one is None or line is None:
            raise UserError(f"{path}: has not as many lines as {label_of(task)} has examples now: remove it")
        info, example = one
        answer = _answer(line, f"{path}, line {number}", _about(info, _input_ids(example, run)))
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
            key = (name, info.index)
            if key in written:
                raise UserError(f"task {label_of(name)}: two examples have the index {info.index}: give each its own")
            written[key] = Written(answer["prediction"], correct, float(answer["score"]), values)
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


def _requests(run: RunConfig, task: str, split: str) -> Iterator[Request]:
    for info, example in eval_examples(task, run.data, split=split, num_examples=run.evaluation.num_examples):
        ids = _input_ids(example, run)
        yield Request(_about(info, ids), ids, np.zeros(0, np.int32))


def _input_ids(example: Example, run: RunConfig) -> np.ndarray:
    return np.asarray(example["inputs"], np.int32)[: run.data.input_length]


def _about(info: ExampleInfo, input_ids: np.ndarray) -> dict[str, Any]:
    """What tells an example from all others, by which a line says what it answers."""
    return {"task": info.task, "index": info.index, "input": hashlib.sha256(input_ids.tobytes()).hexdigest()[:16]}


def _lines(path: FilePath) -> Iterator[bytes]:
    with explained(path):
        data = read_bytes(path)
    return iter(data.splitlines())


_FIELDS = {"prediction": str, "prediction_ids": list, "score": float}


def _answer(line: bytes, place: str, about: Mapping[str, Any]) -> dict[str, Any]:
    try:
        answer = json.loads(line)
    except ValueError as error:
        raise UserError(f"{place} is not JSON ({error}): remove the file, and it is made again") from None
    if not isinstance(answer, dict) or any(answer.get(name) != value for name, value in about.items()):
        raise UserError(f"{place} answers another example than the task has now: remove the file, and it is made again")
    if "error" in answer:
        raise UserError(f"{place}: {answer['error'].replace('this line', 'its example')}")
    if any(type(answer.get(name)) is not kind for name, kind in _FIELDS.items()):
        raise UserError(f"{place} is no answer: remove the file, and it is made again")
    return answer
