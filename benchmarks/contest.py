"""Contestants that take turns in one process, and how their times are reported."""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mrt5_jax.host_memory import reuse_host_memory

reuse_host_memory()  # as the command line does; before JAX and torch, and so for all contestants alike

import jax  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from benchmarks.machine import this_machine  # noqa: E402

CONSOLE = Console(width=None if Console().is_terminal else 130, highlight=False)


class Contestant(NamedTuple):
    run: Callable[[], Any]
    """Returns when the work is done."""
    multiply_adds: float
    """Of its matrix products."""


class Result(NamedTuple):
    name: str
    seconds: list[float]
    multiply_adds: float

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def gflops(self) -> float:
        """10^9 floating-point operations a second; a multiply-add is two."""
        return 2e-9 * self.multiply_adds / self.median


def contest_parser(description: str | None, rounds: int) -> argparse.ArgumentParser:
    """The flags that all contests have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds, help=f"turns of each contestant (default: {rounds})")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these contestants alone (default: all)")
    parser.add_argument("--json", metavar="FILE", help="writes the figures here as well")
    return parser


def compete(contestants: Mapping[str, Contestant], rounds: int, only: Sequence[str] | None = None) -> dict[str, Result]:
    """Every contestant once to warm up, then `rounds` turns of each, one after another.

    Raises:
        ValueError: one of `only` is no contestant.
    """
    if unknown := set(only or ()) - set(contestants):
        raise ValueError(f"--only: there is no contestant {', '.join(sorted(unknown))}; there are {list(contestants)}")
    contestants = {name: contestant for name, contestant in contestants.items() if only is None or name in only}
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, contestant in contestants.items():
            start = time.perf_counter()
            jax.block_until_ready(contestant.run())
            if number:
                seconds[name].append(time.perf_counter() - start)
            else:
                CONSOLE.print(f"[dim]{name} is warm[/dim]")
    return {name: Result(name, seconds[name], contestants[name].multiply_adds) for name in contestants}


def report(title: str, results: Mapping[str, Result], baseline: str, json_file: str | None) -> None:
    """A table and, if asked for, a file: each median with its range, as a ratio, beside the ideal.

    Args:
        baseline: the contestant that the others are compared with; where it did not run, the first that did.
        json_file: where to write the figures as well.
    """
    base = results.get(baseline) or next(iter(results.values()))
    table = Table("", "median s", "range", "GFLOP/s", "speed-up", "ideal", "of ideal", title=title)
    rows = []
    for name, result in results.items():
        speed_up = base.median / result.median
        ideal = base.multiply_adds / result.multiply_adds if result.multiply_adds else float("nan")
        rows.append(
            {
                "name": name,
                "seconds": result.seconds,
                "median": result.median,
                "gflops": result.gflops,
                "speed_up": speed_up,
                "ideal": ideal,
            }
        )
        table.add_row(
            name,
            f"{result.median:.3f}",
            f"{min(result.seconds):.3f} to {max(result.seconds):.3f}",
            f"{result.gflops:.0f}",
            f"{speed_up:.2f}",
            f"{ideal:.2f}",
            f"{speed_up / ideal:.0%}",
        )
    CONSOLE.print(table)
    CONSOLE.print(f"speed-ups over {base.name}; ideal: the ratio of their multiply-adds. {this_machine()}")
    if json_file:
        figures = {"title": title, "machine": this_machine()._asdict(), "results": rows}
        Path(json_file).write_text(json.dumps(figures, indent=2) + "\n")
        CONSOLE.print(f"figures: {json_file}")


def compare(results: Mapping[str, Result], ours: Sequence[str]) -> None:
    """How many times as fast as each of PyTorch's contestants ours are."""
    for torch in (name for name in results if name.startswith("PyTorch")):
        for name in (name for name in ours if name in results):
            CONSOLE.print(f"{name}: {results[torch].median / results[name].median:.2f} times as fast as {torch}")
