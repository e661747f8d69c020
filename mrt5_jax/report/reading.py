"""What MODEL_DIRs hold of their runs: metrics of training, records of evaluations, times of batches."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mrt5_jax.config import ControllerConfig
from mrt5_jax.data.task_names import label_of
from mrt5_jax.errors import UserError
from mrt5_jax.evaluation.comparison import System, named_source, system_of
from mrt5_jax.evaluation.model_dirs import EVALUATIONS, RECORDS, SUMMARY, TIMING
from mrt5_jax.evaluation.records import Record, read_records
from mrt5_jax.runs.files import AnyPath, FilePath, as_path, exists, explained, files_for, read_bytes
from mrt5_jax.runs.model_dir import METRICS, read_model_config
from mrt5_jax.runs.run_files import read_run
from mrt5_jax.selection.deletions import DELETIONS, removes_positions
from mrt5_jax.training.steering import controller_names

MetricsLine = dict[str, float]
"""A line of metrics.jsonl, "step" among its names."""


class BatchTime(NamedTuple):
    """How long a batch takes under a deletion, and what was saved of its work, as an evaluation has written it."""

    task: str
    split: str
    step: int
    deletion: str
    milliseconds: float
    """Median of a batch."""
    undeleted_milliseconds: float
    """The same without deletion, in the same evaluation."""
    saved: float
    """Share of the multiply-adds after the gate that the slots saved."""
    saved_if_exact: float
    """Share that slots of exactly the kept lengths would have saved."""


@dataclasses.dataclass(frozen=True)
class RunResults:
    """What a MODEL_DIR holds of its run."""

    name: str
    """What the report calls it."""
    folder: str
    metrics: Sequence[MetricsLine]
    """Of training, in order; empty after an import."""
    targets: Mapping[str, float]
    """Deletion rates that the controllers steer to, by what each steers: everything under the empty name or, where
    languages have targets of their own, each of them and "others"."""
    num_steps: int | None
    """Of the whole run; None after an import."""
    evaluates: bool
    """Whether the run evaluates after its last step."""
    records: Sequence[Record]
    """Of all evaluations, each system on each task once; their `model` is `name`."""
    times: Sequence[BatchTime]
    notes: Sequence[str]
    """What was left out, a sentence each."""

    @property
    def last_step(self) -> int:
        """The last step that there are metrics of; 0 where there are none."""
        return int(self.metrics[-1]["step"]) if self.metrics else 0

    @property
    def is_unfinished(self) -> bool:
        """Whether steps are left to be made, or the evaluation after the last one."""
        if self.num_steps is None:
            return False
        last = {name for line in self.metrics if line["step"] >= self.num_steps for name in line}
        return not last or (self.evaluates and not any(name.startswith("eval/") for name in last))


def locate_run(source: str) -> tuple[str, str]:
    """Returns what a report calls a run, and its folder.

    Args:
        source: MODEL_DIR, or NAME=MODEL_DIR; without a name it is the last part of the path.

    Raises:
        UserError: the name or the path is empty, or cannot be one.
    """
    with explained(source):
        name, folder = named_source(source)
    return name or as_path(folder).name or Path(folder).resolve().name, folder


def read_run_results(source: str) -> RunResults:
    """Reads what a MODEL_DIR holds.

    Args:
        source: MODEL_DIR, or NAME=MODEL_DIR.

    Raises:
        UserError: it is no MODEL_DIR, or a file in it is damaged or of a newer version.
    """
    name, folder = locate_run(source)
    read_model_config(folder)
    run = read_run(folder)
    records, notes = _read_evaluations_of(folder, name)
    return RunResults(
        name=name,
        folder=folder,
        metrics=read_metrics(folder),
        targets={} if run is None or run.controller is None else _targets(run.controller),
        num_steps=None if run is None else run.training.num_steps,
        evaluates=run is not None and bool(run.data.eval_tasks),
        records=records,
        times=[time for place in _evaluations(folder) for time in _batch_times(place)],
        notes=notes,
    )


def _targets(controller: ControllerConfig) -> dict[str, float]:
    targets = *(target for _, target in controller.language_targets), controller.target_deletion_rate
    return dict(zip(controller_names(controller) or ("",), map(float, targets), strict=True))


def read_metrics(model_dir: AnyPath) -> list[MetricsLine]:
    """Reads MODEL_DIR/metrics.jsonl; a last line that is still being written is left out, no file has no lines.

    Raises:
        UserError: a line that training did not write, by its number.
    """
    path = as_path(model_dir) / METRICS
    with explained(path):
        if not exists(path):
            return []
        lines = read_bytes(path).split(b"\n")
    found: list[MetricsLine] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            values = {name: float(value) for name, value in json.loads(line).items()}
            int(values["step"])
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            if number == len(lines):
                break
            raise UserError(f"{path}, line {number} is not a line that training wrote: fix or remove it") from None
        found.append(values)
    return found


def _evaluations(model_dir: AnyPath) -> list[FilePath]:
    """The folders of evaluations with records, by name."""
    folder = as_path(model_dir) / EVALUATIONS
    with explained(folder):
        found = [name.split("/") for name in files_for(folder).below(folder)]
    return [folder / name for name in sorted(parts[0] for parts in found if parts[1:] == [RECORDS])]


def _read_evaluations_of(model_dir: AnyPath, name: str) -> tuple[list[Record], list[str]]:
    """The records of all evaluations, and what is said of those left out.

    Evaluations of one checkpoint may overlap: with answers and without. The last by name has the answers.
    """
    groups: dict[tuple[str, str, System], list[Record]] = {}
    places: dict[tuple[str, str, System], FilePath] = {}
    notes: list[str] = []
    for folder in _evaluations(model_dir):
        own: dict[tuple[str, str, System], list[Record]] = {}
        for record in read_records(folder / RECORDS):
            record = record._replace(model=name)
            key = record.mixture or record.task, record.split, system_of(record)
            own.setdefault(key, []).append(record)
        for key, records in own.items():
            if key in places:
                of = f"{label_of(key[0])} under {key[2].deletion} deletion"
                notes.append(f"{name}: {places[key].name} and {folder.name} both have {of}; shown is the latter")
            groups[key], places[key] = records, folder
    return [record for records in groups.values() for record in records], notes


def _batch_times(folder: FilePath) -> Iterator[BatchTime]:
    """The times of an evaluation's deletions that remove positions, where it has one without deletion beside them."""
    timing, summary = (_read_object(folder / name) for name in (TIMING, SUMMARY))
    if timing is None or summary is None:
        return
    try:
        milliseconds = {name: float(value) for name, value in timing["milliseconds_per_batch"].items()}
        whole = [value for name, value in milliseconds.items() if not DELETIONS[name].heeds_selector]
        for deletion, value in milliseconds.items():
            shares = [summary["metrics"].get(deletion, {}).get(name) for name in ("saved", "saved_if_exact")]
            if whole and removes_positions(deletion) and None not in shares:
                place = label_of(summary["task"]), summary["split"], int(summary["step"])
                yield BatchTime(*place, deletion, value, whole[0], *map(float, shares))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(f"{folder}: {TIMING} or {SUMMARY} is not what `mrt5 eval` writes: evaluate again") from None


def _read_object(path: FilePath) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is no file."""
    try:
        found = json.loads(read_bytes(path))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}): evaluate again") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no object: evaluate again")
    return found


def fingerprint(model_dir: AnyPath) -> dict[str, tuple[int | str, ...]]:
    """Returns what changes whenever the metrics or the evaluations of a MODEL_DIR do: identities of files by path."""
    folder = as_path(model_dir)
    paths = [folder / METRICS, *(place / name for place in _evaluations(folder) for name in (RECORDS, SUMMARY, TIMING))]
    found = {}
    for path in paths:
        with explained(path), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            found[str(path)] = files_for(path).stat(path).identity
    return found
