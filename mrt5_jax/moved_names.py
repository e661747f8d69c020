"""Settings that have moved, by their old names: saved runs, gin files and flags may use those until version 0.2.0."""

import functools
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from mrt5_jax.errors import UserError

LAST_VERSION = "0.2.0"
NEW_OWNER = "ExecutionConfig"

MOVED = {
    ("ModelConfig", "remat"): "remat",
    ("ModelConfig", "scan_unroll"): "scan_unroll",
    ("ModelConfig", "attention_rows"): "attention_rows",
    ("CompactionConfig", "rounding"): "rounding",
    ("CompactionConfig", "max_rungs"): "max_rungs",
    ("CompactionConfig", "rungs"): "rungs",
    ("CompactionConfig", "dispatch"): "dispatch",
    ("CompactionConfig", "inference_dispatch"): "inference_dispatch",
    ("CompactionConfig", "suffix_chunks"): "chunks",
    ("TrainingConfig", "microbatches"): "microbatches",
    ("TrainingConfig", "log_every"): "log_every",
    ("RunConfig", "mesh"): "mesh",
}
"""Class and field of old -> field of ExecutionConfig."""


def renewed_value(field: str, value: Any) -> Any:
    """Returns what a value given under an old name is in ExecutionConfig; the kernels of "fused" are gone."""
    return "auto" if (field, value) == ("attention_rows", "fused") else value


_SECTIONS = {"ModelConfig": "model", "CompactionConfig": "compaction", "TrainingConfig": "training", "RunConfig": ""}

OLD_CAPACITY = 0.5
"""What CompactionConfig.capacity was where nobody gave one."""


def renewed_dispatch(dispatch: str | None) -> str | None:
    """Returns what a dispatch of old is called now: "capacity", one of three, was one program with one length."""
    return "in_graph" if dispatch == "capacity" else dispatch


def renewed_capacity(dispatch: str | None, capacity: float | None) -> float | None:
    """Returns the capacity of today that old settings meant: it was read under its own dispatch alone.

    Args:
        dispatch: the old one of training or of inference; None where it is not given.
        capacity: as given; None: not at all.
    """
    if dispatch != "capacity":
        return None
    return OLD_CAPACITY if capacity is None else capacity


def moved_line(place: str, old_names: Sequence[tuple[str, str]], dispatches: Iterable[Any] = ()) -> str:
    """Returns what to say once about a file or a flag that uses old names.

    Args:
        old_names: classes and fields.
        dispatches: the values of those that are a dispatch.
    """
    new = [f"config.{owner}.{field} is now config.{NEW_OWNER}.{MOVED[owner, field]}" for owner, field in old_names]
    if "capacity" in dispatches:
        new.append("dispatch 'capacity' is now config.CompactionConfig.capacity, and of eval EvaluationConfig.capacity")
    return f"{place}: {', '.join(new)}; old names are read until {LAST_VERSION}"


@functools.cache
def say_once(line: str) -> None:
    """Prints a line on standard error, the first time that it is said."""
    print(f"mrt5: {line}", file=sys.stderr, flush=True)


def renew_run(values: dict[str, Any], place: str) -> dict[str, Any]:
    """Returns the JSON of a run that may have old names, with new ones; says once which.

    Raises:
        UserError: an old and a new name are given of one setting.
    """
    renewed = {name: dict(value) if isinstance(value, dict) else value for name, value in values.items()}
    execution, found = {}, []
    for (owner, field), new in MOVED.items():
        old = renewed if owner == "RunConfig" else renewed.get(_SECTIONS[owner])
        if isinstance(old, dict) and field in old:
            execution[new] = renewed_value(new, old.pop(field))
            found.append((owner, field))
    if not found:
        return values
    given = values.get("execution", {})
    if not isinstance(given, dict):
        return values
    if both := sorted(execution.keys() & given.keys()):
        raise UserError(f"{place}: execution.{both[0]} is there under its old name too: remove one of them")
    say_once(moved_line(place, found, [execution.get("dispatch"), execution.get("inference_dispatch")]))
    _renew_capacities(renewed, execution)
    return {**renewed, "execution": {**execution, **given}}


def renew_model(values: dict[str, Any], place: str) -> dict[str, Any]:
    """Returns a model's JSON without what old versions kept there of its execution; says once that it is not read."""
    old = [name for owner, name in MOVED if owner == "ModelConfig" and name in values]
    if not old:
        return values
    say_once(moved_line(place, [("ModelConfig", name) for name in old]))
    return {name: value for name, value in values.items() if name not in old}


def _renew_capacities(renewed: dict[str, Any], execution: dict[str, Any]) -> None:
    compaction = renewed.get("compaction")
    if not isinstance(compaction, dict) or not {"dispatch", "inference_dispatch"} & execution.keys():
        return
    given = compaction.get("capacity")
    training, evaluation = (renewed_capacity(execution.get(name), given) for name in ("dispatch", "inference_dispatch"))
    compaction["capacity"] = training
    for name in {"dispatch", "inference_dispatch"} & execution.keys():
        execution[name] = renewed_dispatch(execution[name])
    if evaluation is not None and isinstance(renewed.get("evaluation"), dict):
        renewed["evaluation"] = {**renewed["evaluation"], "capacity": evaluation}
