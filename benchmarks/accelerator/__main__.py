"""One accelerator in at most eight minutes: `python -m benchmarks.accelerator`; docs/ACCELERATORS.md explains it.

First forward passes and a training step of a small model against float64 on the host's CPU. Then ByT5-small with a gate
before layer 3, inputs of 1024 bytes, targets of 189, activations in bfloat16, random weights, on one device: training
steps, forward passes, decoding, each of this project and of transformers' PyTorch where there is one for the device.
Contestants take turns. Where time runs out, those at the end are left out: first PyTorch's decoding, then ours, then
PyTorch's forward pass, ours, its training step, and ours with capacity, host dispatch, soft deletion.
"""

import argparse
import contextlib
import gc
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.contest import CONSOLE  # first: it sets the allocator

# isort: split
# PyTorch needs memory of the same device; set before JAX starts it.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax

from benchmarks.accelerator import tables
from benchmarks.accelerator.correctness import Check, check
from benchmarks.accelerator.ours import SharedModel, our_contestants
from benchmarks.accelerator.race import Absence, Clock, OutOfMemoryError, Race, one_line, peak_bytes, race
from benchmarks.accelerator.sizes import ATTENTIONS, BYT5_SMALL, SMALL, Sizes, with_attention
from benchmarks.accelerator.theirs import TorchProcess, their_contestants
from benchmarks.machine import this_machine
from mrt5_jax.parallel.peaks import peak_multiply_adds

_FAST_COMPILATION = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
"""For a try-out, which compiles for minutes and computes for seconds."""

_BYTES_FOR_A_ROW = 2**31
"""Of memory on the device, for the first try; a row of ByT5-small takes one to two GiB in training."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints and writes; returns 1 where the device computed something wrong or nothing was measured."""
    args = _parse(arguments)
    if args.small:
        os.environ["XLA_FLAGS"] = f"{_FAST_COMPILATION} {os.environ.get('XLA_FLAGS', '')}"  # JAX has not started yet
    clock = Clock(args.budget)
    device = find_device()
    sizes = with_attention(SMALL if args.small or device.platform == "cpu" else BYT5_SMALL, args.attention)
    sizes = sizes._replace(rows=first_rows(sizes, device))
    CONSOLE.print(f"{this_machine()}; attention: {args.attention}; one device of {jax.device_count()}")
    content: dict[str, Any] = {"machine": this_machine()._asdict(), "attention": args.attention, "budget": args.budget}
    with contextlib.closing(TorchProcess(sizes, device.platform, clock)) as torch_process:
        checks, absences = run_checks(args.attention, device)
        content["checks"] = [{**one._asdict(), "passed": one.passed} for one in checks]
        _write(args.json, content)  # what is known when something ends this process
        sizes, results = run_race(sizes, device, torch_process, clock, args.rounds)
        content["pytorch"] = torch_process.description
    rows = tables.figures(results.finished, peak_multiply_adds(device))
    tables.print_figures(rows)
    _explain(device, sizes, torch_process.description)
    absences += results.absences
    tables.print_absences(absences)
    content |= {
        "sizes": sizes._asdict(),
        "results": rows,
        "left_out": [one._asdict() for one in absences],
        "device_peak_bytes": peak_bytes(device),
        "seconds": clock.passed,
    }
    _write(args.json, content)
    if wrong := sum(not one.passed for one in checks):
        CONSOLE.print(f"WRONG: {wrong} of {len(checks)} differences are above their tolerance")
    return 0 if checks and rows and not wrong else 1


def run_checks(attention: str, device: Any) -> tuple[list[Check], list[Absence]]:
    """The differences to float64; where the device fails at that, what it says."""
    checks: list[Check] = []
    absences: list[Absence] = []
    try:
        checks.extend(check(attention, device, jax.devices("cpu")[0]))
    except Exception as error:
        absences.append(Absence("comparison with float64", one_line(error)))
    if checks:
        tables.print_checks(checks)
    return checks, absences


def run_race(sizes: Sizes, device: Any, torch_process: TorchProcess, clock: Clock, rounds: int) -> tuple[Sizes, Race]:
    """The race with as many rows as fit, and the sizes that it ran with."""
    while True:
        contestants = our_contestants(SharedModel(sizes, device)) + their_contestants(torch_process, sizes)
        sections = list(dict.fromkeys(one.section for one in contestants))
        contestants.sort(key=lambda one: sections.index(one.section))
        try:
            return sizes, race(contestants, clock, rounds, device)
        except OutOfMemoryError as error:
            too_large = str(error)
        del contestants  # and with them what lies on the device
        gc.collect()
        if sizes.rows == 1:
            return sizes, Race([], [Absence("everything", f"{too_large} does not fit with a single row")])
        CONSOLE.print(f"{too_large} does not fit with {sizes.rows} rows: once more with {sizes.rows // 2}")
        sizes = sizes._replace(rows=sizes.rows // 2)


def find_device() -> Any:
    """The first device of JAX; where JAX finds no accelerator, a line says so.

    The host's CPU is wanted as well, whatever the environment says.
    """
    wanted = os.environ.get("JAX_PLATFORMS", "")
    if wanted and "cpu" not in wanted.split(","):
        jax.config.update("jax_platforms", f"{wanted},cpu")
    try:
        device = jax.devices()[0]
    except RuntimeError as error:
        CONSOLE.print(f"JAX cannot start {wanted}: {str(error).splitlines()[0]}", markup=False)
        jax.config.update("jax_platforms", "cpu")
        device = jax.devices()[0]
    if device.platform == "cpu":
        CONSOLE.print("no accelerator: small sizes on the CPU, whose figures say nothing of an accelerator")
    return device


def first_rows(sizes: Sizes, device: Any) -> int:
    """A power of two that memory should allow, at most `sizes.rows`."""
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if limit is None:
        return sizes.rows
    return min(sizes.rows, 1 << max(0, (limit // _BYTES_FOR_A_ROW).bit_length() - 1))


def _explain(device: Any, sizes: Sizes, pytorch: str | None) -> None:
    lengths = f"{sizes.rows} x {sizes.input_length} -> {sizes.target_length}"
    peak = peak_bytes(device)
    on_device = "" if peak is None else f" (in the end {peak / 2**30:.2f})"
    if pytorch:
        CONSOLE.print(f"PyTorch: {pytorch}", markup=False)
    CONSOLE.print(
        f"{lengths}, {sizes.model.dtype}. GiB: the device's peak{on_device} where this contestant raised it; p: what "
        "its program needs, or PyTorch held. Speed-ups are over the first line. bytes/s: read, or in decoding written."
    )


def _write(path: Path | None, content: dict[str, Any]) -> None:
    if path is not None:
        tables.write_json(path, content)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accelerator",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--attention", choices=tuple(ATTENTIONS), default="xla", help="implementation (default: xla)")
    parser.add_argument("--budget", type=float, default=480, metavar="SECONDS", help="for everything (default: 480)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contestant (default: 5)")
    parser.add_argument("--small", action="store_true", help="small sizes, compiled in haste, for a try-out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="writes the figures here as well")
    args = parser.parse_args(arguments)
    if args.budget <= 0 or args.rounds < 1:
        parser.error("--budget and --rounds must be positive")
    if args.json is not None and not args.json.parent.is_dir():
        parser.error(f"--json={args.json}: the folder {args.json.parent} is not there")
    return args


if __name__ == "__main__":
    raise SystemExit(main())
