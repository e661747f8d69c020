"""The best checkpoint of a run by a metric, kept in a MODEL_DIR of its own, where the run does not clear it away.

MODEL_DIR/best_METRIC/
    best.json            `Best`: which checkpoint it is, and by what measure
    checkpoints/STEP/    its weights, without what only training needs
    model_config.json, run_config.json, config.gin, threshold.json    as the run has them
"""

import contextlib
import dataclasses
import json
import math
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from mrt5_jax.config import Deletion, RunConfig
from mrt5_jax.data.registry import tasks_of
from mrt5_jax.data.streams import eval_examples
from mrt5_jax.data.task_names import identifier
from mrt5_jax.errors import UserError
from mrt5_jax.evaluation.comparison import compare
from mrt5_jax.evaluation.estimates import OWN_METRIC, RATIOS
from mrt5_jax.evaluation.evaluate import Evaluation
from mrt5_jax.evaluation.model_dirs import LoadedModel
from mrt5_jax.evaluation.records import of_deletion
from mrt5_jax.evaluation.task_metrics import measure_texts, target_text
from mrt5_jax.runs import folders
from mrt5_jax.runs.bucket_checkpoints import commit, committed_steps, remove_step
from mrt5_jax.runs.buckets import BucketPath
from mrt5_jax.runs.checkpoints import save_model
from mrt5_jax.runs.files import AnyPath, FilePath, as_path, exists, read_bytes
from mrt5_jax.runs.model_dir import CHECKPOINTS, MODEL_CONFIG, config_differences, write_atomically
from mrt5_jax.runs.restoring import first_line
from mrt5_jax.runs.run_files import CONFIG_GIN, RUN_CONFIG
from mrt5_jax.runs.saved_configs import read_config
from mrt5_jax.runs.stored_threshold import THRESHOLD_FILE

BEST_FILE = "best.json"

_FEW = 8
"""Examples of a task by which its metrics tell their names."""

Better = Literal["min", "max"]
"""Whether lower or higher values of a metric are better."""

_KNOWN_TO_BE_BETTER: Mapping[str, Better] = {
    "loss": "min",
    "bits_per_target_token": "min",
    "bits_per_text_byte": "min",
    "token_accuracy": "max",
    "sequence_accuracy": "max",
    "generated_accuracy": "max",
    "label_accuracy": "max",
}


@dataclasses.dataclass(frozen=True)
class Measure:
    """What makes one checkpoint better than another."""

    metric: str
    """As the tables' values call it: `loss`, `sequence_accuracy`, `metrics/f1`."""
    better: Better
    task: str
    split: str
    deletion: Deletion
    num_examples: int | None


@dataclasses.dataclass(frozen=True)
class Best:
    """The checkpoint that is kept."""

    measure: Measure
    value: float
    step: int
    weights: str
    """See `RestoredParams.digest`."""


def metric_names(run: RunConfig, task: str, split: str, *, generated: bool, labelled: bool) -> list[str]:
    """Returns the names of the metrics that an evaluation has.

    The task's own metrics are asked for their names with a few examples, as if these had been answered rightly.

    Args:
        run: its data.
        task: the task or mixture.
        split: of it.
        generated: whether the model writes.
        labelled: whether labels are scored.
    """
    asked_for = {"generated_accuracy": generated, "label_accuracy": labelled}
    names = [name for name in RATIOS if asked_for.get(name, True)]
    if generated:
        answered = {spec.name: [] for spec in tasks_of(task)}
        for info, example in eval_examples(task, run.data, split=split, num_examples=_FEW):
            answered[info.task].append((target_text(example), example))
        for spec in tasks_of(task):
            names += [f"{OWN_METRIC}{name}" for name in measure_texts(spec, answered[spec.name]).together]
    return list(dict.fromkeys(names))


def better_end(metric: str) -> Better | None:
    """Returns whether lower or higher is better; None where that depends on what is wanted, as of a deletion rate."""
    return "max" if metric.startswith(OWN_METRIC) else _KNOWN_TO_BE_BETTER.get(metric)


class BestCheckpoint:
    """Keeps the best of the checkpoints that it is offered, those of earlier calls included.

    Args:
        model_dir: of the run.
        measure: what is best.

    Raises:
        UserError: what is kept there was the best by another measure, or cannot be read.
    """

    def __init__(self, model_dir: AnyPath, measure: Measure) -> None:
        self._run_folder, self._measure = as_path(model_dir), measure
        self.folder = self._run_folder / f"best_{identifier(measure.metric)}"
        self._best = read_config(Best, self.folder / BEST_FILE, lambda values, place: values)
        if self._best is not None and self._best.measure != measure:
            raise UserError(
                f"{self.folder} keeps the best by another measure "
                f"({'; '.join(config_differences(self._best.measure, measure))}): move it away, or ask for that one"
            )

    def offer(self, evaluation: Evaluation, loaded: LoadedModel) -> str:
        """Keeps the weights of a checkpoint if they are the best so far; returns what became of them, a sentence.

        Args:
            evaluation: of the checkpoint.
            loaded: its model, as it was trained.

        Raises:
            UserError: they cannot be written.
        """
        name, value, best = self._measure.metric, self._value(evaluation), self._best
        if math.isnan(value):
            return f"step {loaded.step} has no {name}: not compared"
        sign = 1 if self._measure.better == "max" else -1
        if best is not None and sign * value <= sign * best.value:
            return f"{name} {value:.6g} at step {loaded.step}: the best is step {best.step} with {best.value:.6g}"
        self._best = Best(self._measure, value, loaded.step, loaded.digest)
        try:
            self._keep(self._best, loaded)
        except UserError:
            raise
        except Exception as error:  # the file system's and tensorstore's, as they come
            raise UserError(
                f"{self.folder} cannot be written ({first_line(error)}): fix the cause (disk space, permissions) and "
                "run the same command again"
            ) from None
        return f"{name} {value:.6g} at step {loaded.step} is the best so far: kept in {self.folder}"

    def _value(self, evaluation: Evaluation) -> float:
        """NaN where nothing was counted."""
        measure = self._measure
        (comparison,) = compare(of_deletion(evaluation.records, measure.deletion), resamples=2)
        if measure.metric in comparison.systems[0].total:
            return comparison.systems[0].total[measure.metric].value
        together = (evaluation.task_metrics or {}).get(measure.deletion, {}).values()
        own = measure.metric.removeprefix(OWN_METRIC)
        values = [metrics[own] for metrics in together if own in metrics]
        return values[0] if len(values) == 1 else math.nan

    def _keep(self, best: Best, loaded: LoadedModel) -> None:
        """At every moment the folder holds the checkpoint that best.json names, whole."""
        for name in (MODEL_CONFIG, RUN_CONFIG, CONFIG_GIN, THRESHOLD_FILE):
            if exists(self._run_folder / name):
                write_atomically(self.folder / name, read_bytes(self._run_folder / name).decode())
        checkpoints = self.folder / CHECKPOINTS
        with self._scratch() as scratch:
            saved = save_model(scratch, loaded.params, loaded.model.config, step=best.step) / str(best.step)
            if isinstance(checkpoints, BucketPath):
                commit(saved, checkpoints / saved.name)
            else:
                folders.remove(checkpoints / saved.name)  # of a call that was killed before it wrote best.json
                folders.move(saved, checkpoints / saved.name)
        write_atomically(self.folder / BEST_FILE, json.dumps(dataclasses.asdict(best), indent=2) + "\n")
        for other in _steps(checkpoints):
            if other.name != saved.name:
                remove_step(other) if isinstance(other, BucketPath) else folders.remove(other)

    @contextlib.contextmanager
    def _scratch(self) -> Iterator[Path]:
        """A folder from which what is whole can be moved to its place."""
        beside = self.folder if isinstance(self.folder, Path) else None
        with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=beside) as scratch:
            yield Path(scratch)


def _steps(checkpoints: FilePath) -> list[FilePath]:
    if isinstance(checkpoints, BucketPath):
        return [checkpoints / str(step) for step in committed_steps(checkpoints)]
    return list(checkpoints.iterdir())
