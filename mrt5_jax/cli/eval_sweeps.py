"""One model at several thresholds, for `mrt5 eval`."""

import argparse
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mrt5_jax.config import Deletion, ModelConfig, RunConfig
from mrt5_jax.data.task_names import label_of
from mrt5_jax.errors import UserError

if TYPE_CHECKING:
    from mrt5_jax.evaluation.model_dirs import LoadedModel

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
    """Adds --threshold and --target_rate."""
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


def check_sweep(args: argparse.Namespace, config: ModelConfig, tasks: Sequence[str]) -> None:
    """Refuses thresholds and rates that cannot be.

    Raises:
        UserError: naming the flag.
    """
    from mrt5_jax.api.loading import gate_with_values, with_threshold
    from mrt5_jax.evaluation.model_dirs import split_to_evaluate
    from mrt5_jax.selection.deletions import DELETIONS

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


def sweep_points(
    args: argparse.Namespace,
    loaded: "LoadedModel",
    run: RunConfig,
    task: str,
    deletions: Sequence[Deletion],
    console: Any,
) -> list[SweepPoint]:
    """Returns the models to evaluate on a task: the one with its own threshold, or one for each that was asked for.

    What does not depend on the threshold is evaluated once.

    Raises:
        UserError: no threshold gives a rate.
    """
    if not _sweeps(args):
        return [SweepPoint(loaded, run, deletions, "")]
    from mrt5_jax.api.loading import with_threshold
    from mrt5_jax.evaluation.thresholds import thresholds_for_rates
    from mrt5_jax.model.encoder_decoder import MrT5
    from mrt5_jax.selection.deletions import DELETIONS

    thresholds: list[float] = args.threshold or thresholds_for_rates(loaded, run, task, _FOUND_ON, args.target_rate)
    for rate, threshold in zip(args.target_rate or (), thresholds, strict=False):
        found = f"{label_of(task)} ({_FOUND_ON}): threshold {threshold:.6g} for a rate of {rate:g}"
        console.print(found, soft_wrap=True, highlight=False, markup=False)
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


def _sweeps(args: argparse.Namespace) -> bool:
    return bool(args.threshold or args.target_rate)
