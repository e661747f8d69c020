"""`mrt5 report`: one page of everything in some MODEL_DIRs, its charts beside it as files."""

import argparse
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mrt5_jax.errors import UserError
from mrt5_jax.runs.files import explained, given_path, read_bytes

if TYPE_CHECKING:
    from mrt5_jax.report.reading import RunResults
    from mrt5_jax.report.texts import TextsOfModel

_BYTES_SHOWN = 1000
_EXAMPLE_TASKS = 4
_SECONDS_BETWEEN_PAGES = 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds flags for what to report, and where to."""
    parser.add_argument(
        "model_dirs",
        nargs="+",
        metavar="MODEL_DIR",
        help="of runs, with what `mrt5 eval` wrote; as NAME=MODEL_DIR, NAME is what the report calls the run",
    )
    parser.add_argument(
        "--out", type=given_path, default="report", metavar="DIR", help="folder for index.html and the charts"
    )
    parser.add_argument(
        "--texts",
        nargs="+",
        action="extend",
        type=given_path,
        metavar="FILE",
        help="show what the models delete of these files; each is named by its file's name, such as de.txt",
    )
    parser.add_argument(
        "--text_bytes", type=int, metavar="N", help=f"of each file, the first N bytes (default: {_BYTES_SHOWN:,})"
    )
    parser.add_argument(
        "--example_tasks",
        type=int,
        default=_EXAMPLE_TASKS,
        metavar="N",
        help=f"show the examples of the first N tasks one by one (default: {_EXAMPLE_TASKS})",
    )
    parser.add_argument(
        "--follow", action="store_true", help="while a run trains, write the page again whenever there are new numbers"
    )


def run(args: argparse.Namespace) -> int:
    """Writes the report; with --follow again and again, as long as any of the runs trains."""
    if args.follow and args.texts:
        raise UserError("--texts: goes not with --follow, under which no model is loaded: give it when the runs end")
    if args.text_bytes is not None and (args.text_bytes < 1 or not args.texts):
        wrong = "should be at least 1" if args.texts else "has no effect without --texts"
        raise UserError(f"--text_bytes={args.text_bytes}: {wrong}")
    if args.example_tasks < 0:
        raise UserError(f"--example_tasks={args.example_tasks}: should be at least 0")
    from mrt5_jax.report.drawing import check_drawing
    from mrt5_jax.report.writing import check_report_folder

    check_report_folder(args.out)
    check_drawing()
    texts = _read_texts(args.texts or [], args.text_bytes or _BYTES_SHOWN)
    if args.follow:
        return _follow(args)
    runs = _read_runs(args.model_dirs)
    _check_contents(runs)
    found, notes = _delete_of_texts(runs, texts)
    _write(args, runs, found, notes)
    return 0


def _follow(args: argparse.Namespace) -> int:
    """Writes a page whenever files have changed, and ends when nothing trains any more.

    A browser that shows the page reads it again by itself, but for the last one.
    """
    from mrt5_jax.report.reading import fingerprint, locate_run
    from mrt5_jax.runs.lock import lock_watch

    folders = [locate_run(source)[1] for source in args.model_dirs]
    watches = [lock_watch(folder) for folder in folders]
    shown, runs, goes_on = None, [], True
    while True:
        # In this order: what a run writes before it ends is read, and what changes while it is read is read next time.
        trains = [is_held() for is_held in watches]
        state = trains, [fingerprint(folder) for folder in folders]
        if state != shown:
            runs = _read_runs(args.model_dirs)
            _check_contents(one for one in runs if not one.metrics and not one.is_unfinished)
            goes_on = any(one.is_unfinished and held for one, held in zip(runs, trains, strict=True))
            _write(args, runs, [], [], _SECONDS_BETWEEN_PAGES if goes_on else None)
            shown = state
        if not goes_on:
            _say(_why_ended(runs))
            return 0
        time.sleep(_SECONDS_BETWEEN_PAGES)


def _why_ended(runs: "Sequence[RunResults]") -> str:
    """Says in one line why there is nothing more to follow."""
    from mrt5_jax.report.visible import visible_text

    stopped = [
        f"{visible_text(one.name)} stopped at step {one.last_step:,} of {one.num_steps:,}"
        + (", before its evaluation" if one.last_step >= (one.num_steps or 0) else "")
        for one in runs
        if one.is_unfinished
    ]
    if not stopped:
        return "nothing more to follow: training has ended"
    return f"nothing more to follow: {'; '.join(stopped)}, and nothing trains there now (`mrt5 train` goes on)"


def _check_contents(runs: "Iterable[RunResults]") -> None:
    for one in runs:
        if not one.records:
            raise UserError(f"{one.folder} has no records: `mrt5 eval --model_dir={one.folder}` writes them")


def _read_runs(sources: Sequence[str]) -> "list[RunResults]":
    """What lies in the MODEL_DIRs; all names differ."""
    from mrt5_jax.report.reading import read_run_results

    runs: list[RunResults] = []
    for source in sources:
        found = read_run_results(source)
        for other in runs:
            if other.name == found.name:
                both = f"{other.folder} and {found.folder} are both called {found.name}"
                raise UserError(f"{both}: name one, as in OTHER={found.folder}")
        runs.append(found)
    return runs


def _read_texts(paths: Sequence[str], size: int) -> dict[str, tuple[bytes, int]]:
    """Name -> the first bytes of a file, cut before a character that would not fit, and how many the file has."""
    from mrt5_jax.evaluation.inspection import first_bytes

    texts: dict[str, tuple[bytes, int]] = {}
    for path in paths:
        name = Path(path).stem
        if name in texts:
            raise UserError(f"--texts: two files are called {name}: give one another name")
        with explained(path, "--texts: "):
            data = read_bytes(path)
        if not data:
            raise UserError(f"--texts: {path} is empty")
        texts[name] = first_bytes(data, size), len(data)
    return texts


def _delete_of_texts(
    runs: "Sequence[RunResults]", texts: dict[str, tuple[bytes, int]]
) -> "tuple[list[TextsOfModel], list[str]]":
    """What each model with gate values deletes of the texts, and notes about what is not shown."""
    if not texts:
        return [], []
    from mrt5_jax.api.loading import load
    from mrt5_jax.report.texts import TextsOfModel
    from mrt5_jax.runs.model_dir import read_model_config
    from mrt5_jax.selection.selectors import deletes_hard_alone

    notes = [
        f"{name}: the first {len(data):,} of {whole:,} bytes"
        for name, (data, whole) in texts.items()
        if len(data) < whole
    ]
    found = []
    for one in runs:
        gate = read_model_config(one.folder).gate
        if gate is None or deletes_hard_alone(gate):
            lacks = "no gate: it deletes nothing" if gate is None else "no gate values to show"
            notes.append(f"{one.name} has {lacks} of the texts")
            continue
        model = load(one.folder)
        deletions = model.deletions([data for data, _ in texts.values()])
        found.append(TextsOfModel(one.name, model.step, dict(zip(texts, deletions, strict=True))))
    if not found:
        raise UserError("--texts: none of the models has gate values: leave it out")
    return found, notes


def _write(
    args: argparse.Namespace,
    runs: "Sequence[RunResults]",
    texts: "Sequence[TextsOfModel]",
    notes: Sequence[str],
    refresh_seconds: int | None = None,
) -> None:
    from mrt5_jax.cli.progress import watched
    from mrt5_jax.report.contents import report_sections
    from mrt5_jax.report.visible import visible_text
    from mrt5_jax.report.writing import write_report

    title = f"Report of {', '.join(visible_text(one.name) for one in runs)}"
    sections = report_sections(runs, texts, notes, args.example_tasks)
    page = write_report(
        args.out, title, sections, refresh_seconds, lambda charts: iter(watched(charts, "charts", len(charts)))
    )
    _say(f"written: {page}")


def _say(line: str) -> None:
    from rich.console import Console

    Console().print(line, soft_wrap=True, highlight=False, markup=False)
