"""Evaluating what lies in a MODEL_DIR, on all devices.

MODEL_DIR/eval/TASK-SPLIT-stepN/
    records.jsonl    a `Record` a line
    summary.json     metrics by deletion, over all records and by language, and the soft-hard gap
    timing.json      what is clocked, with the multiply-adds that go with it (`costs.py`)

Where text was generated too, the folder's name ends with how (TASK-SPLIT-stepN-greedy), and holds generated-*.jsonl
(`generation.py`).
"""

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, islice
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mrt5_jax.compaction.chunk_counts import fixed_chunks
from mrt5_jax.compaction.ladder import BodyCost, make_ladders
from mrt5_jax.config import Deletion, ExecutionConfig, ModelConfig, RunConfig
from mrt5_jax.data.arrangements import input_lengths
from mrt5_jax.data.batches import EvalBatch, eval_batches
from mrt5_jax.data.expectation import EXPECTATION
from mrt5_jax.data.registry import find_split, task_languages, tasks_of
from mrt5_jax.data.streams import eval_languages
from mrt5_jax.data.task_names import label_of
from mrt5_jax.errors import UserError
from mrt5_jax.evaluation.costs import COSTS_FILE, costs_to_json
from mrt5_jax.evaluation.evaluate import Evaluation, evaluate
from mrt5_jax.evaluation.first_batches import check_first_evaluated
from mrt5_jax.evaluation.programs import WindowEvaluator
from mrt5_jax.evaluation.records import (
    Record,
    deletions_in,
    group_by,
    of_deletion,
    soft_hard_gap,
    summarize,
    to_json_lines,
)
from mrt5_jax.evaluation.window_dealing import WindowDealing
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.model.multiply_adds import body_multiply_adds, row_cost
from mrt5_jax.model.parameters import Params, path_name
from mrt5_jax.model.precision import check_precision
from mrt5_jax.parallel.batches import check_batch_size, put_batch
from mrt5_jax.parallel.memory import batches_in_window
from mrt5_jax.parallel.mesh import make_mesh, row_shards
from mrt5_jax.parallel.shardings import param_shardings
from mrt5_jax.runs.files import AnyPath, FilePath, as_path
from mrt5_jax.runs.model_dir import write_atomically
from mrt5_jax.runs.restoring import data_state_of, restore_params
from mrt5_jax.selection.deletions import DELETIONS
from mrt5_jax.selection.selectors import deletion_threshold, selector_rule

EVALUATIONS = "eval"
RECORDS, SUMMARY, TIMING = "records.jsonl", "summary.json", COSTS_FILE
_TRAINED_ON = "train"
SETTINGS = "settings"
"""Of summary.json: see `finished.evaluation_settings`."""
EXAMPLES = "examples"
"""Of summary.json: the digest of the batches that were evaluated."""


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """The model of a checkpoint, ready on its devices."""

    model: MrT5
    params: Params
    step: int
    mesh: Mesh
    expectation: Mapping[str, Any] | None = None
    """What training has learned to expect of rows (`Expectation.state`); None where it did not."""
    name: str = ""
    """What records call it: the last part of what it was loaded from."""
    digest: str = ""
    """See `RestoredParams`; empty where it was not read from a checkpoint."""


def load_model(model_dir: AnyPath, config: ModelConfig, step: int | None, execution: ExecutionConfig) -> LoadedModel:
    """Loads the model of a checkpoint, spread over the devices of this process; the data axis takes what there are.

    Raises:
        UserError: no such checkpoint, or one of another model; devices that the mesh does not fit.
    """
    check_precision(config)
    model = MrT5(config, execution)
    devices = make_mesh(dataclasses.replace(execution.mesh, data=-1), jax.local_devices())
    boxed = jax.eval_shape(model.init, jax.random.key(0), *2 * [jax.ShapeDtypeStruct((1, 1), jnp.int32)])["params"]
    shardings = {
        path_name(path): sharding
        for path, sharding in jax.tree_util.tree_leaves_with_path(param_shardings(boxed, devices))
    }
    restored = restore_params(model_dir, step, shardings.__getitem__)
    learned = (data_state_of(model_dir, restored.step) or {}).get(EXPECTATION)
    name = as_path(model_dir).name
    return LoadedModel(model, restored.params, restored.step, devices, learned, name, restored.digest)


def split_to_evaluate(task: str, wanted: str | None = None) -> str:
    """Returns the split to evaluate of a task or mixture: the wanted one, else "test", else "validation".

    A mixture is refused where a task has other splits to evaluate, but not this one: its total would not say so. Tasks
    that are only trained on count for nothing.

    Raises:
        UserError: an unknown task, or one without the split.
    """
    tasks = tasks_of(task)
    there = sorted({split for part in tasks for split in part.splits})
    split = wanted or ("test" if "test" in there else "validation")
    if split not in there:
        raise UserError(f"task {label_of(task)} has no {split} split, only {', '.join(there)}")
    to_evaluate = [part for part in tasks if set(part.splits) - {_TRAINED_ON}]
    if split != _TRAINED_ON and (lacking := [label_of(part.name) for part in to_evaluate if split not in part.splits]):
        raise UserError(
            f"mixture {label_of(task)}: {', '.join(lacking)} of its tasks has no {split} split: evaluate another "
            "split, or the other tasks by their names"
        )
    return split


def num_evaluated(task: str, split: str, most: int | None = None) -> int | None:
    """Counts the examples of a task's split, or of each task of a mixture; None where only reading would tell.

    Args:
        most: of each task.

    Raises:
        UserError: the split is not there, or cannot be read.
    """
    sizes = [part.source.num_examples(split) for part in find_split(task, split)]
    if most is not None:
        sizes = [most if size is None else min(size, most) for size in sizes]
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None


def evaluate_task(
    loaded: LoadedModel,
    run: RunConfig,
    task: str,
    split: str,
    deletions: Sequence[Deletion],
    watch: Callable[[Iterable[EvalBatch]], Iterable[EvalBatch]] = iter,
    rounds: int = 1,
) -> Evaluation:
    """Evaluates `run.evaluation.num_examples` of a task's split, in the run's batches.

    Args:
        watch: sees the batches go by, to show progress.
        rounds: see `collect_records`.

    Raises:
        UserError: an unknown task or split; an eval_batch_size that the devices cannot share; a window larger than
            their memory; first examples that the model's selector needs more of than there is.
    """
    check_batch_size(run.data.eval_batch_size, loaded.mesh, "eval_batch_size")
    check_first_evaluated(run.model.gate, task, run.data, split)
    execution, capacity = run.execution, run.evaluation.capacity
    shards, chunks = row_shards(loaded.mesh).count, fixed_chunks(execution)
    if run.data.eval_batch_size % (shards * chunks):
        raise UserError(
            f"eval_batch_size={run.data.eval_batch_size} does not divide over {shards} device(s) x "
            f"chunks={chunks}: give a multiple of {shards * chunks}"
        )
    cost = body_multiply_adds(run.model, run.data.target_length)
    lengths, dispatch = input_lengths(run.data), execution.inference_dispatch
    ladders = make_ladders(lengths, execution, jax.default_backend(), capacity, cost, dispatch)
    window = batches_in_window(run.model, execution, run.data.eval_batch_size, run.data.input_length, shards)
    batches = iter(watch(eval_batches(task, run.data, split=split, num_examples=run.evaluation.num_examples)))
    first = list(islice(batches, window))
    evaluator = WindowEvaluator(
        loaded.model,
        ladders,
        run.evaluation.seed,
        dispatch=dispatch,
        window=max(1, len(first)),
        num_chunks=chunks,
        num_shards=shards,
    )
    dealing = None
    if shards > 1 and run.model.gate is not None and execution.device_rows != "as_they_come":
        languages = eval_languages(task, run.data)
        dealing = WindowDealing(shards, languages, run.data.input_length, loaded.expectation)
    found = evaluate(
        evaluator,
        loaded.params,
        chain(first, batches),
        deletions,
        lambda batch: put_batch(batch, loaded.mesh),
        dealing,
        rounds,
    )
    lost = [record for record in found.records if not math.isfinite(record.nll)]
    if lost:
        raise UserError(
            f"step {loaded.step}: the model's numbers are not finite for {len(lost)} of {len(found.records)} results; "
            f"the first is example {lost[0].index} of {lost[0].task} under {lost[0].deletion} deletion: nothing written"
        )
    found = found._replace(
        records=[
            record._replace(
                mixture=task,
                split=split,
                model=loaded.name,
                step=loaded.step,
                threshold=threshold_under(run.model, record.deletion),
            )
            for record in found.records
        ],
        costs=found.costs._replace(row=row_cost(run.model, run.data.target_length)),
        body=body_of(run),
    )
    return found


def body_of(run: RunConfig) -> BodyCost | None:
    """Returns what the slots of a run's model cost, as `Evaluation` has it."""
    return None if run.model.gate is None else body_multiply_adds(run.model, run.data.target_length)


def languages_line(records: Sequence[Record], task: str, split: str) -> str:
    """Says which languages of a task have no example in its split; empty where all have some."""
    lacking = sorted(set(task_languages(task)) - set(group_by(records, "language")))
    if not lacking:
        return ""
    return f"task {label_of(task)}: its {split} split has no example of {', '.join(lacking)}: tables are without them"


def threshold_under(config: ModelConfig, deletion: Deletion) -> float | None:
    """Returns what a model's gate values are compared with under a deletion; None where it compares none."""
    gate = config.gate
    if gate is None or not DELETIONS[deletion].heeds_selector or "threshold" not in selector_rule(gate).reads:
        return None
    return float(deletion_threshold(gate))


def evaluation_folder(model_dir: AnyPath, task: str, split: str, step: int, variant: str = "") -> FilePath:
    """Returns where an evaluation of a MODEL_DIR is written; see `write_evaluation`."""
    name = f"{task.replace('/', '_').replace(':', '-')}-{split}-step{step}"
    return as_path(model_dir) / EVALUATIONS / "-".join(filter(None, (name, variant)))


def write_evaluation(
    model_dir: AnyPath,
    evaluation: Evaluation,
    task: str,
    split: str,
    step: int,
    variant: str = "",
    settings: Mapping[str, Any] | None = None,
    examples: str = "",
) -> FilePath:
    """Writes an evaluation of some examples below MODEL_DIR, over an earlier one of the same; returns its folder.

    Args:
        variant: what tells it from other evaluations of the same checkpoint, for the folder's name.
        settings: by which `finished.finished_evaluation` knows it again; None: it does not.
        examples: the digest of what was evaluated, by which it does too; empty where nobody took it.

    Raises:
        UserError: it cannot be written.
    """
    records = evaluation.records
    summary = {
        "task": task,
        "split": split,
        "step": step,
        "num_examples": len(of_deletion(records, deletions_in(records)[0])),
        "num_cut": {"inputs": evaluation.num_inputs_cut, "targets": evaluation.num_targets_cut},
        **_summary(records, evaluation.body),
        "languages": {
            name: _summary(group, evaluation.body) for name, group in group_by(records, "language").items() if name
        },
    }
    if settings is not None:
        summary[SETTINGS] = settings
    if examples:
        summary[EXAMPLES] = examples
    if evaluation.task_metrics:
        summary["task_metrics"] = evaluation.task_metrics
    timing = {"milliseconds_per_batch": evaluation.milliseconds, **costs_to_json(evaluation.costs)}
    folder = evaluation_folder(model_dir, task, split, step, variant)
    try:
        write_atomically(folder / RECORDS, to_json_lines(records))
        write_atomically(folder / TIMING, json.dumps(timing, indent=2, allow_nan=False) + "\n")
        # The last one: by its settings an evaluation counts as finished.
        write_atomically(folder / SUMMARY, json.dumps(summary, indent=2, allow_nan=False) + "\n")
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}): give a MODEL_DIR that can") from None
    return folder


def _summary(records: Sequence[Record], body: BodyCost | None) -> dict[str, Any]:
    """NaN, which is no JSON, becomes null."""
    metrics = {deletion: summarize(of_deletion(records, deletion), body) for deletion in deletions_in(records)}
    return {
        "metrics": {
            deletion: {name: None if math.isnan(value) else value for name, value in of.items()}
            for deletion, of in metrics.items()
        },
        "soft_hard_gap": None if (gap := soft_hard_gap(records)) is None or math.isnan(gap) else gap,
    }
