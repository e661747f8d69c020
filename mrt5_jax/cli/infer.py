"""`mrt5 infer`: scores targets or generates them, JSON lines or Parquet in, JSON lines out."""

import argparse
import json
import sys
import typing
from pathlib import Path
from typing import TYPE_CHECKING

from mrt5_jax.config import Dispatch
from mrt5_jax.errors import UserError
from mrt5_jax.moved_names import LAST_VERSION, OLD_CAPACITY, say_once
from mrt5_jax.runs.files import files_for, given_path, in_bucket, rereadable

if TYPE_CHECKING:
    from mrt5_jax.config import ExecutionConfig, RunConfig
    from mrt5_jax.inference.decoding import Search
    from mrt5_jax.inference.requests import Limits

DEFAULT_INPUT_LENGTH = 1024
DEFAULT_TARGET_LENGTH = 256

OLD_CAPACITY_DISPATCH = "capacity"
"""What --dispatch said of old where a capacity was meant."""

_SEARCH_FLAGS = {
    "greedy": (),
    "sampling": ("temperature", "top_k", "top_p", "seed"),
    "beam": ("beam_size", "length_penalty"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model_dir", required=True, type=given_path, help="what train or convert wrote")
    parser.add_argument("--step", type=int, help="checkpoint to use (default: the newest)")
    parser.add_argument(
        "--input",
        required=True,
        type=given_path,
        metavar="FILE",
        help='JSON lines, compressed or not: {"inputs": TEXT, "targets": TEXT} or input_ids, ...; Parquet with these '
        "columns; - or a pipe as well",
    )
    parser.add_argument(
        "--output",
        required=True,
        type=given_path,
        metavar="FILE",
        help="JSON lines; where a stopped run left off, the next goes on",
    )
    parser.add_argument(
        "--mode",
        choices=("score", "predict"),
        default="predict",
        help="score: log-probability of the targets; predict: generate (default)",
    )
    parser.add_argument(
        "--deletion", choices=("hard", "soft", "none"), default="hard", help="what the gate does (default: hard)"
    )
    parser.add_argument("--batch_size", type=int, default=16, help="lines at once (default: 16)")
    parser.add_argument(
        "--input_length", type=int, help=f"longest input, in ids (default: the model's, or {DEFAULT_INPUT_LENGTH})"
    )
    parser.add_argument(
        "--max_target_length",
        type=int,
        help=f"longest target, end of sequence included (default: the model's, or {DEFAULT_TARGET_LENGTH})",
    )
    parser.add_argument("--truncate", action="store_true", help="cut longer inputs instead of refusing them")
    lengths = parser.add_argument_group("the static length after the gate")
    lengths.add_argument(
        "--dispatch",
        choices=(*typing.get_args(Dispatch), OLD_CAPACITY_DISPATCH),
        help="host: a program for each length that occurs; in_graph: one program with all lengths (default: the run's, "
        "or host)",
    )
    lengths.add_argument(
        "--capacity",
        type=float,
        metavar="SHARE",
        help="one length, this share of the input length; what does not fit is dropped, and counted (default: the "
        "run's EvaluationConfig.capacity, or none)",
    )
    lengths.add_argument(
        "--chunks",
        type=_chunks,
        default=1,
        metavar="N",
        help="cut each batch, sorted by kept count, into chunks with a length each; pays for --mode=score; auto is 1 "
        "(default: 1)",
    )
    lengths.add_argument(
        "--window",
        type=int,
        metavar="BATCHES",
        help="batches whose lines are sorted by length and, after the gate, by kept count together; so many are "
        "written at once (default: the run's ExecutionConfig.window, or 32, or what a quarter of the memory holds)",
    )
    search = parser.add_argument_group("how --mode=predict chooses")
    search.add_argument("--search", choices=tuple(_SEARCH_FLAGS), help="(default: greedy)")
    search.add_argument("--temperature", type=float, help="sampling: logits are divided by it (default: 1)")
    search.add_argument("--top_k", type=int, help="sampling: among the k most probable tokens (default: all)")
    search.add_argument("--top_p", type=float, help="sampling: among the fewest that sum to p (default: all)")
    search.add_argument("--seed", type=int, help="sampling: with a line's number, it decides the sample (default: 0)")
    search.add_argument("--beam_size", type=int, help="beam: hypotheses a line (default: 4)")
    search.add_argument("--length_penalty", type=float, help="beam: exponent of the length (default: 1)")


def _chunks(text: str) -> int:
    """A number, or "auto", which decides in training alone."""
    if text == "auto":
        return 1
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor auto") from None


def run(args: argparse.Namespace) -> int:
    """Does what the flags say; returns the exit code."""
    from mrt5_jax.validation import LARGEST_INTEGER, SEED

    search = _search(args)
    for flag in ("batch_size", "input_length", "max_target_length", "chunks", "window"):
        value = getattr(args, flag)
        if value is not None and not 1 <= value <= LARGEST_INTEGER:
            raise UserError(f"--{flag}={value}: must be at least 1, and at most {LARGEST_INTEGER}")
    if args.seed is not None and not SEED.holds(args.seed):
        raise UserError(f"--seed={args.seed}: should be {SEED.expected}")
    if args.batch_size % args.chunks:
        raise UserError(f"--chunks={args.chunks}: must divide --batch_size={args.batch_size}")

    from mrt5_jax.inference.resumable import check_output

    check_output(args.output)
    with rereadable(args.input, "--input=") as requests_file:
        return _answer(args, search, requests_file)


def _answer(args: argparse.Namespace, search: "Search", requests_file: str) -> int:
    """Answers the requests in `requests_file`, which is --input or a copy of what a pipe gave."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from mrt5_jax.compaction.ladder import make_ladder
    from mrt5_jax.data.vocabulary import sentinel_ids
    from mrt5_jax.inference import requests
    from mrt5_jax.inference.answers import NOT_FINITE, Job
    from mrt5_jax.inference.engine import Engine
    from mrt5_jax.inference.resumable import resume_lines
    from mrt5_jax.model.precision import check_precision
    from mrt5_jax.parallel.memory import batches_in_window
    from mrt5_jax.runs.model_dir import read_model_config
    from mrt5_jax.runs.restoring import restore_params
    from mrt5_jax.runs.run_files import read_run
    from mrt5_jax.selection.selectors import check_deletion, check_stride
    from mrt5_jax.validation import LARGEST_INTEGER

    config = read_model_config(args.model_dir)
    check_precision(config)
    if args.beam_size is not None and args.beam_size * config.vocab_size > LARGEST_INTEGER:
        raise UserError(f"--beam_size={args.beam_size}: should be at most {LARGEST_INTEGER // config.vocab_size}")
    trained = read_run(args.model_dir)
    limits = _limits(args, trained, config.vocab_size)
    execution, capacity = _execution(args, trained), _capacity(args, trained)
    check_deletion(config.gate, args.deletion, "--deletion")
    check_stride(config.gate, limits.input_length, "--input_length")
    make_ladder(limits.input_length, execution, "cpu", capacity)  # refuses what leaves no ladder
    batches_in_window(config, execution, args.batch_size, limits.input_length)  # refuses what does not fit
    print(f"checking {args.input}")
    survey = requests.survey(requests_file, args.mode, limits, args.input)
    if not survey.num_lines:
        print(f"mrt5: {args.input}: no request in it, so there is nothing to answer", file=sys.stderr)
    if survey.names_sentinels:
        first, second = sentinel_ids(2)
        print(
            f"mrt5: {args.input}: <extra_id_0> in a text is taken as these very characters; a sentinel is an id, "
            f"{first} for the first and {second} for the second (259 and 260 where sentinels='extra_ids'): give ids as "
            "input_ids and target_ids",
            file=sys.stderr,
        )
    print(f"reading {args.model_dir}")
    restored = restore_params(args.model_dir, args.step)
    seed = args.seed or 0
    settings = {
        "model_dir": _resolved(args.model_dir),
        "step": restored.step,
        "input_sha256": survey.sha256,
        "mode": args.mode,
        "deletion": args.deletion,
        "batch_size": args.batch_size,
        **limits._asdict(),
        "dispatch": execution.inference_dispatch,
        "capacity": capacity,
        "chunks": execution.chunks,
        "search": repr(search),
        "seed": seed,
    }
    engine = Engine(config, restored.params, args.deletion, execution, capacity)
    job = Job(engine, args.mode, limits, args.batch_size, search, seed)
    columns = (TextColumn("lines"), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn())
    with (
        resume_lines(args.output, settings) as output,
        Progress(*columns, console=Console(stderr=True)) as progress,
    ):
        task = progress.add_task("lines", total=survey.num_lines, completed=output.num_lines)
        for answers in job.answers(requests_file, output.num_lines, args.input):
            output.append([json.dumps(answer, allow_nan=False) for answer in answers])
            progress.update(task, completed=output.num_lines)
    print(f"done: {survey.num_lines} lines in {args.output}")
    with files_for(args.output).open(args.output) as file:
        ending = json.dumps({"error": NOT_FINITE})[1:].encode() + b"\n"
        num_failed = sum(line.endswith(ending) for line in file)
    if num_failed:
        print(
            f"mrt5: {num_failed} of {survey.num_lines} lines have no answer, since the model's numbers are not finite "
            f"for them: see `error` in {args.output}",
            file=sys.stderr,
        )
    return 1 if num_failed else 0


def _resolved(path: str) -> str:
    """Returns the same text for the same folder."""
    return path if in_bucket(path) else str(Path(path).resolve())


def _search(args: argparse.Namespace) -> "Search":
    from mrt5_jax.inference.beam import Beam
    from mrt5_jax.inference.decoding import Greedy
    from mrt5_jax.inference.sampling import Sampling

    if args.mode == "score" and args.search:
        raise UserError("--search needs --mode=predict")
    for name, flags in _SEARCH_FLAGS.items():
        for flag in flags:
            if getattr(args, flag) is not None and name != args.search:
                raise UserError(f"--{flag} needs --search={name}")
    if args.search == "sampling":
        temperature = 1.0 if args.temperature is None else args.temperature
        return Sampling(temperature, args.top_k, args.top_p)
    if args.search == "beam":
        size = 4 if args.beam_size is None else args.beam_size
        return Beam(size, 1.0 if args.length_penalty is None else args.length_penalty)
    return Greedy()


def _limits(args: argparse.Namespace, trained: "RunConfig | None", vocab_size: int) -> "Limits":
    """The flags' lengths, else those that the model was trained with, else the defaults."""
    from mrt5_jax.inference.requests import Limits

    input_length = DEFAULT_INPUT_LENGTH if trained is None else trained.data.input_length
    target_length = DEFAULT_TARGET_LENGTH if trained is None else trained.data.target_length
    return Limits(
        vocab_size,
        args.input_length or input_length,
        args.max_target_length or target_length,
        "truncate" if args.truncate else "refuse",
    )


def _execution(args: argparse.Namespace, trained: "RunConfig | None") -> "ExecutionConfig":
    """The run's, with dispatch, chunks and window of the flags.

    The run's rungs are of its own input length, where inputs here are padded to several; and its chunks cost nothing
    in training, but a decoding loop each here.
    """
    from mrt5_jax.config import ExecutionConfig

    run = ExecutionConfig() if trained is None else trained.execution
    dispatch = args.dispatch or run.inference_dispatch
    if dispatch == OLD_CAPACITY_DISPATCH:
        dispatch = "in_graph"
    return ExecutionConfig(
        inference_dispatch=dispatch,
        scan_unroll=run.scan_unroll,
        attention_rows=run.attention_rows,
        chunks=args.chunks,
        window=args.window or run.window,
    )


def _capacity(args: argparse.Namespace, trained: "RunConfig | None") -> float | None:
    """The flag's, else the run's."""
    capacity = args.capacity
    if capacity is None and trained is not None:
        capacity = trained.evaluation.capacity
    if args.dispatch == OLD_CAPACITY_DISPATCH:
        say_once(f"--dispatch=capacity is now --capacity=SHARE alone; it is read until {LAST_VERSION}")
        return OLD_CAPACITY if capacity is None else capacity
    return capacity
