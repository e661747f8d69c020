"""Contestants of this checkout against those of another one: `python -m benchmarks.checkouts --other=CHECKOUT SUITE`.

    python -m benchmarks.checkouts --other=../before training --only soft "saturated, 50%"

Each checkout has a process, in which the suite (forward, training or decoding) makes its contestants and runs each once
to warm up. Then the two take turns: every turn times one contestant in one checkout, then in the other. A checkout
with a .venv runs with its Python, another one with this command's.
"""

import argparse
import contextlib
import os
import runpy
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_READY = "ready"


class Side:
    """A checkout's process, which times a contestant when it is told its name."""

    def __init__(self, checkout: Path, suite: str, only: Sequence[str]) -> None:
        own = checkout / ".venv" / "bin" / "python"
        python = str(own if own.exists() else sys.executable)
        self._process = subprocess.Popen(
            [python, __file__, "--side", suite, "--only", *only],
            cwd=checkout, env=os.environ | {"PYTHONPATH": str(checkout)}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self._checkout = checkout

    def wait(self) -> None:
        """Waits until the contestants are warm."""
        self._answer(_READY)

    def seconds(self, name: str) -> float:
        """Runs the contestant once."""
        assert self._process.stdin is not None
        print(name, file=self._process.stdin, flush=True)
        return float(self._answer("seconds"))

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _answer(self, word: str) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:  # what the suite prints itself is passed over
            first, _, rest = line.strip().partition(" ")
            if first == word:
                return rest
        raise SystemExit(f"{self._checkout}: the suite ended with {self._process.wait()}")


def serve(suite: str, only: Sequence[str]) -> None:
    """Runs the suite with a contest in which standard input says whose turn it is."""
    sys.path.insert(0, os.getcwd())
    import benchmarks.contest

    def compete(contestants: Mapping[str, Any], rounds: int, only: Sequence[str]) -> Any:
        import jax

        for name in only:
            jax.block_until_ready(contestants[name].run())
        print(_READY, flush=True)
        for line in sys.stdin:
            start = time.perf_counter()
            jax.block_until_ready(contestants[line.strip()].run())
            print(f"seconds {time.perf_counter() - start}", flush=True)
        raise SystemExit

    benchmarks.contest.compete = compete
    sys.argv = [suite, "--only", *only]
    runpy.run_module(f"benchmarks.{suite}", run_name="__main__")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", nargs="?", choices=("forward", "training", "decoding"), help="whose contestants run")
    parser.add_argument("--other", metavar="CHECKOUT", help="compared with this one")
    parser.add_argument("--only", nargs="+", metavar="NAME", required=True, help="these contestants")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each (default: 7)")
    parser.add_argument("--side", metavar="SUITE", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        serve(args.side, args.only)
        return
    if not args.suite or not args.other:
        parser.error("name a suite and --other=CHECKOUT")
    checkouts = (Path(__file__).resolve().parent.parent, Path(args.other).resolve())
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in args.only}
    with contextlib.ExitStack() as opened:
        sides = [Side(checkout, args.suite, args.only) for checkout in checkouts]
        for side in sides:
            opened.callback(side.close)
        for side in sides:
            side.wait()
        for number in range(args.rounds):
            for name in args.only:
                order = sides if number % 2 else sides[::-1]  # neither always comes after the other
                times = {side: side.seconds(name) for side in order}
                seconds[name].append((times[sides[0]], times[sides[1]]))
    from benchmarks.machine import this_machine

    print(f"{args.suite}: median seconds (least to most) here and there, and how many times as fast this one is")
    for name, turns in seconds.items():
        here, there = ([turn[side] for turn in turns] for side in (0, 1))
        columns = "   ".join(
            f"{statistics.median(own):.3f} ({min(own):.3f} to {max(own):.3f})" for own in (here, there)
        )
        ratios = [there / here for here, there in turns]
        median = statistics.median(there) / statistics.median(here)
        print(f"{name:26} {columns}   {median:.3f} (turns {min(ratios):.3f} to {max(ratios):.3f})")
    print(this_machine())


if __name__ == "__main__":
    main()
