"""What forward passes cost, clocked and counted: kept beside the records, so that tables need no model."""

import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, get_args

import numpy as np
from jaxtyping import Float

from mrt5_jax.config import Deletion
from mrt5_jax.errors import UserError
from mrt5_jax.evaluation.estimates import Estimate, Estimates
from mrt5_jax.evaluation.records import Record
from mrt5_jax.model.multiply_adds import Polynomial, RowCost
from mrt5_jax.runs.files import AnyPath, read_bytes
from mrt5_jax.selection.deletions import DELETIONS, removes_positions

COSTS_FILE = "timing.json"
"""What lies beside the records of an evaluation."""

_WITHOUT_DELETION: tuple[Deletion, ...] = tuple(
    deletion for deletion in get_args(Deletion) if not DELETIONS[deletion].heeds_selector
)


class WindowTime(NamedTuple):
    """How long a forward pass of some batches together took."""

    deletion: Deletion
    milliseconds: float
    examples: dict[str, int]
    """How many, by language; padding is none."""


class Costs(NamedTuple):
    """What an evaluation has cost, under all its deletions."""

    times: tuple[WindowTime, ...] = ()
    """In the order in which they were clocked."""
    row: RowCost | None = None
    """None where nobody counted."""


def cost_estimates(
    records: Sequence[Record], costs: Costs, deletion: Deletion, language: str | None = None
) -> Estimates:
    """Computes runtime and multiply-adds an example; figures that are not known are left out.

    Args:
        records: of that deletion and language.
        costs: of their evaluation.
        deletion: of the figures.
        language: None: all. Of one language the times of windows are known that had examples of no other one.

    Returns:
        runtime, runtime_min, runtime_max: milliseconds, of which each example takes its share of its window: median,
        least, most. speedup: runtime without deletion over runtime, where the evaluation had deletion none.
        multiply_adds: mean, at the slots that ran. ideal_speedup: multiply-adds without deletion over those with
        exactly the slots that are needed.
    """
    figures: dict[str, float] = {}
    times = _by_example(costs, deletion, language)
    if times.size:
        runtime = float(np.median(times))
        figures |= {"runtime": runtime, "runtime_min": float(times.min()), "runtime_max": float(times.max())}
        whole = np.concatenate([_by_example(costs, other, language) for other in _WITHOUT_DELETION])
        if DELETIONS[deletion].heeds_selector and whole.size and runtime:
            figures["speedup"] = float(np.median(whole)) / runtime
    known = [record for record in records if record.input_length]
    if costs.row is not None and known:
        before, after = costs.row
        always = sum(before(record.input_length) for record in known)
        full = always + sum(after(record.input_length) for record in known)
        ran = always + sum(after(record.rung) for record in known)
        needed = always + sum(
            after(record.num_kept_tokens if removes_positions(deletion) else record.input_length) for record in known
        )
        figures |= {"multiply_adds": ran / len(known), "ideal_speedup": full / needed}
    return {name: Estimate(value) for name, value in figures.items()}


def _by_example(costs: Costs, deletion: Deletion, language: str | None) -> Float[np.ndarray, " examples"]:
    found = [np.zeros(0)]
    for time in costs.times:
        count = sum(time.examples.values())
        if time.deletion == deletion and count and (language is None or set(time.examples) == {language}):
            found.append(np.full(count, time.milliseconds / count))
    return np.concatenate(found)


def costs_to_json(costs: Costs) -> dict[str, Any]:
    """Returns what `read_costs` reads, for a JSON file."""
    counted = {} if costs.row is None else {"multiply_adds": costs.row._asdict()}
    return {"windows": [time._asdict() for time in costs.times], **counted}


def read_costs(path: AnyPath) -> Costs | None:
    """Reads a timing.json; None where there is none, or one of a version that did not clock windows.

    Raises:
        UserError: the file is damaged, or cannot be read.
    """
    try:
        found = json.loads(read_bytes(path))
        if found.get("windows") is None:
            return None
        times = tuple(map(_window_time, found["windows"]))
        counted = found.get("multiply_adds")
        if counted is None:
            return Costs(times)
        return Costs(times, RowCost(*(Polynomial(*map(int, counted[name])) for name in RowCost._fields)))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise UserError(f"{path} is not what `mrt5 eval` writes: evaluate again, or remove it") from None


def _window_time(values: Any) -> WindowTime:
    deletion, milliseconds = values["deletion"], float(values["milliseconds"])
    if deletion not in get_args(Deletion) or not math.isfinite(milliseconds):
        raise ValueError("no time of a window")
    return WindowTime(deletion, milliseconds, {str(name): int(count) for name, count in values["examples"].items()})
