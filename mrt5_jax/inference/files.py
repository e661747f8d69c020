"""Files of requests answered into files of answers, which a stopped run goes on with."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mrt5_jax.inference.answers import NOT_FINITE, Job
from mrt5_jax.inference.requests import Survey
from mrt5_jax.inference.resumable import resume_lines
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
    """Answers a file of requests, or goes on where the output stops.

    Args:
        requests_file: a local file.
        name: of the file that it is, or is a copy of.
        survey: of it.
        output: of JSON lines, local or in a bucket.
        model: what tells the model and its deletion apart from others; the output goes on with the same one only.
        watch: sees how far it is.

    Returns:
        how many lines have no answer, since the model's numbers are not finite for them.

    Raises:
        UserError: the output was begun by something else, or cannot be written.
    """
    settings = model | {
        "input_sha256": survey.sha256,
        "mode": job.mode,
        "batch_size": job.batch_size,
        **job.limits._asdict(),
        "dispatch": job.engine.execution.inference_dispatch,
        "capacity": job.engine.capacity,
        "chunks": job.engine.execution.chunks,
        "search": repr(job.search),
        "seed": job.seed,
    }
    with resume_lines(output, settings) as lines:
        watch(lines.num_lines, survey.num_lines)
        for answers in job.answers(str(requests_file), lines.num_lines, name):
            lines.append([json.dumps(answer, allow_nan=False) for answer in answers])
            watch(lines.num_lines, survey.num_lines)
    return sum(line.endswith(_ENDING) for line in _lines(output))


def resolved(path: str) -> str:
    """Returns the same text for the same folder."""
    return path if in_bucket(path) or not Path(path).exists() else str(Path(path).resolve())


_ENDING = json.dumps({"error": NOT_FINITE})[1:].encode() + b"\n"


def _lines(path: AnyPath) -> Iterator[bytes]:
    with files_for(path).open(path) as file:
        yield from file
