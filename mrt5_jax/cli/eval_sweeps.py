"""One model at several thresholds, for `mrt5 eval`."""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mrt5_jax.config import Deletion, ModelConfig, RunConfig
from mrt5_jax.data.task_names import label_of
from mrt5_jax.errors import UserError

if TYPE_CHECKING:
    from mrt5_jax.evaluation.model_dirs import LoadedModel
    from mrt5_jax.runs.stored_threshold import StoredThreshold

_DELETIONS: tuple[Deletion, ...] = ("hard", "random")
"""What a sweep compares where nobody says otherwise."""

_ANSWERED: tuple[Deletion, ...] = ("hard",)
"""The same, where the model answers: under random deletion none does."""

_FOUND_ON = "validation"
"""The split on which a threshold is looked for."""


class SweepPoint(NamedTuple):
    """A model with a threshold, and what is evaluated of it."""

    loaded: "LoadedModel"
    run: RunConfig
    deletions: Sequence[Deletion]
    variant: str
    """What tells its folder from the others; empty for the model's own threshold."""


def add_sweep_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --threshold, --target_rate and --store_threshold."""
    group = parser.add_argument_group(
        "thresholds", "each is evaluated, by default under hard deletion and under random deletion of as much"
    )
    group.add_argument(
        "--threshold", type=float, nargs="+", action="extend", metavar="G", help="keep positions with gate values above"
    )
    group.add_argument(
        "--target_rate",
        type=float,
        nargs="+",
        action="extend",
        metavar="SHARE",
        help="find the threshold that deletes this share of the input tokens of the task's validation split",
    )
    group.add_argument(
        "--store_threshold",
        action="store_true",
        help="leave the threshold of one --target_rate in MODEL_DIR/threshold.json: eval, infer, inspect, serve and "
        "mrt5_jax.load then use it where no other is given; the trained one is used again when the file is removed",
    )


def check_sweep(args: argparse.Namespace, config: ModelConfig, tasks: Sequence[str]) -> None:
    """Refuses thresholds and rates that cannot be.

    Raises:
        UserError: naming the flag.
    """
    from mrt5_jax.api.loading import gate_with_values, with_threshold
    from mrt5_jax.evaluation.model_dirs import split_to_evaluate
    from mrt5_jax.selection.deletions import DELETIONS

    if args.store_threshold and (len(args.target_rate or ()) != 1 or len(tasks) != 1 or len(args.step or ()) > 1):
        raise UserError(
            "--store_threshold: give one --target_rate, one --task, on whose text it is found, and one --step"
        )
    if not _sweeps(args):
        return
    if args.threshold and args.target_rate:
        raise UserError("--threshold and --target_rate: give one of them")
    flag = "--threshold" if args.threshold else "--target_rate"
    if args.deletion and not any(DELETIONS[deletion].heeds_selector for deletion in args.deletion):
        raise UserError(f"{flag}: has no effect under {', '.join(args.deletion)} deletion: leave it out")
    gate_with_values(config, flag, args.model_dir)
    for threshold in args.threshold or ():
        with_threshold(config, threshold, args.model_dir)
    for rate in args.target_rate or ():
        if not 0 < rate < 1:
            raise UserError(f"--target_rate={rate:g}: should be between 0 and 1")
    for task in tasks if args.target_rate else ():
        split_to_evaluate(task, _FOUND_ON)


def default_deletions(args: argparse.Namespace, run: RunConfig) -> Sequence[Deletion]:
    """Returns what is evaluated: as --deletion says, or what a sweep compares, or as the run says."""
    if args.deletion:
        return args.deletion
    if not _sweeps(args):
        return run.evaluation.deletions
    return _ANSWERED if args.generate or args.labels else _DELETIONS


def threshold_in_use(args: argparse.Namespace, run: RunConfig) -> "StoredThreshold | None":
    """Returns the threshold that MODEL_DIR is to be used with where the flags give none; None: the trained one.

    Raises:
        UserError: what is stored cannot be read, or is of another model.
    """
    from mrt5_jax.api.loading import with_stored_threshold
    from mrt5_jax.parallel.processes import say
    from mrt5_jax.runs.stored_threshold import read_threshold

    stored = None if _sweeps(args) else read_threshold(args.model_dir)
    if stored is not None:
        with_stored_threshold(run.model, stored, args.model_dir)
        say(f"mrt5: {stored.line(args.model_dir)}")
    return stored


def sweep_points(
    args: argparse.Namespace,
    loaded: "LoadedModel",
    run: RunConfig,
    task: str,
    deletions: Sequence[Deletion],
    stored: "StoredThreshold | None",
    console: Any,
) -> list[SweepPoint]:
    """Returns the models to evaluate on a task: one for each threshold that was asked for, or one as it is used.

    What does not depend on the threshold is evaluated once. A found threshold is stored, if that was asked for.

    Args:
        stored: see `threshold_in_use`.

    Raises:
        UserError: no threshold gives a rate, or it cannot be stored.
    """
    if not _sweeps(args) and stored is None:
        return [SweepPoint(loaded, run, deletions, "")]
    from mrt5_jax.api.loading import with_threshold
    from mrt5_jax.model.encoder_decoder import MrT5
    from mrt5_jax.selection.deletions import DELETIONS

    if stored is not None:
        thresholds: list[float] = [stored.threshold]
    else:
        thresholds = args.threshold or _thresholds_found(loaded, run, task, args.target_rate)
    for rate, threshold in zip(args.target_rate or (), thresholds, strict=False):
        found = f"{label_of(task)} ({_FOUND_ON}): threshold {threshold:.6g} for a rate of {rate:g}"
        console.print(found, soft_wrap=True, highlight=False, markup=False)
        if args.store_threshold:
            _store(args.model_dir, threshold, rate, task, loaded.step, console)
    points = []
    for threshold in dict.fromkeys(thresholds):
        config = with_threshold(run.model, threshold, loaded.name)
        own: list[Deletion] = [deletion for deletion in deletions if not points or DELETIONS[deletion].heeds_selector]
        points.append(
            SweepPoint(
                dataclasses.replace(loaded, model=MrT5(config, run.execution)),
                dataclasses.replace(run, model=config),
                own,
                f"threshold{threshold:.12g}",
            )
        )
    return points


def _thresholds_found(loaded: "LoadedModel", run: RunConfig, task: str, rates: Sequence[float]) -> list[float]:
    """What the first of several processes finds: the last digit of another's would name another folder."""
    from mrt5_jax.evaluation.thresholds import thresholds_for_rates
    from mrt5_jax.parallel.processes import from_first_process, in_first_process

    found: list[float] = []
    in_first_process(lambda: found.extend(thresholds_for_rates(loaded, run, task, _FOUND_ON, rates)))
    return json.loads(from_first_process(json.dumps(found)))


def _store(model_dir: str, threshold: float, rate: float, task: str, step: int, console: Any) -> None:
    """Stores a threshold, and says which one it replaces."""
    from mrt5_jax.runs.files import as_path
    from mrt5_jax.runs.stored_threshold import THRESHOLD_FILE, StoredThreshold, read_threshold, write_threshold

    before = read_threshold(model_dir)
    write_threshold(model_dir, StoredThreshold(threshold, rate, task, _FOUND_ON, step))
    replaced = "" if before is None else f", in place of {before.threshold:.6g}"
    line = f"stored: {as_path(model_dir) / THRESHOLD_FILE}{replaced}; remove it to use the trained threshold again"
    console.print(line, soft_wrap=True, highlight=False, markup=False)


def _sweeps(args: argparse.Namespace) -> bool:
    return bool(args.threshold or args.target_rate)
