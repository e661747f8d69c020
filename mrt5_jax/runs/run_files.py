"""The configuration of a run in its MODEL_DIR: written once, compared at every resume."""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from mrt5_jax.compaction.ladder import capacity_slots
from mrt5_jax.config import RunConfig
from mrt5_jax.data.arrangements import input_lengths
from mrt5_jax.data.source_files import check_same_files, name_files, record_of
from mrt5_jax.data.task_names import names_as_saved
from mrt5_jax.data.text_files import SourceFile
from mrt5_jax.errors import UserError
from mrt5_jax.moved_names import renew_run
from mrt5_jax.parallel.processes import say
from mrt5_jax.runs.files import AnyPath, FilePath, as_path, exists, read_bytes
from mrt5_jax.runs.model_dir import check_model_config, check_same_config, write_atomically, write_model_config
from mrt5_jax.runs.saved_configs import read_config
from mrt5_jax.unread_settings import without_unread

RUN_CONFIG = "run_config.json"
CONFIG_GIN = "config.gin"

Slots = dict[int, int]
"""Input length -> slots after the gate under a capacity; empty without one."""


@dataclasses.dataclass(frozen=True)
class SavedRun(RunConfig):
    """A run as its MODEL_DIR has it."""

    slots: tuple[tuple[int, int], ...] | None = None
    """Input lengths and their slots under a capacity, as they were when the run began."""


def read_run(model_dir: AnyPath) -> SavedRun | None:
    """Reads the run that MODEL_DIR was trained by; None after an import.

    Raises:
        UserError: the saved configuration cannot be read; see `read_config`.
    """
    return read_config(SavedRun, as_path(model_dir) / RUN_CONFIG, renew_run)


def slots_of(run: RunConfig, backend: str | None = None) -> Slots:
    """Returns the slots under a run's capacity: where MODEL_DIR has it already, those it began with. Touches nothing.

    Args:
        backend: JAX's name of the platform, which has a rounding; None: that of this process.

    Raises:
        UserError: the saved configuration cannot be read.
    """
    if run.compaction.capacity is None:
        return {}
    saved = read_run(run.model_dir)
    began = run if saved is None or saved.compaction.capacity != run.compaction.capacity else saved
    named = dict(began.slots or ()) if isinstance(began, SavedRun) else {}
    rounding, backend = began.execution.rounding, backend or jax.default_backend()
    return {
        length: named.get(length) or capacity_slots(length, run.compaction.capacity, rounding, backend)
        for length in input_lengths(run.data)
    }


DATA_FILES = "data_files.json"
"""The user's files that the run is trained on, with what identifies their content."""

_DATA_FILES_VERSION = 1
_NAMED_BY_PATH = re.compile(r"span_corruption\.files_[0-9a-f]{12}|characters\..*_[0-9a-f]{12}")


def under_saved_names(run: RunConfig) -> RunConfig:
    """Returns the run, with its tasks named as its MODEL_DIR does, where an earlier version named them otherwise."""
    try:
        data = json.loads(read_bytes(as_path(run.model_dir) / RUN_CONFIG))["data"]
        saved = [data["train_task"], *data["eval_tasks"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return run  # what is wrong with the file is said when the run is claimed
    names = names_as_saved([run.data.train_task, *run.data.eval_tasks], [name for name in saved if type(name) is str])
    data = dataclasses.replace(
        run.data,
        train_task=names[run.data.train_task],
        eval_tasks=tuple(names[task] for task in run.data.eval_tasks),
    )
    return dataclasses.replace(run, data=data)


def with_saved_choices(run: RunConfig) -> RunConfig:
    """Returns the run with what its MODEL_DIR names where the run leaves it open ("auto"); says once what that is.

    So a run that began by a recipe of before goes on as it began, though the recipe leaves it open by now.
    """
    try:
        saved = read_run(run.model_dir)
    except UserError:
        return run  # what is wrong with the file is said when the run is claimed
    if saved is None:
        return run
    named = []
    if run.training.deletion == "auto" != saved.training.deletion:
        run = dataclasses.replace(run, training=dataclasses.replace(run.training, deletion=saved.training.deletion))
        named.append(f"config.TrainingConfig.deletion = {saved.training.deletion!r}")
    if run.execution.chunks == "auto" != saved.execution.chunks:
        run = dataclasses.replace(run, execution=dataclasses.replace(run.execution, chunks=saved.execution.chunks))
        named.append(f"config.ExecutionConfig.chunks = {saved.execution.chunks}")
    if named:
        say(f"{as_path(run.model_dir) / RUN_CONFIG}: begun with {' and '.join(named)}, which the run keeps, not 'auto'")
    return run


def check_claim(run: RunConfig, files: Sequence[SourceFile] = ()) -> SavedRun | None:
    """Returns the run that MODEL_DIR has, if any, which has to be this one; see `claim`. Writes nothing."""
    folder = as_path(run.model_dir)
    try:
        old, data_files = read_run(folder), folder / DATA_FILES
        if old is not None:
            if exists(data_files):
                check_same_files(_read_data_files(data_files), files, str(data_files))
            if old.data.train_task != run.data.train_task and _NAMED_BY_PATH.match(old.data.train_task):
                raise UserError(
                    f"{folder / RUN_CONFIG}: begun by a version that knew files by paths and sizes, and "
                    f"{name_files(files)} is not where it was: put it back, or give another MODEL_DIR"
                )
            check_same_config(_what_matters(old), _what_matters(run), str(folder / RUN_CONFIG))
        check_model_config(folder, run.model)
    except OSError as error:
        raise UserError(f"MODEL_DIR {folder}: {error.strerror}; give a folder that can be read") from None
    return old


def claim(run: RunConfig, config_text: str, files: Sequence[SourceFile] = ()) -> None:
    """Writes what MODEL_DIR says of the run or, where there is a run already, checks that it is this one.

    Args:
        config_text: gin text that resolves to the run.
        files: of the user's that it is trained on.

    Raises:
        UserError: MODEL_DIR belongs to another run; the message lists every difference. Nothing is written.
    """
    folder = as_path(run.model_dir)
    check_claim(run, files)
    try:
        slots = slots_of(run)
        write_model_config(folder, run.model)
        write_atomically(folder / RUN_CONFIG, json.dumps(_as_json(run, slots), indent=2, allow_nan=False) + "\n")
        write_atomically(folder / CONFIG_GIN, config_text)
        if files:
            record = {"version": _DATA_FILES_VERSION, "files": record_of(files)}
            write_atomically(folder / DATA_FILES, json.dumps(record, indent=2, allow_nan=False) + "\n")
    except OSError as error:
        raise UserError(f"MODEL_DIR {folder}: {error.strerror}; give a folder that can be written") from None


def write_run(model_dir: AnyPath, run: SavedRun, config_text: str) -> None:
    """Writes what a new MODEL_DIR says of a run that was read from another one.

    Args:
        config_text: gin text that resolves to the run; empty: none is written.
    """
    folder = as_path(model_dir)
    write_atomically(
        folder / RUN_CONFIG, json.dumps(_as_json(run, dict(run.slots or ())), indent=2, allow_nan=False) + "\n"
    )
    if config_text:
        write_atomically(folder / CONFIG_GIN, config_text)


def _read_data_files(path: FilePath) -> list[dict[str, Any]]:
    try:
        record = json.loads(read_bytes(path))
        if record["version"] != _DATA_FILES_VERSION:
            raise UserError(f"{path}: written by a newer version: update mrt5_jax, or give another MODEL_DIR")
        return [{key: file[key] for key in ("split", "language", "path", "sha256")} for file in record["files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: no list of a run's files ({error!r}): restore it, or give another MODEL_DIR"
        ) from None


def _as_json(run: RunConfig, slots: Mapping[int, int]) -> dict[str, Any]:
    values = dataclasses.asdict(_plain(run))
    return values | {"slots": [list(pair) for pair in sorted(slots.items())]} if slots else values


def _plain(run: RunConfig) -> RunConfig:
    """The run without the slots of a saved one."""
    return RunConfig(**{field.name: getattr(run, field.name) for field in dataclasses.fields(RunConfig)})


def _what_matters(run: RunConfig) -> RunConfig:
    """The run without what may change from one start to the next.

    That is where it lies, how it is executed, what is kept, traced and evaluated, and when, how long it goes on, and
    when it gives up: more steps continue a run (a decaying schedule is then that of the longer run). Nor does it matter
    what nothing reads.
    """
    run = without_unread(_plain(run))
    blank = RunConfig(run.model_dir, run.model, run.data, run.training)
    return dataclasses.replace(
        run,
        model_dir="",
        execution=blank.execution,
        checkpoints=blank.checkpoints,
        evaluation=blank.evaluation,
        training=dataclasses.replace(
            run.training, num_steps=0, eval_every=0, eval_batches=0, profile_steps=None, max_refused_steps=0
        ),
        data=dataclasses.replace(run.data, eval_tasks=(), eval_batch_size=0),
    )
