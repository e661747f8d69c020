"""Files of requests answered into files of answers, which a stopped run goes on with; by one process or by several."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mrt5_jax.data.mixing import Shard
from mrt5_jax.inference.answers import NOT_FINITE, Job
from mrt5_jax.inference.requests import Survey
from mrt5_jax.inference.resumable import lines_made, resume_lines
from mrt5_jax.inference.shards import WHOLE, merge_shards, num_requests, shard_file, shard_settings
from mrt5_jax.runs.files import AnyPath, files_for, in_bucket

Watch = Callable[[int, int], None]
"""(lines answered, lines there are), called whenever some were written."""


def unwatched(done: int, total: int) -> None:
    """Watches nothing."""


def write_answers(
    job: Job,
    requests_file: AnyPath,
    name: str,
    survey: Survey,
    output: AnyPath,
    model: dict[str, Any],
    watch: Watch = unwatched,
) -> int:
    """Answers the requests of a file that are the job's, or goes on where the answers stop.

    Args:
        requests_file: a local file.
        name: of the file that it is, or is a copy of.
        survey: of it.
        output: of JSON lines, local or in a bucket; the answers of a shard are in a file beside it, `shard_file`.
        model: what tells the model and its deletion apart from others; the output goes on with the same one only.
        watch: sees how far it is.

    Returns:
        how many of the job's lines have no answer, since the model's numbers are not finite for them.

    Raises:
        UserError: the output was begun by something else, or cannot be written.
    """
    settings, own_file = _settings(job, survey, model), shard_file(output, job.shard)
    if job.shard != WHOLE:
        lines_made(output, settings)  # refuses early what could not be put together
    total = num_requests(job.shard, survey.num_lines)
    with resume_lines(own_file, shard_settings(settings, job.shard)) as lines:
        watch(lines.num_lines, total)
        for answers in job.answers(str(requests_file), lines.num_lines, name):
            lines.append([json.dumps(answer, allow_nan=False) for answer in answers])
            watch(lines.num_lines, total)
    return sum(line.endswith(_ENDING) for line in _lines(own_file))


def count_steps(path: AnyPath) -> tuple[int, int]:
    """Counts the ids of a file of answers, and the decoding steps they took under `Speculative` search.

    Lines without an answer count nothing.
    """
    num_ids = num_steps = 0
    for line in _lines(path):
        answer = json.loads(line)
        num_ids += len(answer["prediction_ids"] or ())
        num_steps += answer["num_steps"] or 0
    return num_ids, num_steps


def merge_answers(job: Job, survey: Survey, output: AnyPath, model: dict[str, Any]) -> list[Shard]:
    """Puts the answers of all shards together in the output; returns the shards that are not complete, see
    `merge_shards`."""
    return merge_shards(output, _settings(job, survey, model), survey.num_lines, job.shard.count)


def resolved(path: str) -> str:
    """Returns the same text for the same folder."""
    return path if in_bucket(path) or not Path(path).exists() else str(Path(path).resolve())


def _settings(job: Job, survey: Survey, model: dict[str, Any]) -> dict[str, Any]:
    """What makes the output; neither devices nor processes do."""
    return model | {
        "input_sha256": survey.sha256,
        "mode": job.mode,
        "batch_size": job.batch_size // job.engine.num_shards,
        **job.limits._asdict(),
        "dispatch": job.engine.execution.inference_dispatch,
        "capacity": job.engine.capacity,
        "chunks": job.engine.execution.chunks,
        "search": repr(job.search),
        "seed": job.seed,
    }


_ENDING = json.dumps({"error": NOT_FINITE})[1:].encode() + b"\n"


def _lines(path: AnyPath) -> Iterator[bytes]:
    with files_for(path).open(path) as file:
        yield from file
