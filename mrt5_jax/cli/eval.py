"""`mrt5 eval`: records and metrics of a trained model on its tasks, under each deletion; tables of records alone."""

import argparse
import dataclasses
import functools
import typing
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from mrt5_jax.cli.eval_answers import add_answer_arguments, check_answers, generated, labelled, search_of
from mrt5_jax.cli.eval_finished import evaluated
from mrt5_jax.cli.eval_follow import add_follow_arguments, best_to_keep, check_follow, load_step, steps_to_evaluate
from mrt5_jax.cli.eval_sweeps import (
    add_sweep_arguments,
    check_sweep,
    default_deletions,
    sweep_points,
    threshold_in_use,
)
from mrt5_jax.cli.eval_tables import add_table_arguments, check_tables, print_comparisons, tables_of_records
from mrt5_jax.cli.process_flags import add_process_arguments, join_as_shard, names_others
from mrt5_jax.config import Deletion
from mrt5_jax.data.task_names import label_of
from mrt5_jax.errors import UserError
from mrt5_jax.runs.files import as_path, given_path, read_bytes

if TYPE_CHECKING:
    from mrt5_jax.cli.eval_sweeps import SweepPoint
    from mrt5_jax.cli.gin_setup import Resolved
    from mrt5_jax.evaluation.evaluate import Evaluation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds flags for what to evaluate; gin flags go on top of MODEL_DIR/config.gin."""
    from mrt5_jax.cli import gin_setup

    parser.add_argument("--model_dir", type=given_path, metavar="MODEL_DIR", help="made by train or convert")
    parser.add_argument(
        "--step", type=int, nargs="+", action="extend", metavar="N", help="checkpoints (default: the newest)"
    )
    parser.add_argument(
        "--task", nargs="+", action="extend", metavar="TASK", help="tasks or mixtures (default: the run's eval_tasks)"
    )
    parser.add_argument("--split", help="default: test, or validation where there is no test split")
    parser.add_argument(
        "--deletion",
        nargs="+",
        action="extend",
        choices=typing.get_args(Deletion),
        help="default: the run's EvaluationConfig.deletions, soft and hard if it does not say",
    )
    parser.add_argument("--num_examples", type=int, metavar="N", help="of each task (default: all)")
    parser.add_argument(
        "--timing_rounds",
        type=int,
        metavar="N",
        help="run all deletions in turn N times on the same batches, so that runtimes have a range (default: 1)",
    )
    add_answer_arguments(parser)
    add_sweep_arguments(parser)
    add_follow_arguments(parser)
    add_table_arguments(parser)
    add_process_arguments(
        parser,
        "each evaluates its share on its own devices, into files of its own in a MODEL_DIR that all see; the first one "
        "puts them together. All are given the same other flags",
    )
    gin_setup.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluates, writes MODEL_DIR/eval/TASK-SPLIT-stepN, prints tables; or prints those of records."""
    check_tables(args)
    if args.from_records:
        return tables_of_records(args)
    if args.model_dir is None:
        raise UserError("--model_dir is missing, or --from_records (mrt5 eval --help explains)")
    search = search_of(args)
    _check_processes(args)
    shard = join_as_shard(args)
    from rich.console import Console

    from mrt5_jax.evaluation.comparison import Evaluations, costs_by_system
    from mrt5_jax.evaluation.evaluate import deletions_for
    from mrt5_jax.evaluation.finished import evaluation_settings
    from mrt5_jax.evaluation.generation import search_name
    from mrt5_jax.evaluation.model_dirs import (
        RECORDS,
        SUMMARY,
        TIMING,
        evaluation_folder,
        languages_line,
        num_evaluated,
        split_to_evaluate,
        write_evaluation,
    )
    from mrt5_jax.parallel.processes import in_any_process, in_first_process
    from mrt5_jax.selection.selectors import check_deletion
    from mrt5_jax.tasks import import_all  # pyright: ignore[reportMissingImports] - setuptools puts it there

    for flag in ("num_examples", "timing_rounds"):
        if getattr(args, flag) is not None and getattr(args, flag) < 1:
            raise UserError(f"--{flag}={getattr(args, flag)}: should be at least 1")
    resolved = _resolved(args)
    configured = resolved.run
    tasks = tuple(dict.fromkeys(args.task or configured.data.eval_tasks))
    import_all()
    splits = {task: split_to_evaluate(task, args.split) for task in tasks}
    for deletion in args.deletion or ():
        check_deletion(configured.model.gate, deletion, "--deletion")
    check_sweep(args, configured.model, tasks)
    deletions = deletions_for(configured.model, default_deletions(args, configured))
    check_answers(args, search, configured, deletions, tasks)
    check_follow(args)
    stored = threshold_in_use(args, configured)
    best = best_to_keep(args, configured, splits, deletions)

    is_first = shard.index == 0
    console, progress = Console(quiet=not is_first), Console(stderr=True, quiet=not is_first)
    if configured.model.gate is None:
        console.print("the model has no gate: nothing is deleted")
    notes, evaluations = iter([resolved.print_notes] if is_first else []), Evaluations([], {})
    rounds = args.timing_rounds or 1
    answered = [*([] if search is None else [search_name(search)]), *(["labels"] if args.labels else [])]

    def evaluate_point(point: "SweepPoint", task: str, split: str, total: int | None) -> "Evaluation":
        """Evaluates a model on a task, or reads what is finished, and prints what was found.

        Of several processes the first one has the whole evaluation.
        """
        step = point.loaded.step
        variant = "-".join(filter(None, [point.variant, *answered]))
        folder = evaluation_folder(args.model_dir, task, split, step, variant)
        settings = evaluation_settings(point.loaded, point.run, point.deletions, answered, rounds)
        description = f"{label_of(task)} ({split}), step {step}{f', {point.variant}' if point.variant else ''}"
        watch = _watcher(progress, description, configured.data.eval_batch_size, total, notes)
        evaluation, examples = evaluated(point, (task, split), folder, settings, shard, watch, rounds, console)
        if not in_any_process(bool(evaluation.records)):
            raise UserError(f"task {label_of(task)}: its {split} split has no examples")
        if configured.evaluation.num_examples is None and (line := languages_line(evaluation.records, task, split)):
            progress.print(f"mrt5: {line}", soft_wrap=True, highlight=False, markup=False)
        if search is not None:
            evaluation = generated(evaluation, point, (task, split), search, folder, progress, total, shard)
        if args.labels:
            evaluation = labelled(evaluation, point, (task, split), folder, progress, shard)
        place = task, split, step, variant, settings, examples
        in_first_process(functools.partial(write_evaluation, args.model_dir, evaluation, *place))
        if is_first:
            _print(console, description, evaluation)
            console.print(f"written: {folder}/{{{RECORDS},{SUMMARY},{TIMING}}}\n", soft_wrap=True, highlight=False)
        return evaluation

    for step in steps_to_evaluate(args, progress):
        loaded = load_step(args, configured, step, progress)
        if loaded is None:
            continue
        for task, split in splits.items():
            total = num_evaluated(task, split, configured.evaluation.num_examples)
            for point in sweep_points(args, loaded, configured, task, deletions, stored, console):
                evaluation = evaluate_point(point, task, split, total)
                evaluations.records.extend(evaluation.records)
                evaluations.costs.update(costs_by_system(evaluation.records, evaluation.costs))
                if best is not None:
                    line = best.offer(evaluation, loaded)
                    console.print(f"{line}\n", soft_wrap=True, highlight=False, markup=False)
    in_first_process(functools.partial(print_comparisons, console, evaluations, args.tables))
    return 0


def _check_processes(args: argparse.Namespace) -> None:
    """Refuses to let several processes do what one has to do alone."""
    for flag in ("follow", "keep_best", "store_threshold"):
        if getattr(args, flag) and names_others(args):
            raise UserError(f"--{flag}: is for one process: leave out --cluster and the flags that name processes")


def _saved_config(model_dir: str) -> str:
    """MODEL_DIR/config.gin; empty where there is none, as after an import."""
    from mrt5_jax.runs.run_files import CONFIG_GIN

    path = as_path(model_dir) / CONFIG_GIN
    try:
        return read_bytes(path).decode()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def _resolved(args: argparse.Namespace) -> "Resolved":
    """The run of MODEL_DIR with the flags on top; its model must be the one that lies there."""
    from mrt5_jax.cli import gin_setup
    from mrt5_jax.runs.model_dir import MODEL_CONFIG, check_same_config, read_model_config
    from mrt5_jax.runs.run_files import CONFIG_GIN, read_run

    gin_setup.import_modules(args.module)  # before the model is read: its selector may be one of theirs
    model = read_model_config(args.model_dir)
    read_run(args.model_dir)  # a MODEL_DIR with a damaged file is damaged, whether or not this command needs the file
    saved = _saved_config(args.model_dir)
    if not saved and not args.gin_file:
        raise UserError(f"{args.model_dir} has no configuration of a run: give the data and the model by --gin_file")
    resolved = gin_setup.resolve_arguments(args, saved, str(as_path(args.model_dir) / CONFIG_GIN))
    if args.num_examples is not None:
        evaluation = dataclasses.replace(resolved.run.evaluation, num_examples=args.num_examples)
        resolved = dataclasses.replace(resolved, run=dataclasses.replace(resolved.run, evaluation=evaluation))
    check_same_config(model, resolved.run.model, str(as_path(args.model_dir) / MODEL_CONFIG))
    resolved.check()
    return resolved


def _watcher(
    console: Any, description: str, batch_size: int, total: int | None, first: Iterable[Callable[[], None]]
) -> Any:
    """Shows how many examples have gone by; in a log file there is one line at the beginning, too.

    Args:
        first: what is left to be said when a task begins, and so has passed all checks.
    """
    from mrt5_jax.cli.progress import progress

    def watch(batches: Iterable[Any]) -> Iterator[Any]:
        for say in first:
            say()
        if not console.is_terminal:
            console.print(f"evaluating {description}", soft_wrap=True, highlight=False)
        with progress("examples", console, label=description) as update:
            for number, batch in enumerate(batches):
                update(number * batch_size, total)
                yield batch

    return watch


def _print(console: Any, title: str, evaluation: Any) -> None:
    from mrt5_jax.evaluation import tables

    records = evaluation.records
    rows = tables.deletion_rows(records, evaluation.milliseconds, evaluation.body)
    num_examples = len(records) // len(rows)
    cut = tables.cut_line(evaluation.num_inputs_cut, evaluation.num_targets_cut, num_examples)
    console.print(tables.results_table(title, rows, cut))
    for field in ("task", "language"):
        if len({getattr(record, field) for record in records}) > 1:
            console.print(tables.group_table(f"by {field}", records, field))
    for line in filter(None, (tables.gap_line(records), tables.saving_line(records))):
        console.print(line, highlight=False, soft_wrap=True)
    console.print(tables.COLUMNS_EXPLAINED, style="dim", highlight=False, soft_wrap=True)
