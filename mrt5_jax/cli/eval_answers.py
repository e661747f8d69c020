"""What a model answers by itself, for `mrt5 eval`: text that it generates, and how probable labels are to it."""

import argparse
import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mrt5_jax.config import Deletion, RunConfig
from mrt5_jax.data.task_names import label_of
from mrt5_jax.errors import UserError

if TYPE_CHECKING:
    from mrt5_jax.cli.eval_sweeps import SweepPoint
    from mrt5_jax.data.mixing import Shard
    from mrt5_jax.evaluation.evaluate import Evaluation
    from mrt5_jax.evaluation.generation import Choice, Generation
    from mrt5_jax.evaluation.label_scores import Labelled
    from mrt5_jax.runs.files import FilePath


def add_answer_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --generate with how it chooses, and --labels."""
    group = parser.add_argument_group("what the model answers")
    group.add_argument(
        "--generate",
        action="store_true",
        help="let the model write to each input, and measure that by the task's own metrics; where it was stopped, it "
        "goes on",
    )
    group.add_argument("--search", choices=("greedy", "beam"), help="(default: greedy)")
    group.add_argument("--beam_size", type=int, help="beam: hypotheses an input (default: 4)")
    group.add_argument("--length_penalty", type=float, help="beam: exponent of the length (default: 1)")
    group.add_argument(
        "--labels",
        action="store_true",
        help="of classifications, whose tasks list their labels: how probable each label is, and whether the most "
        "probable one is right",
    )


def search_of(args: argparse.Namespace) -> "Choice | None":
    """Returns how text is generated; None where none is.

    Raises:
        UserError: a flag of generation without it, or a number out of its range.
    """
    from mrt5_jax.inference.beam import Beam
    from mrt5_jax.inference.decoding import Greedy

    for flag in ("search", "beam_size", "length_penalty"):
        if getattr(args, flag) is not None and not args.generate:
            raise UserError(f"--{flag} needs --generate")
        if getattr(args, flag) is not None and flag != "search" and args.search != "beam":
            raise UserError(f"--{flag} needs --search=beam")
    if not args.generate:
        return None
    if args.search != "beam":
        return Greedy()
    size, penalty = args.beam_size, args.length_penalty
    return Beam(4 if size is None else size, 1.0 if penalty is None else penalty)


def check_answers(
    args: argparse.Namespace,
    search: "Choice | None",
    run: RunConfig,
    deletions: Sequence[Deletion],
    tasks: Sequence[str],
) -> None:
    """Refuses answers that cannot be had, before a model is read.

    Raises:
        UserError: naming the flag.
    """
    from mrt5_jax.evaluation.answer_files import check_answered
    from mrt5_jax.evaluation.label_scores import check_labels
    from mrt5_jax.inference.beam import Beam
    from mrt5_jax.validation import LARGEST_INTEGER

    for flag in ("generate", "labels"):
        if getattr(args, flag):
            check_answered(deletions, f"--{flag}")
    limit = LARGEST_INTEGER // run.model.vocab_size
    if isinstance(search, Beam) and search.size > limit:
        raise UserError(f"--beam_size={search.size}: should be at most {limit}")
    for task in tasks if args.labels else ():
        check_labels(task, run.data.target_length)


def generated(
    evaluation: "Evaluation",
    point: "SweepPoint",
    data: tuple[str, str],
    search: "Choice",
    folder: "FilePath",
    console: Any,
    total: int | None,
    shard: "Shard",
) -> "Evaluation":
    """Returns the evaluation with what the model writes to its examples; of several processes the first one has it.

    Args:
        point: the model, and what it is evaluated under.
        data: the task and its split.
        total: its examples; None where nobody knows.
        shard: this process's share of them.
    """
    from mrt5_jax.evaluation.generation import generate_answers, read_answers, with_generation
    from mrt5_jax.inference.shards import num_requests
    from mrt5_jax.parallel.processes import in_first_process

    paths: dict[Deletion, FilePath] = {}
    own = None if total is None else num_requests(shard, total)
    for deletion in point.deletions:
        with _answering(console, "generating", data, deletion, "examples", own) as watch:
            paths[deletion] = generate_answers(point.loaded, point.run, *data, deletion, search, folder, watch, shard)
    generations: dict[Deletion, Generation] = {}

    def read() -> None:
        for deletion, path in paths.items():
            generations[deletion] = read_answers(path, point.run, *data)

    in_first_process(read)
    for note in dict.fromkeys(note for generation in generations.values() for note in generation.notes):
        console.print(f"mrt5: {note}", soft_wrap=True, highlight=False, markup=False)
    return with_generation(evaluation, generations, search)


def labelled(
    evaluation: "Evaluation",
    point: "SweepPoint",
    data: tuple[str, str],
    folder: "FilePath",
    console: Any,
    shard: "Shard",
) -> "Evaluation":
    """Returns the evaluation with how probable each label of its examples is; see `generated`."""
    from mrt5_jax.evaluation.label_scores import read_labels, score_labels, with_labels
    from mrt5_jax.parallel.processes import in_first_process

    paths: dict[Deletion, FilePath] = {}
    for deletion in point.deletions:
        with _answering(console, "scoring the labels of", data, deletion, "labels", None) as watch:
            paths[deletion] = score_labels(point.loaded, point.run, *data, deletion, folder, watch, shard)
    labelled_by: dict[Deletion, Labelled] = {}

    def read() -> None:
        for deletion, path in paths.items():
            labelled_by[deletion] = read_labels(path, point.run, *data)

    in_first_process(read)
    return with_labels(evaluation, labelled_by)


@contextlib.contextmanager
def _answering(
    console: Any, verb: str, data: tuple[str, str], deletion: Deletion, unit: str, total: int | None
) -> Iterator[Callable[[int], None]]:
    """Gives what shows how many answers there are; in a log file there is one line at the beginning, too."""
    from mrt5_jax.cli.progress import progress

    label = f"{label_of(data[0])} ({data[1]}), {deletion}"
    if not console.is_terminal:
        console.print(f"{verb} {label}", soft_wrap=True, highlight=False, markup=False)
    with progress(unit, console, label=label) as update:
        yield lambda done: update(done, total)
