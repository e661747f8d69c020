"""A run of several processes: finding each other, and agreeing.

Every process runs the same program on its own devices and reads its own rows of every batch; the first one writes.
"""

import sys
from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from mrt5_jax.errors import UserError

_LONGEST_MESSAGE = 4096
_Result = TypeVar("_Result")


def join_cluster() -> None:
    """Joins the other processes that Slurm, GKE, a Cloud TPU pod or Open MPI has started; before anything computes.

    Raises:
        UserError: no such cluster is found in the environment, or its processes do not meet.
    """
    _initialize("--cluster")


def join_processes(coordinator_address: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Joins the other processes of a run that names them; before anything computes.

    Args:
        coordinator_address: HOST:PORT at which the first process listens and the others find it.
        num_processes: of the run.
        process_id: of this process, from 0.

    Raises:
        UserError: not all of them are given, they do not fit each other, or the processes do not meet.
    """
    given = {"coordinator_address": coordinator_address, "num_processes": num_processes, "process_id": process_id}
    if missing := [f"--{name}" for name, value in given.items() if value is None]:
        raise UserError(f"{', '.join(missing)} missing: a run of several processes needs all three")
    assert num_processes is not None
    assert process_id is not None
    if not 0 <= process_id < num_processes:
        raise UserError(f"--process_id={process_id}: should be from 0 to {num_processes - 1}")
    _initialize(f"--coordinator_address={coordinator_address}", **given)


def _initialize(flag: str, **arguments: object) -> None:
    try:
        jax.distributed.initialize(**arguments)  # pyright: ignore[reportArgumentType]
    except (ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{flag}: the processes of this run do not find each other ({reason})") from None


def say(line: str) -> None:
    """Prints a line on standard error, in the first process alone."""
    if jax.process_index() == 0:
        print(line, file=sys.stderr, flush=True)


def from_first_process(text: str) -> str:
    """Returns what the first process says, in every process."""
    if jax.process_count() == 1:
        return text
    padded = np.zeros(_LONGEST_MESSAGE, np.uint8)
    encoded = text.encode()[:_LONGEST_MESSAGE]
    padded[: len(encoded)] = np.frombuffer(encoded, np.uint8)
    said = np.asarray(multihost_utils.broadcast_one_to_all(padded))
    return said.tobytes().rstrip(b"\0").decode(errors="ignore")


def in_any_process(flag: bool) -> bool:
    """Says whether the flag is set in any process; all have to ask together."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


def in_every_process(act: Callable[[], _Result]) -> _Result:
    """Acts in every process, and waits for the others; where one refuses all do, so that none waits for one that left.

    Raises:
        UserError: what this process refuses; or that another one does, which says why itself.
    """
    found: list[_Result] = []
    problem: UserError | None = None
    try:
        found.append(act())
    except UserError as error:
        problem = error
    if in_any_process(problem is not None):
        raise problem or UserError("another process could not do its part, and says why")
    return found[0]


def in_first_process(act: Callable[[], object]) -> None:
    """Acts in the first process; what it refuses is refused in all, so that none waits for one that has left."""
    problem = ""
    if jax.process_index() == 0:
        try:
            act()
        except UserError as error:
            problem = str(error)
    if problem := from_first_process(problem):
        raise UserError(problem)
