"""`mrt5 quickstart` as a new user runs it: what it learns, and where its time goes."""

import itertools
import json
import os
import sys
from pathlib import Path
from typing import Any

from benchmarks.recipes.pieces import Pieces, seconds_of

QUICKSTARTS = {f"quickstart_{seed}": seed for seed in (0, 101, 102, 103, 104)}
"""Names of runs, and their seeds."""
MILESTONES = {
    "first report": "mrt5/metrics.jsonl",
    "first picture": "examples.html",
    "ByT5 evaluated": "mrt5/eval/*-step*/timing.json",
    "table": "printed.txt",
}
"""What lies in the folder when so much is done."""


class Watch:
    """Notes after how many seconds each milestone was reached."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._file = folder, folder / "milestones.json"
        self.seconds: dict[str, float] = json.loads(self._file.read_text()) if self._file.is_file() else {}

    def __call__(self, seconds: float) -> None:
        """Looks which are there that were not before."""
        for name, pattern in MILESTONES.items():
            if name not in self.seconds and any(path.stat().st_size for path in self._folder.glob(pattern)):
                self.seconds[name] = round(seconds, 1)
                self._file.write_text(json.dumps(self.seconds))


def run_quickstart(name: str, folder: Path, pieces: Pieces) -> bool:
    """Runs a quickstart in a folder; returns whether it has come to its end.

    Nothing is compiled yet: its cache is in the folder too.
    """
    command = [sys.executable, "-m", "mrt5_jax", "quickstart", f"--output_dir={folder}", f"--seed={QUICKSTARTS[name]}"]
    given = {key: value for key, value in os.environ.items() if key != "JAX_COMPILATION_CACHE_DIR"}
    environment = given | {"MRT5_CACHE_DIR": str(folder.absolute() / "cache")}
    printed, log = folder / "printed.txt", folder / "pieces.txt"
    return pieces.run(name, command, log, output=printed, environment=environment, watch=Watch(folder))


def quickstart_result(folder: Path) -> dict[str, Any]:
    """Returns what a finished quickstart has printed and taken.

    `seconds` until each milestone; `training`: of the steps after the first report; `evaluating`: of the run's own
    evaluations; `compiling`: of several threads, side by side.
    """
    timing = [json.loads(line) for line in (folder / "mrt5/timing.jsonl").read_text(encoding="utf-8").splitlines()]
    laps = [(line["step"], line["seconds_per_step"]) for line in timing if "seconds_per_step" in line]
    seconds = seconds_of(folder / "pieces.txt")
    return {
        "minutes": round(sum(seconds) / 60, 2),
        "pieces": len(seconds),
        "seconds": Watch(folder).seconds,
        "training": round(sum((step - before) * each for (before, _), (step, each) in itertools.pairwise(laps)), 1),
        "compiling": round(sum(line.get("compile_seconds", 0.0) for line in timing), 1),
        "evaluating": round(sum(line.get("evaluation_seconds", 0.0) for line in timing), 1),
        "printed": (folder / "printed.txt").read_text(encoding="utf-8").splitlines(),
    }
