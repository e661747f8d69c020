"""Classification by the log-probability of each label: the most probable one is the model's answer."""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from mrt5_jax.config import Deletion, RunConfig
from mrt5_jax.data.arrangements import ExampleInfo
from mrt5_jax.data.mixing import Shard
from mrt5_jax.data.registry import tasks_of
from mrt5_jax.data.task_names import label_of
from mrt5_jax.data.vocabulary import EOS_ID, encode
from mrt5_jax.errors import UserError
from mrt5_jax.evaluation.answer_files import ExampleRow, Requests, read_answers_to, request_about, write_answers_to
from mrt5_jax.evaluation.evaluate import Evaluation
from mrt5_jax.evaluation.model_dirs import LoadedModel
from mrt5_jax.evaluation.task_metrics import target_text
from mrt5_jax.inference.requests import Request
from mrt5_jax.inference.shards import WHOLE
from mrt5_jax.runs.files import FilePath

_FIELDS = {"score": float}


class Chosen(NamedTuple):
    """How probable an example's labels are; fields are those of `Record`."""

    label_scores: dict[str, float]
    label_correct: bool


Labelled = dict[tuple[str, int], Chosen]
"""By task and index."""


def check_labels(task: str, target_length: int) -> None:
    """Refuses tasks without labels, and labels that are longer than a run's targets.

    Raises:
        UserError: naming the task.
    """
    for spec in tasks_of(task):
        name = f"--labels: task {label_of(spec.name)}"
        if not spec.labels:
            raise UserError(f"{name} has no labels (TaskSpec.labels): leave --labels out, or the task")
        longest = max(spec.labels, key=lambda label: len(label.encode()))
        if len(longest.encode()) >= target_length:
            raise UserError(
                f"{name}: the label {longest!r} has {len(longest.encode()) + 1} ids, more than {target_length}: "
                "give the run a longer TARGET_LENGTH"
            )


def score_labels(
    loaded: LoadedModel,
    run: RunConfig,
    task: str,
    split: str,
    deletion: Deletion,
    folder: FilePath,
    watch: Callable[[int], None] = lambda done: None,
    shard: Shard = WHOLE,
) -> FilePath:
    """Writes how probable the model finds each label of each example, or goes on where the file ends; returns the file.

    A label's log-probability is that of its bytes and of the end of the sequence. See `write_answers_to`.
    """
    asked = _requests(run, task)
    return write_answers_to(loaded, run, task, split, deletion, folder, "labels", asked, None, watch, shard)


def read_labels(path: FilePath, run: RunConfig, task: str, split: str) -> Labelled:
    """Reads what `score_labels` wrote; of labels that are as probable, the first is chosen.

    Raises:
        UserError: see `read_answers_to`; or a target is none of its task's labels.
    """
    labels = {spec.name: spec.labels for spec in tasks_of(task)}
    found: Labelled = {}
    for info, example, answers in read_answers_to(path, run, task, split, _requests(run, task), _FIELDS):
        right = target_text(example)
        own = labels[info.task]
        if right not in own:
            raise UserError(
                f"task {label_of(info.task)}, example {info.index}: its target {right!r} is none of the labels "
                f"{', '.join(own)}"
            )
        scores = {label: answer["score"] for label, answer in zip(own, answers, strict=True)}
        found[info.task, info.index] = Chosen(scores, max(scores, key=scores.__getitem__) == right)
    return found


def with_labels(evaluation: Evaluation, labelled: Mapping[Deletion, Labelled]) -> Evaluation:
    """Puts the labels' scores under each deletion into the records of its examples."""
    records = [
        record._replace(**labelled[record.deletion][record.task, record.index]._asdict())
        if record.deletion in labelled
        else record
        for record in evaluation.records
    ]
    return evaluation._replace(records=records)


def _requests(run: RunConfig, task: str) -> Requests:
    ids = {spec.name: [_with_end(label) for label in spec.labels] for spec in tasks_of(task)}
    return functools.partial(_of_labels, run, ids)


def _of_labels(
    run: RunConfig, ids: Mapping[str, list[np.ndarray]], info: ExampleInfo, example: ExampleRow
) -> list[Request]:
    return [request_about(info, example, run, label) for label in ids[info.task]]


def _with_end(label: str) -> np.ndarray:
    return np.append(encode(label), np.int32(EOS_ID))
