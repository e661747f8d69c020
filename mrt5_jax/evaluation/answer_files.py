"""Files of a model's answers to the examples of a task: a line an answer, in the task's order, kept as they come.

A stopped evaluation goes on after a file's last line, and a finished file is read, not made again. Its name ends with a
key of all settings, so that other settings have a file of their own. Of several processes each has a file beside it for
its share (`inference.shards`), until the first process has put them together.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mrt5_jax.config import Deletion, RunConfig
from mrt5_jax.data.arrangements import ExampleInfo
from mrt5_jax.data.mixing import Shard
from mrt5_jax.data.streams import eval_examples
from mrt5_jax.data.task_names import key_of, label_of
from mrt5_jax.errors import UserError
from mrt5_jax.evaluation.model_dirs import LoadedModel, threshold_under
from mrt5_jax.inference.answers import Job
from mrt5_jax.inference.decoding import Greedy, Search
from mrt5_jax.inference.engine import Engine
from mrt5_jax.inference.requests import Limits, Request
from mrt5_jax.inference.resumable import lines_made, resume_lines
from mrt5_jax.inference.run_defaults import INFERENCE_DELETIONS, execution_of
from mrt5_jax.inference.shards import WHOLE, merge_shards, remove_shards, shard_file, shard_name, shard_settings
from mrt5_jax.parallel.processes import in_every_process, in_first_process
from mrt5_jax.runs.files import FilePath, explained, read_bytes

AnswerKind = Literal["generated", "labels"]
"""What a file holds: what a model wrote, or how probable labels are to it."""

ExampleRow = Mapping[str, Any]
"""An example as its task makes it: rows of ids, texts, and what else its metrics read."""

Requests = Callable[[ExampleInfo, ExampleRow], list[Request]]
"""(where an example comes from, the example) -> what is asked of the model about it."""

_EVAL = "mrt5 eval"


def check_answered(deletions: Sequence[Deletion], flag: str) -> None:
    """Refuses deletions under which a model answers nothing; `flag` is what asked for answers.

    Raises:
        UserError: naming the first of them.
    """
    for deletion in deletions:
        if deletion not in INFERENCE_DELETIONS:
            raise UserError(
                f"{flag}: nothing is answered under {deletion} deletion: name others by --deletion "
                f"({', '.join(INFERENCE_DELETIONS)}), or leave {flag} out"
            )


def write_answers_to(
    loaded: LoadedModel,
    run: RunConfig,
    task: str,
    split: str,
    deletion: Deletion,
    folder: FilePath,
    kind: AnswerKind,
    requests: Requests,
    search: Search | None = None,
    watch: Callable[[int], None] = lambda done: None,
    shard: Shard = WHOLE,
) -> FilePath:
    """Answers all that is asked about the examples of a task's split, or goes on where the file ends; returns the file.

    The rows of a batch are spread over the devices that the model lies on.

    Args:
        loaded: the model.
        run: the data, in batches of its eval_batch_size, and `evaluation.num_examples`.
        folder: where the file lies.
        requests: what is asked about an example; as many for each.
        search: of what is generated.
        watch: sees how many requests have been answered.
        shard: this process's share of the requests, where several processes call this together; the file is there when
            it returns.

    Raises:
        UserError: the file cannot be written; in any process.
    """
    limits = Limits(run.model.vocab_size, run.data.input_length, run.data.target_length, "truncate")
    mesh = None if loaded.mesh.size == 1 else loaded.mesh
    engine = Engine(run.model, loaded.params, deletion, execution_of(run), run.evaluation.capacity, mesh)
    mode = "predict" if kind == "generated" else "score"
    job = Job(engine, mode, limits, run.data.eval_batch_size, search or Greedy(), shard=shard)
    settings = {
        "task": task,
        "split": split,
        "num_examples": run.evaluation.num_examples,
        "step": loaded.step,
        "weights": loaded.digest,
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
    path = folder / f"{kind}-{deletion}-{key_of(settings)}.jsonl"
    if isinstance(folder, Path):
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
    if shard == WHOLE:
        _write_share(path, settings, job, _asked(run, task, split, requests), watch)
        return path
    total = sum(1 for _ in _asked(run, task, split, requests))

    def is_finished() -> bool:
        return lines_made(path, settings, _EVAL) >= total

    def write() -> None:
        if not is_finished():  # by as many processes as there are now, or by others
            _write_share(path, settings, job, _asked(run, task, split, requests), watch)

    def put_together() -> None:
        if not is_finished() and (missing := merge_shards(path, settings, total, shard.count, _EVAL)):
            raise UserError(
                f"{path}: the answers of {', '.join(map(shard_name, missing))} are not beside it: MODEL_DIR has to lie "
                "in a folder that all processes see, or in a bucket"
            )
        remove_shards(path, shard.count)

    in_every_process(write)
    in_first_process(put_together)
    return path


def _asked(run: RunConfig, task: str, split: str, requests: Requests) -> Iterator[Request]:
    return (request for info, example in examples_of(run, task, split) for request in requests(info, example))


def _write_share(
    path: FilePath, settings: dict[str, Any], job: Job, asked: Iterator[Request], watch: Callable[[int], None]
) -> None:
    """Answers the job's share of what is asked, or goes on where its file ends, which is `path` where it has all."""
    with resume_lines(shard_file(path, job.shard), shard_settings(settings, job.shard), _EVAL) as lines:
        watch(lines.num_lines)
        for answers in job.answers_to(asked, lines.num_lines):
            lines.append([json.dumps(answer, allow_nan=False) for answer in answers])
            watch(lines.num_lines)


def read_answers_to(
    path: FilePath, run: RunConfig, task: str, split: str, requests: Requests, fields: Mapping[str, type]
) -> Iterator[tuple[ExampleInfo, ExampleRow, list[dict[str, Any]]]]:
    """Yields the examples of a task's split, with the answers of a file that `write_answers_to` wrote.

    Args:
        requests: what was asked.
        fields: that an answer has, and their types.

    Raises:
        UserError: the file is not of the examples that the task has now, or a line is damaged or has no answer; or two
            examples of a task have the same index.
    """
    with explained(path):
        lines = read_bytes(path).splitlines()
    number = 0
    seen: set[tuple[str, int]] = set()
    for info, example in examples_of(run, task, split):
        if (info.task, info.index) in seen:
            raise UserError(
                f"task {label_of(info.task)}: two examples have the index {info.index}: give each its own, or none"
            )
        seen.add((info.task, info.index))
        answers: list[dict[str, Any]] = []
        for request in requests(info, example):
            if number == len(lines):
                raise UserError(_not_as_many(path, task))
            number += 1
            answers.append(_answer(lines[number - 1], f"{path}, line {number}", request, fields))
        yield info, example, answers
    if number < len(lines):
        raise UserError(_not_as_many(path, task))


def examples_of(run: RunConfig, task: str, split: str) -> Iterator[tuple[ExampleInfo, ExampleRow]]:
    """Yields the examples that a run evaluates of a task's split."""
    return eval_examples(task, run.data, split=split, num_examples=run.evaluation.num_examples)


def request_about(
    info: ExampleInfo, example: ExampleRow, run: RunConfig, target_ids: np.ndarray | None = None
) -> Request:
    """Returns what is asked about an example: its input, cut to the run's length, and a target if one is scored.

    The fields tell it from all other requests: a line repeats them.
    """
    input_ids = np.asarray(example["inputs"], np.int32)[: run.data.input_length]
    fields = {"task": info.task, "index": info.index, "input": _digest(input_ids)}
    if target_ids is None:
        return Request(fields, input_ids, np.zeros(0, np.int32))
    return Request(fields | {"target": target_ids.tolist()}, input_ids, target_ids)


def _digest(ids: np.ndarray) -> str:
    return hashlib.sha256(ids.tobytes()).hexdigest()[:16]


def _not_as_many(path: FilePath, task: str) -> str:
    return f"{path}: has not as many lines as {label_of(task)} asks for now: remove it, and it is made again"


def _answer(line: bytes, place: str, request: Request, fields: Mapping[str, type]) -> dict[str, Any]:
    try:
        answer = json.loads(line)
    except ValueError as error:
        raise UserError(f"{place} is not JSON ({error}): remove the file, and it is made again") from None
    if not isinstance(answer, dict) or any(answer.get(name) != value for name, value in request.fields.items()):
        raise UserError(f"{place} answers another example than the task has now: remove the file, and it is made again")
    if "error" in answer:
        reason = str(answer["error"]).replace("this line", "its example")
        raise UserError(f"{place}: {reason}")
    if any(type(answer.get(name)) is not kind for name, kind in fields.items()):
        raise UserError(f"{place} is no answer: remove the file, and it is made again")
    return answer
