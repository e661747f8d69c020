"""Checkpoints as they appear, and the best of them, for `mrt5 eval`."""

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mrt5_jax.config import Deletion, RunConfig
from mrt5_jax.errors import UserError
from mrt5_jax.spelling import nearest

if TYPE_CHECKING:
    from mrt5_jax.evaluation.best_checkpoint import BestCheckpoint, Better
    from mrt5_jax.evaluation.model_dirs import LoadedModel

_ENDS: "Mapping[str, Better]" = {"min": "min", "max": "max"}
_SECONDS_BETWEEN_LOOKS = 10


def add_follow_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --follow and --keep_best."""
    group = parser.add_argument_group("checkpoints")
    group.add_argument(
        "--follow",
        action="store_true",
        help="evaluate all checkpoints, and others as they appear, until that of the run's last step or as long as the "
        "run trains; what is finished is not evaluated again",
    )
    group.add_argument(
        "--keep_best",
        metavar="METRIC",
        help="keep the weights with the best METRIC in MODEL_DIR/best_METRIC, a MODEL_DIR of its own; METRIC:min or "
        "METRIC:max says which end is better",
    )


def check_follow(args: argparse.Namespace) -> None:
    """Refuses to follow what does not train, and flags that say otherwise.

    Raises:
        UserError: naming the flag.
    """
    from mrt5_jax.runs.run_files import read_run

    if not args.follow:
        return
    for flag in ("step", "store_threshold"):
        if getattr(args, flag):
            raise UserError(f"--{flag}: is for single checkpoints, and --follow evaluates all: leave one of them out")
    if read_run(args.model_dir) is None:
        raise UserError(f"--follow: {args.model_dir} was made by convert, and no run trains there: leave it out")


def best_to_keep(
    args: argparse.Namespace, run: RunConfig, splits: Mapping[str, str], deletions: Sequence[Deletion]
) -> "BestCheckpoint | None":
    """Returns what keeps the best checkpoint; None where nobody asked for it.

    Args:
        splits: by task, what is evaluated.

    Raises:
        UserError: there is no such metric, it does not decide, or the best by another measure is kept already.
    """
    if args.keep_best is None:
        return None
    from mrt5_jax.evaluation.best_checkpoint import BestCheckpoint, Measure, better_end, metric_names
    from mrt5_jax.selection.deletions import MEASURE_OF_BEST

    flag = f"--keep_best={args.keep_best}"
    if len(splits) != 1:
        raise UserError(f"{flag}: {len(splits)} tasks are evaluated: give one --task, by which it is decided")
    if args.threshold or args.target_rate:
        raise UserError(f"{flag}: checkpoints are compared at one threshold: leave out --threshold and --target_rate")
    ((task, split),) = splits.items()
    metric, _, end = args.keep_best.rpartition(":")
    better = _ENDS.get(end)
    if better is None:
        metric = args.keep_best
    names = metric_names(run, task, split, generated=args.generate, labelled=args.labels)
    if metric not in names:
        raise UserError(f"{flag}: this evaluation has no {metric}{nearest(metric, names)} (it has {', '.join(names)})")
    better = better or better_end(metric)
    if better is None:
        raise UserError(f"{flag}: say which end is better, --keep_best={metric}:min or --keep_best={metric}:max")
    deletion = MEASURE_OF_BEST if MEASURE_OF_BEST in deletions else deletions[0]
    measure = Measure(metric, better, task, split, deletion, run.evaluation.num_examples)
    return BestCheckpoint(args.model_dir, measure)


def steps_to_evaluate(args: argparse.Namespace, console: Any) -> Iterator[int | None]:
    """Yields the steps of the checkpoints to evaluate; None is the newest.

    Under --follow those that are there, in order, and others as they appear: up to that of the run's last step, or as
    long as the run trains.

    Raises:
        UserError: there is no such checkpoint.
    """
    from mrt5_jax.runs.lock import lock_watch
    from mrt5_jax.runs.restoring import check_steps, saved_steps
    from mrt5_jax.runs.run_files import read_run

    if not args.follow:
        check_steps(args.model_dir, args.step or ())
        yield from dict.fromkeys(args.step or (None,))
        return
    trains = lock_watch(args.model_dir)
    seen: set[int] = set()
    waiting = False
    while True:
        goes_on = trains()  # before looking for checkpoints: those that a run saves before it ends are seen
        new = [step for step in saved_steps(args.model_dir) if step not in seen]
        for step in new:
            seen.add(step)
            yield step
        run = read_run(args.model_dir)  # a run may be given more steps meanwhile
        if run is None or max(seen, default=-1) >= run.training.num_steps:
            return
        if not goes_on:
            at = f"at step {max(seen):,} of {run.training.num_steps:,}" if seen else "before its first checkpoint"
            ended = f"nothing more to follow: {args.model_dir} stopped {at}, and nothing trains there now"
            console.print(f"{ended} (`mrt5 train` goes on)", soft_wrap=True, markup=False, highlight=False)
            return
        if not new:
            if not waiting:
                console.print(f"waiting for checkpoints of {args.model_dir}", soft_wrap=True, markup=False)
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        waiting = not new


def load_step(args: argparse.Namespace, run: RunConfig, step: int | None, console: Any) -> "LoadedModel | None":
    """Loads a checkpoint; None where the run has cleared it away since it was seen, which is said.

    Raises:
        UserError: it cannot be read.
    """
    from mrt5_jax.evaluation.model_dirs import load_model
    from mrt5_jax.runs.restoring import saved_steps

    try:
        return load_model(args.model_dir, run.model, step, run.execution)
    except UserError:
        if not args.follow or step in saved_steps(args.model_dir):
            raise
        console.print(f"mrt5: the run has cleared step {step} away before it was read", soft_wrap=True, markup=False)
        return None
