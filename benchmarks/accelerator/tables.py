"""The figures as tables and as a file."""

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.accelerator.correctness import Check
from benchmarks.accelerator.race import Absence, Finished
from benchmarks.contest import CONSOLE


def print_checks(checks: Sequence[Check]) -> None:
    table = Table("", "activations", "difference", "tolerance", "", title="against float64 on the host's CPU")
    for one in checks:
        verdict = "ok" if one.passed else "WRONG"
        table.add_row(one.what, one.dtype, f"{one.difference:.1e}", f"{one.tolerance:.0e}", verdict)
    CONSOLE.print(table)


def figures(finished: Sequence[Finished], peak: float | None) -> list[dict[str, Any]]:
    """What the file says of each contestant.

    Args:
        peak: multiply-adds a second that the device can do at most; None if that is not known.
    """
    firsts = {one.contestant.section: one.result for one in reversed(finished)}
    return [
        {
            "name": one.contestant.name,
            "section": one.contestant.section,
            "seconds": one.result.seconds,
            "median": one.result.median,
            "bytes_per_second": one.contestant.num_bytes / one.result.median,
            "speed_up": firsts[one.contestant.section].median / one.result.median,
            "multiply_adds": one.result.multiply_adds,
            "share_of_peak": one.result.multiply_adds / one.result.median / peak if peak else None,
            "compile_seconds": one.compile_seconds,
            "program_bytes": one.memory,
            "device_peak_bytes": one.device_peak,
        }
        for one in finished
    ]


def print_figures(rows: Sequence[dict[str, Any]]) -> None:
    """A table for each section, its first contestant being the one that speed-ups are over."""
    for section in dict.fromkeys(row["section"] for row in rows):
        table = Table("", "median ms", "range", "bytes/s", "speed-up", "of peak", "GiB", "compiled in s", title=section)
        for row in rows:
            if row["section"] != section:
                continue
            low, high = min(row["seconds"]), max(row["seconds"])
            table.add_row(
                row["name"].removeprefix(f"{section}, "),
                f"{1e3 * row['median']:.1f}",
                f"{1e3 * low:.1f} to {1e3 * high:.1f}",
                f"{row['bytes_per_second']:,.0f}",
                f"{row['speed_up']:.2f}",
                "-" if row["share_of_peak"] is None else f"{row['share_of_peak']:.1%}",
                _memory(row),
                "-" if row["compile_seconds"] is None else f"{row['compile_seconds']:.1f}",
            )
        CONSOLE.print(table)


def _memory(row: dict[str, Any]) -> str:
    if row["device_peak_bytes"] is not None:
        return f"{row['device_peak_bytes'] / 2**30:.2f}"
    return "-" if row["program_bytes"] is None else f"{row['program_bytes'] / 2**30:.2f} p"


def print_absences(absences: Sequence[Absence]) -> None:
    """One line for each reason."""
    for reason in dict.fromkeys(one.reason for one in absences):
        names = "; ".join(one.name for one in absences if one.reason == reason)
        CONSOLE.print(f"left out: {names}: {reason}", markup=False)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(content, indent=2, default=dataclasses.asdict) + "\n", encoding="utf-8")
    partial.replace(path)
