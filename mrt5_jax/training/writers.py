"""Where a run's numbers go: one writer that hands them to several, which others can join.

Every number is either computed (the same in every run of one configuration, however often it was stopped) or clocked.
They are kept apart: metrics.jsonl of a resumed run equals that of an uninterrupted one byte for byte.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import jax
import numpy as np

from mrt5_jax.errors import UserError
from mrt5_jax.parallel.processes import say
from mrt5_jax.runs.appended import open_to_append
from mrt5_jax.runs.files import AnyPath, FilePath, as_path, read_bytes
from mrt5_jax.runs.model_dir import METRICS, TIMING, write_atomically

Numbers = Mapping[str, int | float]
"""Names -> numbers, on the host."""
Scalar = int | float | np.generic | np.ndarray | jax.Array
"""A number: Python's, or an array of one element, which may lie on devices."""
Scalars = Mapping[str, Scalar]
"""Names -> numbers, wherever they lie."""


@runtime_checkable
class Writer(Protocol):
    """Something that takes the numbers of a run."""

    def write(self, step: int, metrics: Numbers, timing: Numbers) -> None:
        """Takes what was computed (`metrics`) and clocked (`timing`) when `step` updates had been made."""
        ...

    def flush(self) -> None:
        """Returns when what was written cannot be lost."""
        ...

    def close(self) -> None:
        """Ends writing: the last call."""
        ...


class Writers:
    """A writer that hands everything to `writers`, in their order; a context manager."""

    def __init__(self, writers: Sequence[Writer]) -> None:
        self._writers = tuple(writers)

    def __enter__(self) -> "Writers":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def write(self, step: int, metrics: Scalars, timing: Scalars) -> None:
        """See `Writer`; numbers are brought to the host once, here."""
        computed, clocked = on_host(metrics), on_host(timing)
        for writer in self._writers:
            writer.write(step, computed, clocked)

    def flush(self) -> None:
        """See `Writer`."""
        for writer in self._writers:
            writer.flush()

    def close(self) -> None:
        """See `Writer`."""
        for writer in self._writers:
            writer.close()


class JsonLinesWriter:
    """metrics.jsonl and timing.jsonl: an object a line, keys sorted, floats as Python's repr.

    NaN and infinities, which JSON lacks, are the strings "nan", "inf" and "-inf": `float` reads them.
    """

    def __init__(self, model_dir: AnyPath, step: int | None) -> None:
        """Appends after `step` (None: from the start): lines beyond it, of a run that was stopped, are cut."""
        self._files = []
        for name in (METRICS, TIMING):
            path = as_path(model_dir) / name
            lost = cut_beyond(path, -1 if step is None else step)
            if name == METRICS and lost is not None:
                again = f"what was made after step {step or 0}, the last checkpoint, is made again"
                say(f"{path} went to step {lost}: {again}")
            self._files.append(open_to_append(path))

    def write(self, step: int, metrics: Numbers, timing: Numbers) -> None:
        """See `Writer`. A line survives the end of the process; see `Appended`."""
        for file, numbers in zip(self._files, (metrics, timing), strict=True):
            if numbers:
                line = {"step": step} | {name: _json_number(number) for name, number in numbers.items()}
                file.write(json.dumps(line, sort_keys=True, allow_nan=False) + "\n")

    def flush(self) -> None:
        """See `Writer`."""
        for file in self._files:
            file.flush()

    def close(self) -> None:
        """See `Writer`."""
        for file in self._files:
            file.close()


def cut_beyond(path: FilePath, step: int) -> int | None:
    """Drops the lines of a JSON-lines file beyond `step`, and a last line that was not written to its end.

    The file is replaced as a whole: a cut that is interrupted has not happened.

    Returns:
        The last step of the lines that were dropped; None where none was.

    Raises:
        UserError: a line that is whole is not a JSON object with a step.
    """
    try:
        lines = read_bytes(path).decode(errors="replace").splitlines(keepends=True)
    except FileNotFoundError:
        return None
    kept, lost = [], None
    for number, line in enumerate(lines, start=1):
        if not line.endswith("\n"):
            break
        try:
            of_line = int(json.loads(line)["step"])
            if of_line <= step:
                kept.append(line)
            else:
                lost = of_line
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path}:{number} is not a line that training wrote: fix or remove it") from None
    if kept != lines:
        write_atomically(path, "".join(kept))
    return lost


def with_timing(metrics: Numbers, timing: Numbers) -> dict[str, int | float]:
    """Puts both into one dictionary; clocked numbers are timing/NAME."""
    return {**metrics, **{f"timing/{name}": number for name, number in timing.items()}}


def on_host(numbers: Scalars) -> dict[str, int | float]:
    """Fetches numbers from the devices together, as Python's."""
    return {
        name: number if isinstance(number, int | float) else number.item()
        for name, number in jax.device_get(dict(numbers)).items()
    }


def _json_number(number: int | float) -> int | float | str:
    return number if math.isfinite(number) else str(float(number))
