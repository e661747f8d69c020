"""The flags that say which processes work together, of the commands that several can share."""

import argparse
from typing import TYPE_CHECKING

from mrt5_jax.errors import UserError

if TYPE_CHECKING:
    from mrt5_jax.data.mixing import Shard


def add_process_arguments(parser: argparse.ArgumentParser, description: str) -> argparse._ArgumentGroup:
    """Adds --cluster and the flags that name the processes; returns their group."""
    group = parser.add_argument_group("several processes", description)
    group.add_argument(
        "--cluster", action="store_true", help="Slurm, GKE, a TPU pod or Open MPI says where the other processes are"
    )
    group.add_argument("--coordinator_address", metavar="HOST:PORT", help="where the first process listens")
    group.add_argument("--num_processes", type=int, metavar="N")
    group.add_argument("--process_id", type=int, metavar="I", help="of this process, from 0")
    return group


def names_others(args: argparse.Namespace) -> bool:
    """Says whether the flags name other processes."""
    return args.cluster or any(value is not None for value in _named(args))


def join_others(args: argparse.Namespace) -> None:
    """Joins the other processes of the run, if the flags say that there are any; before anything computes.

    Raises:
        UserError: the flags contradict each other, or the processes do not meet.
    """
    if args.cluster and any(value is not None for value in _named(args)):
        raise UserError("--cluster finds the other processes itself: leave out the flags that name them")
    if not names_others(args):
        return
    from mrt5_jax.parallel.processes import join_cluster, join_processes

    if args.cluster:
        join_cluster()
    else:
        join_processes(*_named(args))


def join_as_shard(args: argparse.Namespace) -> "Shard":
    """Does what `join_others` does, and returns this process's share of the work; all of it where there are no others.

    Raises:
        UserError: see `join_others`.
    """
    from mrt5_jax.inference.shards import WHOLE

    join_others(args)
    if not names_others(args):
        return WHOLE
    import jax

    from mrt5_jax.data.mixing import Shard

    return Shard(jax.process_index(), jax.process_count())


def _named(args: argparse.Namespace) -> tuple[str | None, int | None, int | None]:
    return args.coordinator_address, args.num_processes, args.process_id
