"""`mrt5 infer`: scores targets or generates them, JSON lines or Parquet in, JSON lines out."""

import argparse
import dataclasses
import functools
import sys
import typing
from typing import TYPE_CHECKING

from mrt5_jax.cli.infer_shards import add_shard_arguments, make_output, shard_of
from mrt5_jax.cli.model_flags import add_model_arguments
from mrt5_jax.cli.process_flags import names_others
from mrt5_jax.cli.user_modules import import_modules_of_user
from mrt5_jax.config import Dispatch
from mrt5_jax.errors import UserError
from mrt5_jax.moved_names import LAST_VERSION, OLD_CAPACITY, say_once
from mrt5_jax.runs.files import given_path, rereadable

if TYPE_CHECKING:
    from mrt5_jax.api.loading import PreparedModel
    from mrt5_jax.data.mixing import Shard
    from mrt5_jax.inference.decoding import Search

OLD_CAPACITY_DISPATCH = "capacity"
"""What --dispatch said of old where a capacity was meant."""

_SEARCH_FLAGS = {
    "greedy": ("draft_length",),
    "sampling": ("temperature", "top_k", "top_p", "seed"),
    "beam": ("beam_size", "length_penalty"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
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
    parser.add_argument("--batch_size", type=int, default=16, help="lines at once on each device (default: 16)")
    parser.add_argument("--input_length", type=int, help="longest input, in ids (default: the model's, or 1024)")
    parser.add_argument(
        "--max_target_length",
        type=int,
        help="longest target, end of sequence included (default: the model's, or 256)",
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
    search.add_argument(
        "--draft_length",
        type=int,
        metavar="N",
        help="greedy: ids copied from the input that each step verifies; fewer steps where outputs copy (default: 0)",
    )
    search.add_argument("--temperature", type=float, help="sampling: logits are divided by it (default: 1)")
    search.add_argument("--top_k", type=int, help="sampling: among the k most probable tokens (default: all)")
    search.add_argument("--top_p", type=float, help="sampling: among the fewest that sum to p (default: all)")
    search.add_argument("--seed", type=int, help="sampling: with a line's number, it decides the sample (default: 0)")
    search.add_argument("--beam_size", type=int, help="beam: hypotheses a line (default: 4)")
    search.add_argument("--length_penalty", type=float, help="beam: exponent of the length (default: 1)")
    add_shard_arguments(parser)


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

    import_modules_of_user(args.module)
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
    shard = shard_of(args)
    with rereadable(args.input, "--input=") as requests_file:
        return _answer(args, search, requests_file, shard)


def _answer(args: argparse.Namespace, search: "Search", requests_file: str, shard: "Shard") -> int:
    """Answers a shard of the requests in `requests_file`, which is --input or a copy of what a pipe gave."""
    from mrt5_jax.cli.progress import progress
    from mrt5_jax.data.vocabulary import sentinel_ids
    from mrt5_jax.inference import requests
    from mrt5_jax.inference.files import count_steps, merge_answers, resolved, write_answers
    from mrt5_jax.inference.shards import num_requests, shard_file
    from mrt5_jax.parallel.memory import batches_in_window
    from mrt5_jax.parallel.processes import in_every_process
    from mrt5_jax.validation import LARGEST_INTEGER

    prepared = _prepare(args)
    limit = LARGEST_INTEGER // prepared.config.vocab_size
    if args.beam_size is not None and args.beam_size > limit:
        raise UserError(f"--beam_size={args.beam_size}: should be at most {limit}")
    batches_in_window(
        prepared.config, prepared.execution, args.batch_size, prepared.input_length
    )  # refuses what does not fit
    long_inputs = "truncate" if args.truncate else "refuse"
    limits = requests.Limits(prepared.config.vocab_size, prepared.input_length, prepared.target_length, long_inputs)
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
    model = prepared.load(args.step)
    job = model.job(args.mode, None, search, args.seed or 0, args.batch_size, args.truncate)
    job = dataclasses.replace(job, shard=shard)
    identity = {
        "model_dir": resolved(args.model_dir),
        "step": model.step,
        "threshold": args.threshold if prepared.stored is None else prepared.stored.threshold,
        "deletion": args.deletion,  # as asked for: a ByT5 deletes nothing under any
    }
    with progress("lines") as watch:
        answer = functools.partial(write_answers, job, requests_file, args.input, survey, args.output, identity, watch)
        num_failed = in_every_process(answer) if names_others(args) else answer()
    num_ids, num_steps = count_steps(shard_file(args.output, shard)) if args.draft_length else (0, 0)
    if num_ids:
        saved = f"{1 - num_steps / num_ids:.0%} of the steps saved"
        print(f"drafts of {args.draft_length}: {num_ids} ids in {num_steps} steps, {saved}")
    if shard.count > 1:
        make_output(args, functools.partial(merge_answers, job, survey, args.output, identity), survey.num_lines)
    else:
        print(f"done: {survey.num_lines} lines in {args.output}")
    if num_failed:
        print(
            f"mrt5: {num_failed} of {num_requests(shard, survey.num_lines)} lines have no answer, since the model's "
            f"numbers are not finite for them: see `error` in {shard_file(args.output, shard)}",
            file=sys.stderr,
        )
    return 1 if num_failed else 0


def _prepare(args: argparse.Namespace) -> "PreparedModel":
    """The model with the flags on top of what its run says."""
    from mrt5_jax.api.loading import describe_model
    from mrt5_jax.inference.run_defaults import capacity_of, execution_of

    described = describe_model(args.model_dir)
    dispatch, capacity = args.dispatch, args.capacity
    if dispatch == OLD_CAPACITY_DISPATCH:
        say_once(f"--dispatch=capacity is now --capacity=SHARE alone; it is read until {LAST_VERSION}")
        dispatch = "in_graph"
        capacity = capacity_of(described.run) if capacity is None else capacity
        capacity = OLD_CAPACITY if capacity is None else capacity
    return described.prepare(
        deletion=None if described.config.gate is None else args.deletion,
        threshold=args.threshold,
        execution=execution_of(described.run, dispatch, args.chunks, args.window),
        capacity=capacity,
        input_length=args.input_length,
        target_length=args.max_target_length,
    )


def _search(args: argparse.Namespace) -> "Search":
    from mrt5_jax.inference.beam import Beam
    from mrt5_jax.inference.decoding import Greedy
    from mrt5_jax.inference.sampling import Sampling
    from mrt5_jax.inference.speculative import Speculative

    for flag in ("search", "draft_length"):
        if args.mode == "score" and getattr(args, flag) is not None:
            raise UserError(f"--{flag} needs --mode=predict")
    for name, flags in _SEARCH_FLAGS.items():
        for flag in flags:
            if getattr(args, flag) is not None and name != (args.search or "greedy"):
                raise UserError(f"--{flag} needs --search={name}")
    if args.search == "sampling":
        temperature = 1.0 if args.temperature is None else args.temperature
        return Sampling(temperature, args.top_k, args.top_p)
    if args.search == "beam":
        size = 4 if args.beam_size is None else args.beam_size
        return Beam(size, 1.0 if args.length_penalty is None else args.length_penalty)
    return Speculative(args.draft_length) if args.draft_length else Greedy()
