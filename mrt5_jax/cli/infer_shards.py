"""Several processes that answer one file of requests, for `mrt5 infer`: whose lines are whose, and who merges them."""

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from mrt5_jax.cli.process_flags import add_process_arguments, join_as_shard, names_others
from mrt5_jax.errors import InUseError, UserError

if TYPE_CHECKING:
    from mrt5_jax.data.mixing import Shard


def add_shard_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --shard, for processes that know nothing of each other, and the flags of those that do."""
    group = add_process_arguments(
        parser,
        "each answers every N-th line, on its own devices, into a file beside OUTPUT; OUTPUT is made when all are "
        "done. All are given the same other flags",
    )
    group.add_argument(
        "--shard",
        metavar="I/N",
        help="answer share I of N, from 0/N to N-1/N, at any time and in any order; whichever ends last makes OUTPUT",
    )


def shard_of(args: argparse.Namespace) -> "Shard":
    """Returns which lines this process answers; joins the other processes if the flags say that there are any.

    Raises:
        UserError: the flags contradict each other, or the processes do not meet.
    """
    from mrt5_jax.inference.shards import shard_named

    if args.shard is not None:
        if names_others(args):
            raise UserError(
                f"--shard={args.shard} names this process's share, which --cluster and the flags that name processes "
                "find themselves: leave one of them out"
            )
        return shard_named(args.shard)
    return join_as_shard(args)


def make_output(args: argparse.Namespace, merge: "Callable[[], list[Shard]]", num_lines: int) -> None:
    """Puts the answers of all processes together, where they are there, and says what is there or missing.

    Args:
        merge: does so; returns the shards that are not complete.
        num_lines: of all requests.

    Raises:
        UserError: the answers of other processes do not fit, or lie where this process does not see them.
    """
    from mrt5_jax.parallel.processes import in_first_process

    def merge_joined() -> None:
        if missing := merge():
            raise UserError(
                f"{args.output}: the answers of {_names(missing)} are not beside it: give an --output in a folder that "
                "all processes see, or in a bucket"
            )

    if args.shard is None:
        in_first_process(merge_joined)
        print(f"done: {num_lines} lines in {args.output}")
        return
    try:
        missing = merge()
    except InUseError:
        print(f"done: --shard={args.shard}; another process is making {args.output}")
        return
    if missing:
        print(f"done: --shard={args.shard}; {args.output} is made when --shard={_names(missing)} is done too")
    else:
        print(f"done: {num_lines} lines in {args.output}")


def _names(shards: "list[Shard]") -> str:
    from mrt5_jax.inference.shards import shard_name

    return ", ".join(map(shard_name, shards))
